"""Calibration data: named input arrays, from an `.npz`, a folder of them, or any Python iterable."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...runtime.elements import is_float
from ..inputs import InputSpec

Feeds = dict[str, np.ndarray]
_LOC = "calibration data"


def load_calibration(
    source: str | os.PathLike[str] | Mapping[str, np.ndarray] | Iterable[Mapping[str, np.ndarray]],
    specs: Sequence[InputSpec],
) -> list[Feeds]:
    """Samples for every input of a model.

    Args:
        source: one of
            an `.npz` file: each array has the shape of its input (one sample) or one leading axis more (a row per sample);
            a folder: every `.npz` file in it, in the order of names, and for models with one input every `.npy` file;
            a mapping of names to arrays, as an `.npz`;
            an iterable of such mappings, each one sample. It is read once and kept.
        specs: the model's inputs.

    Raises:
        InputError: no sample, a missing or unknown input, a wrong dtype or rank, sizes that do not fit, NaN or infinity.
    """
    found: list[Feeds] = []
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        for file in _files(path):
            found += _samples(_read(file, specs), specs, str(file))
        where = str(path)
    elif isinstance(source, Mapping):
        found, where = _samples(dict(source), specs, _LOC), _LOC
    else:
        where = _LOC
        for i, sample in enumerate(source):
            if not isinstance(sample, Mapping):
                raise InputError(f"sample {i} is a {type(sample).__name__}", expected="a mapping of input names to arrays", loc=where)
            found += _samples(dict(sample), specs, f"{where}[{i}]")
    if not found:
        raise InputError("holds no sample", expected="at least one", loc=where)
    return found


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.suffix in (".npz", ".npy"))
    if not path.exists():
        raise InputError("no such file or folder", loc=str(path))
    return [path]


def _read(file: Path, specs: Sequence[InputSpec]) -> dict[str, Any]:
    try:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            if len(specs) != 1:
                raise InputError(
                    f"one array for a model of {len(specs)} inputs",
                    expected="an .npz of " + ", ".join(s.name for s in specs),
                    loc=str(file),
                )
            return {specs[0].name: loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except InputError:
        raise
    except Exception as e:  # np.load has no list of what a broken file raises
        raise InputError(f"cannot be read: {e}", expected="a NumPy .npy or .npz file without pickled objects", loc=str(file)) from e


def _samples(arrays: dict[str, Any], specs: Sequence[InputSpec], where: str) -> list[Feeds]:
    names = [s.name for s in specs]
    if unknown := sorted(set(arrays) - set(names)):
        raise InputError(f"no input is called {unknown[0]!r}", expected="one of " + ", ".join(names), loc=where)
    if missing := [n for n in names if n not in arrays]:
        raise InputError(f"input {missing[0]!r} is missing", expected="arrays for " + ", ".join(names), loc=where)
    checked = {s.name: _typed(np.asarray(arrays[s.name]), s, where) for s in specs}
    stacked = {s.name: checked[s.name].ndim - len(s.shape) for s in specs}
    if not any(stacked.values()):
        rows: list[Feeds] = [checked]
    elif all(stacked.values()):
        counts = {name: len(a) for name, a in checked.items()}
        if len(set(counts.values())) > 1:
            raise InputError("different numbers of samples: " + ", ".join(f"{n} {c}" for n, c in counts.items()), loc=where)
        rows = [{name: a[i] for name, a in checked.items()} for i in range(min(counts.values()))]
    else:
        single = ", ".join(n for n, more in stacked.items() if not more)
        raise InputError(f"{single} is one sample and other inputs are several", expected="a leading axis on all or on none", loc=where)
    for row in rows:
        _sizes(row, specs, where)
    return rows


def _typed(array: np.ndarray, spec: InputSpec, where: str) -> np.ndarray:
    if array.dtype.kind == "V" and array.dtype.itemsize == spec.dtype.itemsize:
        array = array.view(spec.dtype)  # files hold bfloat16 and the like as raw bytes
    if array.dtype != spec.dtype:
        raise InputError(f"input {spec.name!r} is {array.dtype}", expected=str(spec.dtype), loc=where)
    if array.ndim - len(spec.shape) not in (0, 1):
        raise InputError(
            f"input {spec.name!r} has rank {array.ndim}",
            expected=f"{len(spec.shape)}, or {len(spec.shape) + 1} with a row per sample",
            loc=where,
        )
    if is_float(array.dtype) and not np.isfinite(array.astype(np.float32, copy=False)).all():
        raise InputError(f"input {spec.name!r} holds NaN or infinity", expected="finite numbers", loc=where)
    return array


def _sizes(row: Feeds, specs: Sequence[InputSpec], where: str) -> None:
    bound: dict[str, int] = {}
    for spec in specs:
        for got, dim in zip(row[spec.name].shape, spec.shape, strict=True):
            want = dim if isinstance(dim, int) else bound.setdefault(dim, got)
            if got != want:
                raise InputError(
                    f"input {spec.name!r} has shape {list(row[spec.name].shape)}",
                    expected=f"[{', '.join(map(str, spec.shape))}]",
                    loc=where,
                )
