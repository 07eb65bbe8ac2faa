"""What callers hand over: options, inputs as the program reads them, and memory that outputs are to lie in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, NoReturn

import numpy as np

from ..errors import InputError
from .elements import STRINGS, is_float
from .handles import held, strings
from .records import Symbol, TensorInfo

_UNTYPED = (list, tuple, int, float, complex, bool)
_Bound = dict[str, tuple[int, TensorInfo, int]]  # the size of a symbolic dim, and where it was met: input, axis


def require(fits: object, name: str, value: object, expected: str) -> None:
    """Raises InputError for the value of an option that does not fit."""
    if not fits:
        shown = " ".join(repr(value).split())  # arrays take several lines
        raise InputError(f"{name}={shown[:60]}", expected=expected)


def is_whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """A whole or a floating-point number, perhaps NaN."""
    return is_whole(value) or isinstance(value, (float, np.floating))


def from_one(name: str, value: Any) -> int:
    """A whole number from 1 on. Raises InputError for anything else."""
    require(is_whole(value) and value >= 1, name, value, "a whole number from 1")
    return int(value)


def flag(name: str, value: object) -> bool:
    """True or False. Raises InputError for anything else, such as "no", which would count as true."""
    require(isinstance(value, (bool, np.bool_)), name, value, "True or False")
    return bool(value)


def symbol_sizes(symbols: Sequence[Symbol], given: Mapping[str, Any]) -> list[int]:
    """Sizes of all symbols, in order, from those given by name; 1 for the others. Raises InputError."""
    names = [s.name for s in symbols]
    if unknown := [name for name in given if name not in names]:
        raise InputError(f"unknown size {unknown[0]}", expected=", ".join(names) or "none: all sizes are fixed")
    for name, value in given.items():
        require(is_whole(value) and value >= 0, name, value, "a whole number from 0")
    return [int(given.get(name, 1)) for name in names]


def as_array(value: Any, info: TensorInfo) -> np.ndarray:
    """An input: contiguous, of the right type and rank. Raises InputError."""
    loc = f"input {info.name}"
    if info.kind == "object":
        return held(value, loc)
    if isinstance(value, Mapping):
        raise InputError(
            f"a {type(value).__name__}", expected="an array", remedy="`run` takes arrays by name, a call by position.", loc=loc
        )
    try:
        array = _imported(value) if hasattr(value, "__dlpack__") and not hasattr(value, "__array__") else np.asarray(value)
    except (ValueError, TypeError, RuntimeError, BufferError) as e:  # RuntimeError: a tensor of torch that needs gradients
        found, remedy = f"a {type(value).__name__} that is no array: {str(e)[:200]}", ""
        if info.dtype.kind == "V":  # of ml_dtypes, which no other library hands to NumPy
            remedy = f"Reinterpret its bytes: x.view(torch.uint{8 * info.dtype.itemsize}).numpy().view(ml_dtypes.{info.dtype})."
        raise InputError(found, expected=str(info.dtype), remedy=remedy, loc=loc) from None
    if info.kind in STRINGS:
        array = strings(array, loc)
    elif array.dtype != info.dtype and type(value) in _UNTYPED:
        array = _converted(array, info.dtype)
    if array.dtype != info.dtype:
        remedy = (
            "" if array.dtype.kind in "OSUM" or type(value) in _UNTYPED else f"Convert it, if its values allow: x.astype({info.dtype})."
        )
        what = f"a {type(value).__name__}, of " if array.dtype.kind == "O" else ""
        raise InputError(f"{what}dtype {array.dtype}", expected=str(info.dtype), remedy=remedy, loc=loc)
    if array.ndim != len(info.shape):
        raise InputError(f"shape {shape_text(array.shape)}", expected=shape_text(info.shape), loc=loc)
    try:
        return np.ascontiguousarray(array) if array.ndim else array
    except MemoryError:
        found = f"shape {shape_text(array.shape)}, which is not contiguous"
        raise InputError(found, expected="an array whose copy fits into memory", loc=loc) from None


def _imported(value: Any) -> np.ndarray:
    """An array that is known by DLPack alone, where it lies."""
    try:
        return np.from_dlpack(value)
    except BufferError:
        raise
    except Exception as e:  # whatever the other library raises for what is not in memory of the host
        raise BufferError(str(e)) from None


def _converted(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Numbers of Python's, which have no element type of their own, as the model's: whole ones where they stay what they are, others
    where the model has such as well."""
    whole, floating = array.dtype.kind in "iu", dtype.kind == "c" or is_float(dtype)
    if array.size and not (
        (array.dtype.kind == "f" and floating) or (whole and dtype.kind in "iufV") or array.dtype.kind == dtype.kind == "c"
    ):
        return array
    with np.errstate(all="ignore"):
        found = array.astype(dtype)
    kept = not whole or (np.array_equal(found.astype(array.dtype), array) and np.array_equal(found < 0, array < 0))
    return found if kept else array


def fit_inputs(
    values: Sequence[Any],
    infos: Sequence[TensorInfo],
    dims: Sequence[Sequence[Any]],
    symbols: Sequence[Symbol],
    read: Callable[[Any, TensorInfo], Any] = as_array,
) -> tuple[list[Any], list[int]]:
    """Inputs as programs read them, by `read`, and the sizes of `symbols`, whose bounds they keep.

    `dims` are the manifest's, by input: a number, or an expression. What it computes from symbols is not compared here.
    Raises InputError.
    """
    arrays, bound = [], _Bound()
    for value, info, expected in zip(values, infos, dims, strict=True):
        array = read(value, info)
        _bind_dims(bound, info, array.shape, expected)
        arrays.append(array)
    for s in symbols:
        size, info, axis = bound[s.name]
        if not s.lo <= size <= s.hi:
            limits = f"{s.lo} to {s.hi}" if s.hi < 2**62 else f"{s.lo} or more"
            raise InputError(f"{s.name}={size}", expected=limits, loc=_axis_text(info, axis))
    return arrays, [bound[s.name][0] for s in symbols]


def _bind_dims(bound: _Bound, info: TensorInfo, shape: Sequence[int], dims: Sequence[Any]) -> None:
    """An input's shape against the manifest: numbers, and symbols whose sizes it says. Raises InputError."""
    for axis, dim in enumerate(dims):
        size = shape[axis]
        if type(dim) is int:
            if size != dim:
                raise InputError(f"size {size}", expected=f"{dim} (shape {shape_text(info.shape)})", loc=_axis_text(info, axis))
        elif dim[0] == "sym":
            known = bound.get(dim[1])
            if known is None:
                bound[dim[1]] = size, info, axis
            elif known[0] != size:
                expected = f"{known[0]} as in {_axis_text(*known[1:])}"
                raise InputError(f"symbolic dim {dim[1]} is {size}", expected=expected, loc=_axis_text(info, axis))


def _axis_text(info: TensorInfo, axis: int) -> str:
    return f"input {info.name}, axis {axis}"


def complain(feeds: object, names: Sequence[str], listed: Sequence[str] = ()) -> NoReturn:
    """Say what is wrong with feeds that do not have exactly these names. `listed` could be given, had the module been compiled so. Raises
    InputError."""
    if not isinstance(feeds, Mapping):
        raise InputError(f"a {type(feeds).__name__}", expected="a dict from input name to array")
    missing = [n for n in names if n not in feeds]
    extra = [str(n) for n in feeds if n not in names]
    found = [f"missing input {', '.join(missing)}"] * bool(missing) + [f"unknown input {', '.join(extra)}"] * bool(extra)
    could = [n for n in extra if n in listed]
    remedy = f"Compile the model with overridable={could}: these are initializers." if could else ""
    raise InputError(" and ".join(found), expected=", ".join(names) or "no inputs", remedy=remedy)


def given_outputs(
    out: object, infos: Sequence[TensorInfo], shapes: Sequence[tuple[int, ...] | None], inputs: Sequence[Any]
) -> dict[int, np.ndarray]:
    """By position, the arrays that outputs are to be written to. `shapes`: None for sizes that the run decides.

    Raises InputError for a name that is no output, an array that cannot take it, or one that shares memory with another or an input.
    """
    if type(out) is not dict and not isinstance(out, Mapping):
        raise InputError(f"out is a {type(out).__name__}", expected="a dict from output name to array")
    given: dict[int, np.ndarray] = {}
    for name, array in out.items():
        for i, info in enumerate(infos):
            if info.name == name:
                given[i] = _writable(array, info, shapes[i])
                break
        else:
            raise InputError(f"unknown output {name}", expected=", ".join(info.name for info in infos), loc="out")
    if len(given) > 1:
        for (i, a), (j, b) in combinations(given.items(), 2):
            if np.may_share_memory(a, b):
                raise InputError(f"outputs {infos[i].name} and {infos[j].name} share memory", expected="an array for each", loc="out")
    for i, a in given.items():
        for x in inputs:
            if isinstance(x, np.ndarray) and np.may_share_memory(a, x):
                raise InputError("memory that an input lies in", expected="memory of its own", loc=f"out, output {infos[i].name}")
    return given


def _writable(array: Any, info: TensorInfo, shape: tuple[int, ...] | None) -> np.ndarray:
    if type(array) is np.ndarray and info.kind == "tensor" and array.dtype == info.dtype and array.shape == shape and array.flags.carray:
        return array
    loc = f"out, output {info.name}"  # what is wrong with it
    if info.kind != "tensor" or shape is None:
        why = "whose size is known when the run is over" if info.kind == "tensor" else "of strings or objects"
        raise InputError(f"an array for an output {why}", expected="none", remedy="Take it from what `run` returns.", loc=loc)
    if not isinstance(array, np.ndarray):
        raise InputError(f"a {type(array).__name__}", expected="a NumPy array", loc=loc)
    if array.dtype != info.dtype or array.shape != shape:
        found, expected = (f"{dtype}{shape_text(s)}" for dtype, s in ((array.dtype, array.shape), (info.dtype, shape)))
        raise InputError(found, expected=expected, loc=loc)
    flags = array.flags
    for fits, what in ((flags.c_contiguous, "contiguous"), (flags.writeable, "writable"), (flags.aligned, "aligned")):
        if not fits:
            raise InputError(f"an array that is not {what}", expected=f"a {what} one", loc=loc)
    return array


def shape_text(shape: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"
