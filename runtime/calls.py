"""What surrounds a native run, as functions that Python calls like its own: whether arrays fit, and a run on lists of arrays.

A call through ctypes takes half a microsecond, reading fields of an array in Python one or two tenths for each.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .address import address
from .native import Code, compiled, native

Check = tuple[int, np.dtype, tuple[int, ...]]  # position, dtype, shape
Patch = tuple[int, int, int]  # buffer, position, bytes from where the array's memory begins

_O, _FASTCALL = 0x8, 0x80  # METH_O, METH_FASTCALL
_HEAD = object.__basicsize__
_ndarray = np.ndarray


class _Method(ctypes.Structure):
    """PyMethodDef."""

    _fields_ = [("name", ctypes.c_char_p), ("function", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p)]


class _Calls(NamedTuple):
    """calls.ll."""

    code: Code
    fits: _Method
    start: _Method


def fitting(checks: Sequence[Check]) -> Callable[[list[Any]], bool]:
    """Whether the arrays of a list are contiguous, of these dtypes and shapes, and NumPy's."""
    calls = _calls()
    if calls is None:
        return functools.partial(_fits, checks)
    words = [v for _, dtype, shape in checks for v in (id(dtype), len(shape), *shape)]
    return _function(calls.fits, [_HEAD, id(_ndarray), len(checks), *words])


def starting(context: int, bufs: int, ins: Sequence[Patch], outs: Sequence[Patch]) -> Callable[[list[Any], list[Any]], int]:
    """Runs the program of a Context (its address) on a list of inputs and one of outputs, and returns what `Native.run` does.

    Args:
        bufs: address of its buffers, which are to be those arrays' memory.
    """
    calls = _calls()
    if calls is None:
        table = (ctypes.c_int64 * (1 + max([i for i, _, _ in (*ins, *outs)], default=0))).from_address(bufs)
        return functools.partial(_start, context, table, ins, outs)
    patches = [v for patch in (*ins, *outs) for v in patch]
    return _function(calls.start, [_HEAD, _pointer(native().run), context, bufs, len(ins), len(outs), *patches])


def _fits(checks: Sequence[Check], arrays: list[Any]) -> bool:
    for i, dtype, shape in checks:
        a = arrays[i]
        if type(a) is not _ndarray or a.shape != shape or not a.flags.c_contiguous or a.dtype != dtype:
            return False
    return True


def _start(context: int, bufs: Any, ins: Sequence[Patch], outs: Sequence[Patch], inputs: list[Any], outputs: list[Any]) -> int:
    for patches, arrays in ((ins, inputs), (outs, outputs)):
        for i, position, shift in patches:
            bufs[i] = address(arrays[position]) + shift
    return int(native().run(context))


@functools.cache
def _calls() -> _Calls | None:
    """None where this Python or NumPy has its objects' fields elsewhere."""
    code = compiled("calls")
    code.keep()  # functions may outlive all else when the interpreter ends
    fits = _Method(b"fits", code.address("mlc_fits"), _O, None)
    found = _Calls(code, fits, _Method(b"start", code.address("mlc_start"), _FASTCALL, None))
    return found if _works(found) else None


def _works(calls: _Calls) -> bool:
    """Whether fields are where calls.ll reads them, tried on arrays of all kinds."""
    if ctypes.sizeof(ctypes.c_void_p) != 8 or _HEAD != 16:
        return False
    f4 = np.dtype(np.float32)
    x, wide = np.zeros((2, 3), f4), np.zeros((2, 6), f4)
    probes: list[Any] = [
        x, wide[:, ::2], x.T, x[0], x.reshape(2, 3, 1), np.zeros((3, 3), f4), x.astype(np.int32), x.astype(">f4"), x.astype(np.float16),
        x.astype(np.dtype(f4, copy=True)), x.view(np.recarray), wide[:, 3:], wide[1:].reshape(2, 3), np.float32(1), [[0.0] * 3] * 2, None,
    ]  # fmt: skip
    for check in ((0, f4, (2, 3)), (0, f4, ())):
        fits = _function(calls.fits, [_HEAD, id(_ndarray), 1, id(f4), len(check[2]), *check[2]])
        if any(fits([probe]) != _fits([check], [probe]) for probe in (*probes, np.zeros((), f4))):
            return False
    bufs = np.zeros(2, np.int64)
    run = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_size_t)(lambda context: context)
    start = _function(calls.start, [_HEAD, _pointer(run), 7, address(bufs), 1, 1, 1, 0, 4, 0, 1, 0])
    return start([wide], [None, x]) == 7 and bufs.tolist() == [address(x), address(wide) + 4]


def _pointer(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _function(method: _Method, words: list[int]) -> Any:
    """A built-in function whose `self` is a table of words."""
    return _new(ctypes.addressof(method), np.array(words, np.int64).tobytes(), None)


_new = ctypes.pythonapi.PyCFunction_NewEx
_new.restype, _new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p]
