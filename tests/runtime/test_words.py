"""What sizes are refused for, by the check that native code failed at."""

from __future__ import annotations

import copy

import pytest
from mlc.errors import ArtifactError, InputError
from mlc.runtime import artifact
from mlc.runtime.module import Module


def changed(parts: artifact.Parts, **fields: object) -> Module:
    raw = {**copy.deepcopy(parts.manifest.raw), **fields}
    raw.pop("digests")
    return Module(artifact.make(raw, parts.code, parts.weights))


N = ["sym", "N"]


@pytest.mark.parametrize("size", [2**61, 2**62, 10**30])
def test_sizes_beyond_what_memory_has(dynamic_parts, size):
    with pytest.raises(InputError, match=rf"sizes N={size}; expected tensors of less than 2\*\*62 elements"):
        Module(dynamic_parts).binding(N=size)


@pytest.mark.parametrize(
    ("fields", "at", "error", "words"),
    [
        ({"sizes": [0]}, 3, InputError, r"sizes N=3 make a dimension of -4 inside the model\. Give larger inputs"),
        ({"sizes": [0]}, 7, None, ""),
        ({"equal": [[1, 2]]}, 5, InputError, r"N = 5 differs from 7 \(sizes N=5\)"),
        ({"equal": [[1, 2]]}, 7, None, ""),
        ({"limits": [[1, 3, 2, "here"]]}, 8, InputError, r"here: N = 8 \(sizes N=8\); expected 2 to 7"),
        ({"limits": [[1, 3, 2, "here"]]}, 1, InputError, r"expected 2 to 7"),
        ({"limits": [[1, 3, 2, "here"]]}, 2, None, ""),
    ],
)
def test_sizes_that_make_no_sense(dynamic_parts, fields, at, error, words):
    """Dims N - 7, N, 7 and 2 are put before those of the module."""
    raw = dynamic_parts.manifest.raw
    module = changed(dynamic_parts, dims=[*raw["dims"], ["add", N, -7], N, 7, 2],
                     **{key: [[v if isinstance(v, str) else v + len(raw["dims"]) for v in e] if isinstance(e, list) else e + len(raw["dims"])
                              for e in value] for key, value in fields.items()})  # fmt: skip
    if error is None:
        assert module.binding(N=at).symbols == {"N": at}
    else:
        with pytest.raises(error, match=words):
            module.binding(N=at)


@pytest.mark.parametrize(
    ("kind", "field", "value", "words"),
    [
        ("arena", "bytes", -8, r"buffer \d of -8 bytes"),
        ("input", "bytes", 5, r"buffer \d of 5 bytes; expected 48 bytes as input x"),
        ("output", "bytes", 5, r"buffer \d of 5 bytes; expected \d+ bytes as output "),
    ],
)
def test_buffers_that_do_not_fit(dynamic_parts, kind, field, value, words):
    raw = copy.deepcopy(dynamic_parts.manifest.raw)
    raw["dims"].append(value)
    next(b for b in raw["buffers"] if b["kind"] == kind)[field] = len(raw["dims"]) - 1
    raw.pop("digests")
    module = Module(artifact.make(raw, dynamic_parts.code, dynamic_parts.weights))
    with pytest.raises(ArtifactError, match=words):
        module.binding(N=3)


@pytest.mark.parametrize(("shift", "size", "fits"), [(0, 8, True), (1 << 20, 8, False), (-1, 8, False), (1 << 20, 0, True)])
def test_aliases_stay_inside(dynamic_parts, shift, size, fits):
    """But where those have no bytes may lie anywhere."""
    raw = copy.deepcopy(dynamic_parts.manifest.raw)
    raw["dims"] += [shift, size]
    owner = next(i for i, b in enumerate(raw["buffers"]) if b["kind"] == "arena")
    raw["buffers"].append({"kind": "alias", "of": owner, "shift": len(raw["dims"]) - 2, "bytes": len(raw["dims"]) - 1})
    raw.pop("digests")
    module = Module(artifact.make(raw, dynamic_parts.code, dynamic_parts.weights))
    if fits:
        module.binding(N=3)
    else:
        with pytest.raises(ArtifactError, match=f"buffer {len(raw['buffers']) - 1} reaches outside buffer {owner}"):
            module.binding(N=3)
