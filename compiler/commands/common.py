"""What the commands share: options, opening models, progress on the terminal, files that appear whole or not at all."""

from __future__ import annotations

import functools
import json
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import click
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ...errors import InputError, OnnxImportError
from ...models.resolve import default_shapes, resolve
from ...runtime.archive import is_module
from ...runtime.files import write_whole
from ..held_arrays import gather
from ..inputs import InputSpec, complete, parse_shapes, read_arrays, specs_of_both, specs_of_onnx, workable_shapes
from ..options import Options
from ..precision.options import Precision
from .console import err
from .finite import FiniteRange
from .output_file import require_kept
from .precision_options import precision_options

F = TypeVar("F", bound=Callable[..., Any])
Tell = Callable[[str, int, int], None]

shape_option = click.option(
    "--shape", "shapes", multiple=True, metavar="NAME=SIZES", help="Sizes of an input, such as x=1,3,224,224. Repeatable."
)


def compile_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--target, -O, --exact, --dump and those about precision, as one value `knobs`; and --shape."""

    @shape_option
    @click.option("--target", default="cpu", show_default=True, metavar="TARGET",
                  help="cpu, cpu:NAME such as cpu:x86-64-v3, cuda, or cuda:ARCH such as cuda:sm_90a.")  # fmt: skip
    @click.option("-O", "opt_level", type=click.IntRange(0, 3), default=3, show_default=True, help="Optimization level.")
    @click.option("--exact", is_flag=True, help="No minimal filtering, which rounds more; on GPUs float32 sums between 16-bit products.")
    @precision_options
    @click.option("--dump", type=click.Path(file_okay=False), help="Write every stage of the compiler to this folder.")
    @functools.wraps(command)
    def wrapped(target: str, opt_level: int, exact: bool, precision: Precision, dump: str | None, **rest: Any) -> Any:
        knobs = Options(target, opt_level=opt_level, exact=exact, precision=precision, dump=dump)
        return command(knobs=knobs, **rest)

    return wrapped


@contextmanager
def native_work() -> Iterator[None]:
    """While native code computes, Ctrl-C ends the process, as it does with a program in C: Python would see it when all is over."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


threads_option = click.option("--threads", type=click.IntRange(1, 256), help="Threads of a run (default: the usable CPUs).")


def tolerance_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--rtol and --atol, as one value `tolerance`."""

    @click.option("--rtol", type=FiniteRange(0), help="Element-wise relative tolerance, instead of relative L2.")
    @click.option("--atol", type=FiniteRange(0), help="Element-wise absolute tolerance, instead of relative L2.")
    @functools.wraps(command)
    def wrapped(rtol: float | None, atol: float | None, **rest: Any) -> Any:
        from ..compare import Tolerance

        return command(tolerance=Tolerance(rtol, atol), **rest)

    return wrapped


@dataclass(frozen=True)
class Given:
    """Inputs as the command line names them: NAME=FILE.npy pairs, an .npz archive, and the seed of those generated."""

    pairs: tuple[str, ...]
    archive: str | None
    seed: int


def input_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--input, --inputs and --seed, as one value `given`."""

    @click.option("--input", "pairs", multiple=True, metavar="NAME=FILE.npy", help="One input array, whatever --inputs has. Repeatable.")
    @click.option(
        "--inputs",
        "archive",
        metavar="FILE.npz",
        help="Input arrays by name, those of a sequence s as s[0], s[1] …; missing ones are generated.",
    )
    @click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of generated inputs.")
    @functools.wraps(command)
    def wrapped(pairs: tuple[str, ...], archive: str | None, seed: int, **rest: Any) -> Any:
        return command(given=Given(pairs, archive, seed), **rest)

    return wrapped


@dataclass(frozen=True)
class Model:
    """A model named on the command line. `asked` are the sizes of --shape; `shapes` has also those its recipe lists."""

    name: str
    path: Path
    asked: dict[str, tuple[int, ...]]
    shapes: dict[str, tuple[int, ...]]

    @property
    def is_module(self) -> bool:
        """A compiled `.mlc` file rather than ONNX."""
        if self.path.suffix == ".mlc":
            return True
        with opened(self.path) as f:
            return is_module(f.read(64))

    def require_onnx(self) -> None:
        """Raises InputError for a compiled module."""
        if self.is_module:
            raise InputError(
                f"{self.name} is a compiled module", expected="an ONNX model", remedy="`mlc run` and `mlc bench` take modules."
            )

    def require_no_options(self, knobs: Options) -> None:
        """Raises InputError for options of compilation beside a compiled module."""
        if knobs != Options():
            raise InputError(f"options of compilation, but {self.name} is a compiled module", expected="an ONNX model, or no such options")

    def onnx_specs(self) -> list[InputSpec]:
        """The model's inputs. Call after compiling, whose errors say more about a broken file."""
        import onnx

        with opened(self.path) as f:
            data = f.read()
        try:
            return specs_of_onnx(onnx.load_from_string(data))
        except Exception as e:  # protobuf's own exceptions differ by its version
            if isinstance(e, InputError):
                raise
            raise OnnxImportError(f"is not an ONNX model: {e}", loc=self.name) from e

    def feeds(self, specs: Sequence[InputSpec], given: Given, module: Any = None) -> dict[str, Any]:
        """Values of all inputs: those given, and generated ones, at sizes at which the module runs, if there is one. Raises InputError."""
        arrays = gather(read_arrays(given.pairs, given.archive), [s.name for s in specs if s.held])
        for name, shape in self.asked.items():
            if isinstance(array := arrays.get(name), np.ndarray) and array.shape != shape:
                asked = f"--shape {name}={','.join(map(str, shape))}"
                raise InputError(f"input {name!r} is given as {list(array.shape)}", expected=f"what {asked} says", loc="--shape")
        if module is None:
            return complete(specs, arrays, self.shapes, given.seed)
        overridden = [InputSpec(t.name, np.dtype(t.dtype), t.shape) for t in module.overridable if t.name in arrays]
        specs = [*specs_of_both(specs, module), *overridden]
        plain = {s.name: arrays[s.name] for s in specs if s.name in arrays and not s.held}
        return complete(specs, arrays, workable_shapes(module, specs, {**self.shapes, **static_shapes(plain)}), given.seed)


def find(name: str, shapes: Sequence[str]) -> Model:
    """The model of a command line argument, "-" for standard input. Raises InputError for none, or one that an option writes over."""
    asked = parse_shapes(shapes)
    path = Path("/dev/stdin") if name == "-" else resolve(name)
    if name == "-" or path.is_fifo():
        path = _kept(path)
    require_kept(path)
    return Model(name, path, asked, {**default_shapes(name), **asked})


def _kept(pipe: Path) -> Path:
    """What a pipe gives, as a file until the command ends: a model is read more than once."""
    path = Path(click.get_current_context().with_resource(tempfile.TemporaryDirectory()), "stdin.onnx")
    with opened(pipe) as given, path.open("wb") as f:
        shutil.copyfileobj(given, f)
    return path


def static_shapes(feeds: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Of those that are tensors."""
    return {name: array.shape for name, array in feeds.items() if isinstance(array, np.ndarray)}


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A file to read. Raises InputError."""
    try:
        with path.open("rb") as f:
            yield f
    except OSError as e:
        raise InputError(f"cannot be read: {e.strerror}", loc=str(path)) from e


@contextmanager
def progress() -> Iterator[Tell]:
    """A function `tell(stage, done, total)` that draws on the terminal, and nowhere else."""
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )
    with bar:
        task = bar.add_task("starting", total=None)

        def tell(stage: str, done: int, total: int) -> None:
            # A stage that counts one thing has no bar to fill: it pulses.
            bar.update(task, description=stage, completed=done, total=total if total > 1 else None)

        yield tell


def write_json(target: str, value: Any) -> None:
    """Writes JSON to a file, or to standard output for "-"."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    if target == "-":
        click.echo(text, nl=False)
    else:
        write_whole(Path(target), lambda f: f.write(text.encode()))


def bytes_text(count: float) -> str:
    """1536 → 1.5 KiB."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def count_text(count: float) -> str:
    """3_100_000 → 3.1 M."""
    for unit in ("", " k", " M", " G"):
        if count < 1000:
            return f"{count:.0f}{unit}" if not unit else f"{count:.1f}{unit}"
        count /= 1000
    return f"{count:.2f} T"


def knobs_json(knobs: Options) -> dict[str, Any]:
    """What a report says about how the model was compiled."""
    return {"target": knobs.target, "opt_level": knobs.opt_level, "exact": knobs.exact, "precision": knobs.precision.default}
