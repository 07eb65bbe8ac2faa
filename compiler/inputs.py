"""Input arrays for a model: read from files, or generated from names, types and dims with a stated seed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..runtime.arguments import shape_text
from ..runtime.elements import is_float

if TYPE_CHECKING:
    import onnx

SEED = 0
_LARGEST = 2**48  # no dim is that long
# Numbers that exporters give these names: a rate of samples, and how text is generated (onnxruntime's converters of searches).
_USUAL = {
    "sr": 16000, "max_length": 32, "min_length": 0, "num_beams": 2, "num_return_sequences": 1, "length_penalty": 1, "repetition_penalty": 1,
    "temperature": 1,
}  # fmt: skip
_GENERATES = ("BeamSearch", "GreedySearch", "Sampling")
_NUMPY = (b"\x93NUMPY", b"PK\x03\x04", b"PK\x05\x06")  # how files of arrays begin: .npy, .npz, an .npz of none
_SCALES = (1, 4, 16, 64, 256)  # of default sizes


@dataclass(frozen=True)
class InputSpec:
    """One input of a model. A dim is an int, or a symbol's name; `below` bounds integer values (0: unknown). What is `held` is
    no tensor (a sequence, a map, an optional): it has no shape, and cannot be generated."""

    name: str
    dtype: np.dtype
    shape: tuple[int | str, ...]
    below: int = 0
    held: bool = False


def specs_of_onnx(model: onnx.ModelProto) -> list[InputSpec]:
    """The inputs that a caller must give: those of the graph that are not initializers."""
    from ..ir.dtypes import DType  # what runs a module needs no operators, which come with it

    given = {t.name for t in model.graph.initializer}
    tables = _table_sizes(model.graph)
    specs = []
    for value in model.graph.input:
        if value.name in given:
            continue
        if not value.type.HasField("tensor_type"):
            specs.append(InputSpec(value.name, np.dtype(object), (), held=True))
            continue
        tensor = value.type.tensor_type
        dims: list[int | str] = []
        for axis, d in enumerate(tensor.shape.dim):
            known = d.HasField("dim_value") and d.dim_value >= 0
            named = d.dim_param not in ("", "?")  # "?" is how some exporters write a dim without a name
            dims.append(d.dim_value if known else d.dim_param if named else f"{value.name}.{axis}")
        below = tables.get(value.name, 0)
        specs.append(InputSpec(value.name, DType.from_onnx(tensor.elem_type).np, tuple(dims), below))
    return specs


def specs_of_module(module: Any) -> list[InputSpec]:
    """The inputs of a compiled module. Symbols that the model needs to be equal have one name; dims that are not a plain symbol
    or number get a name of their own."""
    same = _equal_symbols(module.manifest.raw)
    return [InputSpec(i.name, np.dtype(i.dtype), tuple(same.get(d, d) for d in i.shape), held=i.kind == "object") for i in module.inputs]


def specs_of_both(model: Sequence[InputSpec], module: Any) -> list[InputSpec]:
    """What the ONNX file says of values, and the module it became of sizes."""
    shapes = {s.name: s.shape for s in specs_of_module(module)}
    return [replace(s, shape=shapes.get(s.name, s.shape)) for s in model]


def workable_shapes(module: Any, specs: Sequence[InputSpec], shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """`sizes_of`, with defaults grown until the module can run at them (some models need a window of samples, say)."""
    first: dict[str, tuple[int, ...]] = {}
    for scale in _SCALES:
        sizes = sizes_of(specs, shapes, scale)
        first = first or sizes
        try:
            module.binding(**symbols_of_module(module, sizes))
        except InputError:
            continue
        return sizes
    return first  # running says what is wrong with them


def symbols_of_module(module: Any, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Values of a module's symbols when its inputs have these shapes."""
    pairs = ((d, n) for i in module.inputs for d, n in zip(i.shape, shapes[i.name], strict=True))
    return {d: n for d, n in pairs if isinstance(d, str) and d in {s.name for s in module.manifest.symbols}}


def _equal_symbols(manifest: Mapping[str, Any]) -> dict[int | str, int | str]:
    """What to put for symbols that have to equal a number or an earlier symbol."""
    same: dict[int | str, int | str] = {}

    def end(d: int | str) -> int | str:
        while d in same:
            d = same[d]
        return d

    exprs = [e[1] if isinstance(e, list) and e[0] == "sym" else e for e in manifest["dims"]]
    for a, b in manifest["equal"]:
        if isinstance(exprs[a], int | str) and isinstance(exprs[b], int | str):
            x, y = end(exprs[a]), end(exprs[b])
            if x != y and isinstance(x if isinstance(y, int) else y, str):
                same.update({x: y} if isinstance(y, int) else {y: x})
    return {d: end(d) for d in same}


def sizes_of(specs: Sequence[InputSpec], shapes: Mapping[str, Sequence[int]], scale: int = 1) -> dict[str, tuple[int, ...]]:
    """A size for every dim: from `shapes`, from a symbol bound there, else a default (times `scale`) that suits its name and place."""
    known = {s.name for s in specs}
    for name in shapes:
        if name not in known:
            raise InputError(f"no input is called {name!r}", expected="one of " + ", ".join(sorted(known)), loc="--shape")
    bound: dict[str, int] = {}
    for s in specs:
        if s.name in shapes:
            _bind(s, tuple(shapes[s.name]), bound)
    for s in specs:
        for axis, d in enumerate(s.shape):
            if isinstance(d, str):
                bound.setdefault(d, _default_size(d, axis, len(s.shape), scale))
    return {s.name: tuple(d if isinstance(d, int) else bound[d] for d in s.shape) for s in specs}


def symbols_of_sizes(specs: Sequence[InputSpec], sizes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """The sizes of symbolic dims, by name, when inputs have these shapes."""
    bound: dict[str, int] = {}
    for s in specs:
        _bind(s, tuple(sizes[s.name]), bound)
    return bound


def generate(specs: Sequence[InputSpec], shapes: Mapping[str, Sequence[int]], seed: int = SEED) -> dict[str, np.ndarray]:
    """Arrays for all inputs that are tensors. The same seed gives an input the same values whatever the other inputs are."""
    sizes = sizes_of(specs, shapes)
    made = {}
    for s in specs:
        if s.held:
            continue
        try:
            made[s.name] = _values(s, sizes[s.name], seed)
        except (MemoryError, ValueError) as e:  # ValueError: more elements than NumPy can count
            raise InputError(f"shape {list(sizes[s.name])} of input {s.name!r}", expected="what fits into memory", loc="--shape") from e
    return made


def complete(
    specs: Sequence[InputSpec],
    given: Mapping[str, Any],
    shapes: Mapping[str, Sequence[int]],
    seed: int = SEED,
) -> dict[str, Any]:
    """The given values (see `held_arrays`), tensors checked against names and dtypes, and generated ones for the rest."""
    by_name = {s.name: s for s in specs}
    arrays: dict[str, Any] = {}
    for name, array in given.items():
        if name not in by_name:
            raise InputError(f"no input is called {name!r}", expected="one of " + ", ".join(by_name), loc="--input")
        if by_name[name].held:
            arrays[name] = array
            continue
        if array.dtype.kind == "V" and array.dtype.itemsize == by_name[name].dtype.itemsize:
            array = array.view(by_name[name].dtype)  # .npy files hold bfloat16 and the like as raw bytes
        if array.dtype != by_name[name].dtype and by_name[name].dtype != np.dtype(object):
            raise InputError(f"input {name!r} is {array.dtype}", expected=str(by_name[name].dtype), loc="--input")
        arrays[name] = array
    missing = [s.name for s in specs if s.held and s.name not in arrays]
    if missing:
        raise InputError(f"input {missing[0]!r} is no tensor, and is not given", expected=f"its parts, such as {missing[0]}[0]",
                         remedy="Pass an .npz archive with --inputs.", loc="--inputs")  # fmt: skip
    made = generate(specs, {**shapes, **{k: v.shape for k, v in arrays.items() if not by_name[k].held}}, seed)
    return {s.name: arrays[s.name] if s.name in arrays else made[s.name] for s in specs}


def read_arrays(pairs: Iterable[str], archive: str | None) -> dict[str, np.ndarray]:
    """Arrays from `NAME=FILE.npy` pairs and an .npz archive (pairs win)."""
    found: dict[str, np.ndarray] = {}
    if archive is not None:
        loaded = _load(Path(archive))
        if isinstance(loaded, np.ndarray):
            raise InputError(f"{archive} holds one array", expected="an .npz archive of named arrays", loc="--inputs")
        with loaded:
            for key in loaded.files:
                try:
                    found[key] = loaded[key]
                except (ValueError, OSError) as e:
                    raise InputError(f"array {key!r} of {archive} cannot be read: {e}", loc="--inputs") from e
    named: set[str] = set()
    for pair in pairs:
        name, eq, path = pair.partition("=")
        if not (name and eq and path):
            raise InputError(f"--input {pair!r}", expected="NAME=FILE.npy")
        if name in named:
            raise InputError(f"--input of {name!r} twice", expected="each input once")
        named.add(name)
        loaded = _load(Path(path))
        if not isinstance(loaded, np.ndarray):
            raise InputError(f"{path} is an archive", expected="one array in .npy form", remedy="Pass it with --inputs.", loc="--input")
        found[name] = loaded
    return found


def parse_shapes(pairs: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """`NAME=1,3,224,224` options; `NAME=` is a scalar."""
    shapes: dict[str, tuple[int, ...]] = {}
    for pair in pairs:
        name, eq, dims = pair.rpartition("=")
        try:
            shape = tuple(int(d) for d in dims.split(",")) if dims else ()
        except ValueError:
            shape = (-1,)
        if not (name and eq) or not all(0 <= d < _LARGEST for d in shape):
            raise InputError(f"--shape {pair!r}", expected="NAME=SIZE,SIZE,…, for example x=1,3,224,224")
        if name in shapes:
            raise InputError(f"--shape of {name!r} twice", expected="each input once")
        shapes[name] = shape
    return shapes


def _load(path: Path) -> Any:
    expected = "a NumPy .npy or .npz file without pickled objects"
    try:
        with path.open("rb") as f:
            if not f.read(6).startswith(_NUMPY):  # which np.load takes for a pickle
                raise InputError(f"{path} cannot be read: it is no NumPy file", expected=expected)
        return np.load(path, allow_pickle=False)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"no such file: {path}") from None
    except Exception as e:  # np.load has no list of what a broken file raises
        raise InputError(f"{path} cannot be read: {e}", expected=expected) from e


def _bind(spec: InputSpec, shape: tuple[int, ...], bound: dict[str, int]) -> None:
    wanted = shape_text(spec.shape)
    if len(shape) != len(spec.shape):
        raise InputError(f"input {spec.name!r} has shape {list(shape)}", expected=f"rank {len(spec.shape)}: {wanted}")
    for got, dim in zip(shape, spec.shape, strict=True):
        if got < 0:
            continue  # left open
        if isinstance(dim, int) and got != dim:
            raise InputError(f"input {spec.name!r} has shape {list(shape)}", expected=wanted)
        if isinstance(dim, str) and bound.setdefault(dim, got) != got:
            raise InputError(f"symbolic dim {dim!r} is bound to both {bound[dim]} and {got}", expected="one size", loc=spec.name)


def _default_size(symbol: str, axis: int, rank: int, scale: int) -> int:
    if re.search(r"batch|^N$", symbol, re.IGNORECASE) or (axis == 0 and not re.search(r"seq|len|time", symbol, re.IGNORECASE)):
        return 1
    return scale * (64 if rank == 4 and axis >= 2 else 16)


def _values(spec: InputSpec, shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, *spec.name.encode()])
    name, dtype = spec.name.lower(), spec.dtype
    if name in _USUAL and shape in ((), (1,)) and dtype.kind in "iuf":
        return np.full(shape, _USUAL[name], dtype)
    if dtype.kind == "O":
        return rng.choice(np.array(["a", "bc", "def", "Ghij"], dtype=object), shape)
    if "mask" in name:
        return np.ones(shape, dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind == "c":
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)
    if is_float(dtype):
        return rng.standard_normal(shape).astype(np.float32).astype(dtype)
    if "type" in name or "segment" in name:
        below = 2
    elif "position" in name and not spec.below:
        return np.broadcast_to(np.arange(shape[-1] if shape else 1), shape).astype(dtype) if shape else np.zeros(shape, dtype)
    elif spec.below:
        below = spec.below
    else:
        below = 256 if dtype in (np.uint8, np.int8) or "byte" in name else 100 if "id" in name else 10
    low = 0
    if dtype == np.int8:
        low, below = -128, 128
    return rng.integers(low, below, shape).astype(dtype)


_PASS_ON = {"Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape", "Flatten", "Transpose"}


def _table_sizes(graph: onnx.GraphProto, outside: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, int]:
    """Rows of the smallest constant table that each graph input indexes, followed through nodes that keep values.

    `outside`: shapes of constants that the graph sees. What generates text hands its prompts to a graph that it holds.
    """
    rows = {**(outside or {}), **{t.name: tuple(t.dims) for t in graph.initializer}}
    for node in graph.node:
        if node.op_type == "Constant":
            for a in node.attribute:
                if a.name == "value":
                    rows[node.output[0]] = tuple(a.t.dims)
    source = {v.name: v.name for v in graph.input}
    below: dict[str, int] = {}

    def limit(name: str, size: int) -> None:
        key = source[name]
        below[key] = min(below.get(key, size), size)

    for node in graph.node:
        if node.op_type in _PASS_ON and node.input and node.input[0] in source:
            source[node.output[0]] = source[node.input[0]]
        elif node.op_type == "Gather" and node.input[1] in source and node.input[0] in rows:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            dims = rows[node.input[0]]
            if -len(dims) <= axis < len(dims):
                limit(node.input[1], dims[axis])
        elif node.op_type in _GENERATES and node.input and node.input[0] in source:
            held = {a.name: a.g for a in node.attribute if a.type == a.GRAPH}
            first = held.get("encoder", held.get("decoder"))
            size = _table_sizes(first, rows).get(first.input[0].name) if first is not None and first.input else None
            if size is not None:
                limit(node.input[0], size)
    return below
