"""A compiled model, ready to run."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from ..errors import InputError
from . import artifact
from .address import address
from .arguments import as_array, complain, fit_inputs, flag, from_one, given_outputs, shape_text, symbol_sizes
from .artifact import Parts
from .binding import Binding, Execution, Program, Sizes
from .binding_cache import BindingCache
from .handles import Handles, decode_output, encode_input
from .manifest import Manifest
from .native import check_target
from .records import StepInfo, TensorInfo
from .recycled import Recycled
from .threads import default_threads
from .words import UnequalError

_ndarray, _empty = np.ndarray, np.empty


def prepared(
    source: str | os.PathLike[str] | bytes, make: Callable[..., Module], threads: int | None = None, *, verify: bool = True
) -> Module:
    """What `make(parts, threads=threads)` makes of a `.mlc` file or its bytes, with its code loaded. Raises as `load` does."""
    with artifact.opened(source, verify=flag("verify", verify)) as parts:
        module = make(parts, threads=threads)
        module.prepare()
    return module


def closed() -> InputError:
    """What using a closed module raises."""
    return InputError("the module is closed", expected="one in use", remedy="Load it again.")


class Module:
    """Runs a compiled model; may be used by several threads at once. A `with` block closes it at its end.

    Args:
        parts: from `mlc.compile` or a file.
        threads: how many threads a run may use. By default the least of the usable CPUs, the cgroup quota and
            OMP_NUM_THREADS. Results do not depend on it.
    """

    def __init__(self, parts: Parts, *, threads: int | None = None) -> None:
        manifest = parts.manifest
        self._manifest, self._asked = manifest, threads
        self._held_parts: Parts | None = parts  # none of a closed one
        self._threads = min(default_threads() if threads is None else from_one("threads", threads), 256)
        self._names = [t.name for t in self.inputs]
        self._out_names = list(enumerate(t.name for t in self.outputs))
        self._symbols = [s.name for s in manifest.symbols]
        self._given_held = any(t.kind != "tensor" for t in manifest.inputs)
        self._held = [(i, t) for i, t in enumerate(manifest.outputs) if t.kind != "tensor"]
        yields = any(m.handlers for m in manifest.programs)
        self._plain = not yields and not self._given_held  # one native call is all of a run, but for what outputs are shown as
        self._lock = threading.Lock()
        self._outputs = Recycled()
        self._bindings: BindingCache | None = None
        self._last: Binding | None = None
        self._overriding: Module | None = None  # made by the first run that overrides an initializer

    def prepare(self) -> None:
        """Load the code; the first run does it otherwise, so that a module for another machine can be saved here.

        Raises TargetError when this machine lacks what the code needs.
        """
        with self._lock:
            if self._bindings is not None:
                return
            check_target(self._manifest.raw.get("target"))
            bindings = self._bindings = BindingCache(Program.load(self.parts, self._threads))
        if not self._symbols:
            bindings.at(())

    def close(self) -> None:
        """Give back code, weights and memory; runs that other threads are in end first. Outputs stay what they are. Without it, that
        happens when nothing refers to the module any more.

        What needs them raises InputError afterwards. Threads are the process's, and serve its other modules.
        """
        with self._lock:
            self._held_parts = self._bindings = self._last = None
            self._outputs = Recycled()
            if self._overriding is not None:
                self._overriding.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return self._manifest.inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        return self._manifest.outputs

    @property
    def overridable(self) -> tuple[TensorInfo, ...]:
        """Initializers that `run` takes other values of, beside the inputs: see `overridable` of `mlc.compile`."""
        m = self._manifest.overridden
        return () if m is None else tuple(t for t in m.inputs if t.name in m.defaults)

    @property
    def metadata(self) -> Mapping[str, str]:
        """The ONNX model's `metadata_props`: what its author wrote beside it (names of classes, strides …)."""
        return MappingProxyType(self._manifest.metadata)

    @property
    def threads(self) -> int:
        """How many threads a run may use, at most 256."""
        return self._threads

    @property
    def manifest(self) -> Manifest:
        return self._manifest

    @property
    def parts(self) -> Parts:
        """What the module's file holds. Raises InputError when the module is closed."""
        parts = self._held_parts
        if parts is None:
            raise closed()
        return parts

    @property
    def code_bytes(self) -> int:
        """The size of the object code."""
        return len(self.parts.code)

    def run(self, feeds: Mapping[str, Any], out: Mapping[str, np.ndarray] | None = None) -> dict[str, Any]:
        """Outputs by name, in the model's order.

        Args:
            feeds: arrays by name: NumPy's, or what `np.asarray` takes (tensors of torch on the CPU are not copied). Beside the inputs,
                initializers that are `overridable` may have one.
            out: arrays that outputs are to be written to, by name; new ones for the others. Memory of inputs is none.

        Raises InputError when an input or an array of `out` does not fit.
        """
        # Loops here and below, as comprehensions, `zip` and `strict` take a tenth of a microsecond each.
        arrays, results = [], {}
        try:
            for name in self._names:
                arrays.append(feeds[name])
            fits = len(feeds) == len(arrays)
        except (KeyError, TypeError, IndexError):
            fits = False
        if not fits:
            module, feeds = self._overridden(feeds)
            return module.run(feeds, out)
        outputs = self._execute(arrays, out)
        for i, name in self._out_names:
            results[name] = outputs[i]
        return results

    def __call__(self, /, *arrays: Any, **named: Any) -> Any:
        """Inputs by position, those behind by name; one array, or a tuple when the model has several outputs."""
        if named:
            feeds = self._by_name(arrays, named)
            if feeds.keys() != set(self._names):
                module, feeds = self._overridden(feeds)
                return module(**feeds)
            arrays = tuple([feeds[name] for name in self._names])
        elif len(arrays) != len(self._names):
            raise InputError(f"{len(arrays)} arrays", expected=f"{len(self._names)}: {', '.join(self._names)}")
        outputs = self._execute([*arrays])
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _by_name(self, arrays: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs by name, of those given by position and by name. Raises InputError."""
        first = dict(zip(self._names, arrays, strict=False))
        if twice := first.keys() & named.keys():
            raise InputError(f"input {min(twice)} by position and by name", expected="each once")
        feeds = {**first, **named}
        if len(arrays) > len(first):
            complain(feeds, self._names)
        return feeds

    def _overridden(self, feeds: Mapping[str, Any]) -> tuple[Module, dict[str, Any]]:
        """What runs where initializers have other values, and all that it reads. Raises InputError for feeds that are not of that kind."""
        m = self._manifest.overridden
        names = set(self._names)
        if m is None or not isinstance(feeds, Mapping) or not names < feeds.keys() or not feeds.keys() - names <= m.defaults.keys():
            complain(feeds, self._names, self._manifest.listed)
        parts = self.parts
        module = self._overriding
        if module is None:
            module = self._beside(parts._replace(manifest=m))
            with self._lock:
                module = self._overriding = self._overriding or module
        given = dict(feeds)
        for t in m.inputs:
            if t.name not in given:
                parts.ready()
                at, shape = m.defaults[t.name]
                given[t.name] = np.ndarray(shape, t.dtype, parts.weights, at)
        return module, given

    def _beside(self, parts: Parts) -> Module:
        """A module of the same kind, of parts that share code and weights with this one's."""
        return Module(parts, threads=self._asked)

    def __repr__(self) -> str:
        ins, outs = (", ".join(f"{t.name}: {t.dtype}{shape_text(t.shape)}" for t in of) for of in (self.inputs, self.outputs))
        return f"<{type(self).__name__} ({ins}) -> ({outs}){' closed' * (self._held_parts is None)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are made of the bytes of the module's file."""
        return prepared, (self.to_bytes(), type(self), self._asked)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a `.mlc` file, atomically. Raises ArtifactError."""
        artifact.save(self.parts, path)

    def to_bytes(self) -> bytes:
        """What `save` writes."""
        return artifact.to_bytes(self.parts)

    def binding(self, **symbols: int) -> Binding:
        """Sizes, arena and layout at these symbol values, 1 for those not given (for inspection: the code may be for another machine,
        and needs no device). Raises InputError."""
        manifest = self.parts.manifest
        return BindingCache(Sizes(manifest)).at(symbol_sizes(manifest.symbols, symbols))

    def profile(self, feeds: Mapping[str, np.ndarray], runs: int = 1) -> dict[int, float]:
        """Seconds per call of the program that serves these inputs, by word (see `steps`), mean over `runs` (1 or more) after one to
        warm up. Raises InputError."""
        runs = from_one("runs", runs)
        self.run(feeds)
        arrays, binding = self._fit(self._ahead([feeds[name] for name in self._names]))
        binding, times = self._opened().by_any(binding, lambda b: (b, self._timed(b, arrays, runs)))
        manifest = binding.program.manifest
        first = self._first_word(manifest)
        return {first + s.word: int(times[s.word]) * 1e-9 / runs for s in manifest.steps}

    @property
    def steps(self) -> tuple[StepInfo, ...]:
        """What the calls of the program are, by word. Behind them those of the others, for sizes that it does not serve; the words of
        each go on where those of the one before end."""
        return tuple(s._replace(word=self._first_word(m) + s.word) for m in self._manifest.programs for s in m.steps)

    def _first_word(self, manifest: Manifest) -> int:
        """Of one of the programs, where they are counted together."""
        return sum(len(m.program) for m in self._manifest.programs[: self._manifest.number(manifest)])

    def _ahead(self, arrays: Sequence[Any]) -> Sequence[Any]:
        """What the program reads where the module is given these."""
        return arrays

    def _timed(self, binding: Binding, arrays: list[Any], runs: int) -> np.ndarray:
        """Nanoseconds by word, of all runs together."""
        times = np.zeros(len(binding.program.manifest.program) + 1, np.int64)
        execution = binding.acquire()
        execution.struct.times = address(times)
        try:
            for _ in range(runs):
                self._launch(binding, execution, arrays)
        finally:
            execution.struct.times = 0
            binding.release(execution)
        return times

    def _execute(self, arrays: list[Any], out: Mapping[str, np.ndarray] | None = None) -> list[Any]:
        binding = self._last
        if binding is None or not binding.fits(arrays):
            arrays, binding = self._fit(arrays)
        try:
            return self._run_bound(binding, arrays, out)
        except UnequalError as unequal:  # as `by_any` does, without its cost
            return self._opened().by_others(binding, unequal, lambda b: self._run_bound(b, arrays, out))

    def _run_bound(self, binding: Binding, arrays: list[Any], out: Mapping[str, np.ndarray] | None) -> list[Any]:
        execution = binding.acquire()
        try:
            return self._launch(binding, execution, arrays, out)
        finally:
            binding.release(execution)

    def _launch(self, binding: Binding, execution: Any, arrays: list[Any], out: Mapping[str, np.ndarray] | None = None) -> list[Any]:
        given = given_outputs(out, self._manifest.outputs, binding.out_shapes, arrays) if out else None
        try:
            outputs: list[Any] = []
            if given is None:  # the usual case, which is to cost nothing more
                for shape, dtype, size in binding.results:
                    if shape is None:
                        outputs.append(None)
                    else:
                        outputs.append(self._outputs.array(shape, dtype, size) if size else _empty(shape, dtype))
            else:
                outputs = [given[i] if i in given else self._new_output(*result) for i, result in enumerate(binding.results)]
        except MemoryError:
            shapes = [list(s) for s in binding.out_shapes if s is not None]
            raise InputError(f"outputs of {shapes}", expected="what fits into memory") from None
        if not self._plain:
            return self._launch_yielding(binding, execution, arrays, outputs)
        if code := execution.start(arrays, outputs):
            from .resume import stopped

            word, execution.struct.resume = execution.struct.resume, 0
            raise stopped(binding.program.manifest, code, word, execution.bufs, execution.dims)
        if self._held:
            program = binding.program
            self._show(outputs, Handles(program.strings, program.string_handles))
        return outputs

    def _show(self, outputs: list[Any], handles: Handles) -> None:
        """Outputs that are no tensors, as users see them."""
        for i, info in self._held:
            outputs[i] = decode_output(handles, outputs[i], info)

    def _new_output(self, shape: tuple[int, ...] | None, dtype: np.dtype, size: int) -> np.ndarray | None:
        """As `Binding.results` says: None where the size is not known yet."""
        if shape is None:
            return None
        return self._outputs.array(shape, dtype, size) if size else _empty(shape, dtype)

    def _launch_yielding(self, binding: Binding, execution: Any, arrays: list[Any], outputs: list[Any]) -> list[Any]:
        """A program that asks for sizes or host functions, or whose inputs or outputs are not plain tensors."""
        program = binding.program
        assert isinstance(program, Program)
        handles = Handles(program.strings, program.string_handles)
        if self._given_held:
            arrays = [encode_input(handles, a, t) for a, t in zip(arrays, self._manifest.inputs, strict=True)]
        tables = execution.tables
        if tables is not None:
            tables.start()
        execution.struct.resume = 0
        self._step(program, binding, execution, arrays, outputs, handles)
        for position, slots, dtype, room in execution.rooms:
            if outputs[position] is None:
                outputs[position] = _ndarray([tables.slots[s] for s in slots], dtype, room).copy()
        if self._held:
            self._show(outputs, handles)
        return outputs

    def _step(
        self, program: Program, binding: Binding, execution: Execution, arrays: list[Any], outputs: list[Any], handles: Handles
    ) -> None:
        """Run a program that may stop between native calls."""
        if code := execution.start(arrays, outputs):
            from .resume import Run

            Run(program, binding, execution, outputs, handles).run(code)

    def _fit(self, arrays: Sequence[Any]) -> tuple[list[np.ndarray], Binding]:
        """Arrays as the native code needs them, and the binding of their sizes. Raises InputError."""
        manifest = self._manifest
        dims = [spec["shape"] for spec in manifest.raw["inputs"]]
        out, sizes = fit_inputs(arrays, manifest.inputs, dims, manifest.symbols, self._array)
        binding = self._bind(sizes)
        for array, shape, info in zip(out, binding.in_shapes, manifest.inputs, strict=True):
            if array.shape != shape:  # a formula of symbols bound elsewhere
                raise InputError(f"shape {list(array.shape)}", expected=str(list(shape)), loc=f"input {info.name}")
        return out, binding

    def _array(self, value: Any, info: TensorInfo) -> Any:
        """An input as the program reads it: contiguous, of the right type and rank. Raises InputError."""
        return as_array(value, info)

    def _bind(self, sizes: Sequence[int]) -> Binding:
        bindings = self._opened()
        self.parts.ready()
        binding = bindings.at(sizes)
        with self._lock:
            if self._bindings is bindings:  # it was not closed meanwhile
                self._last = binding
        return binding

    def _opened(self) -> BindingCache:
        """The module's bindings. Raises InputError when it is closed."""
        if self._bindings is None:
            self.prepare()
        bindings = self._bindings
        if bindings is None:
            raise closed()
        return bindings
