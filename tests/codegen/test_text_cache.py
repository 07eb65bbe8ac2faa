"""Kernel text on disk: the same text, found again by what it is made from; damaged or foreign entries are made anew."""

from __future__ import annotations

import subprocess
import sys

import pytest
from mlc.codegen.cpu import text_cache
from mlc.codegen.cpu.target import parse
from mlc.codegen.cpu.text_cache import cached_text, stable
from mlc.ir import DType


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("MLC_NO_CACHE", raising=False)
    return tmp_path


def maker(text):
    calls = []

    def make():
        calls.append(text)
        return text, "mlc_symbol"

    return make, calls


def test_found_again(folder, monkeypatch):
    make, calls = maker("define …\nsecond line")
    for _ in range(3):
        assert cached_text(("a", 1), make) == ("define …\nsecond line", "mlc_symbol")
    assert len(calls) == 1
    assert cached_text(("a", 2), make)[0] and len(calls) == 2
    entry = min(folder.rglob("*.ll"))
    entry.write_bytes(entry.read_bytes()[:-3] + b"xyz")
    for key in (1, 2):
        assert cached_text(("a", key), make) == ("define …\nsecond line", "mlc_symbol")
    assert len(calls) == 3
    for value, times in (("0", 3), ("1", 4)):
        monkeypatch.setenv("MLC_NO_CACHE", value)
        cached_text(("a", 1), make)
        assert len(calls) == times


def test_another_source_is_another_key(folder, monkeypatch):
    make, calls = maker("text")
    cached_text(("a",), make)
    monkeypatch.setattr(text_cache, "_sources", lambda: "changed")
    cached_text(("a",), make)
    assert len(calls) == 2


def test_what_cannot_be_named_is_not_cached(folder):
    make, calls = maker("text")
    for _ in range(2):
        cached_text(("a", object), make)
    assert len(calls) == 2 and not list(folder.rglob("*.ll"))


def test_stable_names():
    assert stable((1, 1.0, True, None, "1")) == "(1,1.0,True,None,'1')"
    assert stable(DType.F32) == "DType.F32"
    assert stable(frozenset({"b", "a"})) == "{'a','b'}"
    assert stable([1]) is None and stable(object()) is None and stable((1, {2: 3})) is None


def test_targets_have_one_name_in_every_process():
    code = "from mlc.codegen.cpu.target import parse; from mlc.codegen.cpu.text_cache import stable; print(stable(parse('cpu:znver4')))"
    names = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() for _ in range(2)}
    assert names == {stable(parse("cpu:znver4"))}
