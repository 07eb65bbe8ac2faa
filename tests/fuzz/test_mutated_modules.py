"""`.mlc` files with manifests changed at random, digests right: a typed error, or a module; a changed prologue may even run.

What only Python reads is what files may lie about: object code is trusted, and so are the sizes that it is called with
(`runtime/manifest.py`). `python tests/fuzz/test_mutated_modules.py FIRST COUNT` tries other seeds.
"""

from __future__ import annotations

import copy
import functools
import json
import random
import sys
from contextlib import suppress
from typing import Any

import mlc
import numpy as np
import onnx.parser
import pytest
from mlc.errors import ArtifactError, MlcError
from mlc.runtime import artifact
from mlc.runtime.artifact import Parts
from mlc.runtime.cuda import images
from mlc.runtime.loading import open_parts
from mlc.runtime.manifest import parse
from mlc.runtime.objects import count

TEXTS = """<ir_version: 10, opset_import: ["" : 20]>
texts (string[N] s, string[N] t, float[N] x) => (string[M] c, int64[N] n, float[N] y, float[N] f, bool[N] e, bool[N] r, string[N] l) {
    bang = Constant<value_string = "!">()
    c = StringConcat(s, bang)
    parts, n = StringSplit<delimiter = "-", maxsplit = 2>(s)
    m = Cast<to = 1>(n)
    y = Add(m, x)
    f = Cast<to = 1>(t)
    e = Equal(s, t)
    r = RegexFullMatch<pattern = "[a-c]+">(s)
    l = StringNormalizer<case_change_action = "UPPER">(s)
}"""
LISTS = """<ir_version: 10, opset_import: ["" : 20]>
lists (seq(float[P]) s, float[N] x, int64[K] sizes) => (float[A] first, seq(float[B]) parts, float[C] last, seq(float[P]) more) {
    zero = Constant<value = int64 {0}>()
    one = Constant<value = int64 {-1}>()
    first = SequenceAt(s, zero)
    parts = SplitToSequence<axis = 0>(x, sizes)
    last = SequenceAt(parts, one)
    more = SequenceInsert(s, x, zero)
}"""
SQUEEZED = """<ir_version: 10, opset_import: ["" : 20]>
squeezed (float[N, 4, M] x) => (float[A, B] y) {
    z = Squeeze(x)
    y = Relu(z)
}"""
FOUND = """<ir_version: 10, opset_import: ["" : 20]>
found (float[N, 4] x, string[N] s) => (int64[2, K] y, string[P] t) {
    y = NonZero(x)
    z = Squeeze(y)
    at = Constant<value = int64 {0}>()
    rows = Gather<axis = 0>(z, at)
    t = Gather(s, rows)
}"""
MODELS = {"texts": TEXTS, "lists": LISTS, "squeezed": SQUEEZED, "found": FOUND}
JUNK = [None, -1, 0, 1, 7, 2**31, 2**62, 2**63, 10**30, 1.5, "x", "", "str", "object", "f32", [], [1], [[]], {}, True, ["sym", "N"]]


def feeds(name: str) -> dict[str, Any]:
    s, t = np.array(["a-b", "1", "abc"], object), np.array(["1", "1", "-2.5"], object)
    x = np.arange(3, dtype=np.float32)
    return {"texts": {"s": s, "t": t, "x": x}, "lists": {"s": [x, x[:1]], "x": x, "sizes": np.array([2, 0, 1])}}.get(name, {})


@functools.cache
def parts_of(name: str) -> Parts:
    return mlc.compile(onnx.parser.parse_model(MODELS[name]), threads=1).parts


def places(value: Any) -> list[tuple[Any, ...]]:
    found, stack = [], [(value, ())]
    while stack:
        v, p = stack.pop()
        found.append(p)
        items = v.items() if isinstance(v, dict) else enumerate(v) if isinstance(v, list) else ()
        stack += [(w, (*p, k)) for k, w in items]
    return found[1:]


def at(value: Any, path: tuple[Any, ...]) -> Any:
    return functools.reduce(lambda v, k: v[k], path, value)


def mutate(raw: dict[str, Any], rng: random.Random, only: str) -> None:
    """One change, below the key `only` if there is one."""
    spots = [p for p in places(raw) if p[0] == only] or places(raw)
    if not spots:
        return
    path = rng.choice(spots)
    holder, key = at(raw, path[:-1]), path[-1]
    match rng.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        case 2:
            holder[key] = copy.deepcopy(at(raw, rng.choice(spots)))
        case 3 if type(holder[key]) is int:
            holder[key] += rng.choice((-1, 1, 2))
        case 4 if isinstance(holder, list):
            rng.shuffle(holder)
        case _:
            holder[key] = copy.deepcopy(rng.choice(JUNK))


def attempt(seed: int) -> str:
    """What became of one file: "refused", "loaded", "ran" or "stopped". Raises anything else that happens."""
    rng = random.Random(seed)
    name = list(MODELS)[seed % len(MODELS)]
    parts = parts_of(name)
    raw = json.loads(json.dumps(parts.manifest.raw))
    newer = next((k for k in ("prologue", "others", "handlers") if raw.get(k)), "") if rng.random() < 0.8 else ""
    for _ in range(rng.randrange(1, 4)):
        mutate(raw, rng, newer)
    try:
        changed = Parts(parse(raw, count(parts.code), parts.weights.nbytes), parts.code, parts.weights)
        module = open_parts(artifact.load(artifact.to_bytes(changed)), threads=1)
        module.prepare()
        repr(module), module.steps
        module.binding(**{s.name: 3 for s in module.manifest.symbols})
    except MlcError:
        return "refused"
    if newer != "prologue":
        return "loaded"
    try:
        module.run({t.name: v for t, v in zip(module.inputs, feeds(name).values(), strict=False)})
    except MlcError:
        return "stopped"
    return "ran"


@pytest.mark.parametrize("name", MODELS)
def test_mutated_modules(name: str) -> None:
    first = list(MODELS).index(name)
    found = {attempt(seed) for seed in range(first, first + 100 * len(MODELS), len(MODELS))}
    assert "refused" in found and found & {"loaded", "stopped"}


def test_mutated_cuda_code() -> None:
    """The index in front of CUDA code: refused by a typed error, or one that a device can be chosen by."""
    maps = (images.MapSpec(0, 2, (64, (3,)), (128,), (64, 32)),)
    two = {"sm_90a": b"\x7fELF" + bytes(60), "compute_80": b".version 8.0"}
    good = images.join([("f", images.Image(128, 4096, two, maps)), ("g", images.Image(32, 0, two))])
    size = int.from_bytes(good[8:16], "little")
    index, blobs = json.loads(good[16 : 16 + size]), good[16 + size :]
    for seed in range(500):
        rng = random.Random(seed)
        holder = {"index": copy.deepcopy(index)}
        for _ in range(rng.randrange(1, 3)):
            mutate(holder, rng, "index")
        text = json.dumps(holder.get("index")).encode()
        with suppress(ArtifactError):
            for _, image in images.split(good[:8] + len(text).to_bytes(8, "little") + text + blobs):
                assert images.choose(image.code, 90)
    for arch in ("sm_" + "9" * 5000, "sm_\u0663"):
        text = json.dumps([["f", 1, 0, [[arch, 4]], []]]).encode()
        with pytest.raises(ArtifactError):
            images.split(good[:8] + len(text).to_bytes(8, "little") + text + b"\x7fELF")


if __name__ == "__main__":
    start, many = int(sys.argv[1]), int(sys.argv[2])
    tally: dict[str, int] = {}
    for s in range(start, start + many):
        try:
            outcome = attempt(s)
        except Exception as e:
            import traceback

            outcome = f"{type(e).__name__} in {traceback.extract_tb(e.__traceback__)[-1].name}"
            if outcome not in tally:
                print(f"seed {s} ({list(MODELS)[s % len(MODELS)]}):", flush=True)
                traceback.print_exc()
        tally[outcome] = tally.get(outcome, 0) + 1
    print(tally)
