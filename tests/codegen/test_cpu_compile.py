"""Targets and the object cache."""

import os
from contextlib import nullcontext

import pytest
from mlc.codegen import disk_cache
from mlc.codegen.cpu import compile as compiling
from mlc.codegen.cpu.emitted import REPEATS, TIDY, WALKED
from mlc.codegen.cpu.loops.repeated import repeated
from mlc.codegen.cpu.target import CpuTarget, host, missing_features, parse
from mlc.codegen.disk_cache import cache_dir, read_checked, write_checked
from mlc.codegen.expr import Axis, Call, Load, Num
from mlc.codegen.kernel import LoopKernel, Operand, Store
from mlc.compiler.tuning.records import Records
from mlc.errors import CodegenError, TargetError
from mlc.ir import DType
from mlc.runtime import native

TEXT = "define void @f(ptr %p) {\n  store float 1.0, ptr %p\n  ret void\n}\n"


def test_unknown_target_lists_the_known_ones():
    for name in ("cpu:pentium9", "gpu", "cpu:x86-64-v9"):
        with pytest.raises(TargetError) as e:
            parse(name)
        assert "cpu" in str(e.value)
    with pytest.raises(TargetError, match=r"znver4.*neoverse-n1"):
        parse("cpu:pentium9")


@pytest.mark.parametrize("name, bits", [("x86-64", 128), ("x86-64-v3", 256), ("znver3", 256), ("znver4", 512), ("aarch64", 128)])
def test_vector_width(name, bits):
    assert parse(f"cpu:{name}").vector_bits == bits


def test_missing_instruction_sets_are_named():
    assert missing_features(host().triple, host().features) == []
    odd = CpuTarget(host().triple, "x", host().features | {"avx9000"}, 512)
    assert missing_features(odd.triple, odd.features) == ["avx9000"]
    other = "aarch64-unknown-linux-gnu" if host().is_x86 else "x86_64-unknown-linux-gnu"
    assert missing_features(other, set()) == [other.split("-")[0]]


def test_cache_is_used_and_a_corrupt_entry_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("MLC_NO_CACHE", raising=False)
    data = compiling.compile_ir(TEXT, host())
    (entry,) = tmp_path.rglob("*.o")
    monkeypatch.setattr(compiling, "_compile", lambda *a: pytest.fail("compiled again"))
    assert compiling.compile_ir(TEXT, host()) == data
    for damage in (b"", b"junk", entry.read_bytes()[:-1]):
        entry.write_bytes(damage)
        monkeypatch.setattr(compiling, "_compile", lambda *a: data)
        assert compiling.compile_ir(TEXT, host()) == data
        assert entry.read_bytes().endswith(data)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert compiling.compile_ir(TEXT, host())


@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_ends_a_write_to_a_cache_leaves_no_file(tmp_path, monkeypatch, stop):
    def fail(*paths):
        raise stop

    monkeypatch.setattr(os, "replace", fail)
    for write in (
        lambda: disk_cache.write_checked(tmp_path / "a" / "x", b"y"),
        lambda: native._write_cache(str(tmp_path / "b" / "x"), b"k", b"y"),
    ):
        with pytest.raises(KeyboardInterrupt) if isinstance(stop, KeyboardInterrupt) else nullcontext():
            write()
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_rejected_text_is_a_typed_error():
    with pytest.raises(CodegenError, match="LLVM"):
        compiling.compile_ir("define nonsense", host())


@pytest.mark.parametrize("first", [TIDY, REPEATS, WALKED, ""])
def test_every_list_of_passes_compiles(first):
    text = first + TEXT.replace("  ret", "  call void @g(ptr %p, i64 0)\n  ret")
    text += "define internal void @g(ptr %p, i64 %n) {\n  store i64 %n, ptr %p\n  ret void\n}\n"
    assert compiling.compile_ir(text, host()).startswith(b"\x7fELF" if host().is_x86 else b"")


def test_what_a_row_has_in_common_is_told_from_what_every_vector_computes():
    x, row = Load(0, Axis(1, dtype=DType.I64), dtype=DType.F32), Load(1, Axis(0, dtype=DType.I64), dtype=DType.F32)

    def repeats(value):
        at = Call(
            "add",
            (Call("mul", (Axis(0, dtype=DType.I64), Num(64, dtype=DType.I64)), dtype=DType.I64), Axis(1, dtype=DType.I64)),
            dtype=DType.I64,
        )
        operands = (Operand(DType.F32, 64), Operand(DType.F32, 8), Operand(DType.F32, 512, written=True))
        return repeated([LoopKernel((8, 64), (), operands, (), (Store(2, at, value),))], 1)

    def f(fn, *args):
        return Call(fn, args, dtype=DType.F32)

    assert not repeats(f("add", f("exp", x), row))
    assert repeats(f("add", x, f("exp", row)))
    assert repeats(f("div", x, row)) and not repeats(f("div", row, x))


def test_without_a_cache_folder_nothing_is_written(tmp_path, monkeypatch):
    """A relative XDG_CACHE_HOME counts as none, and a user without a home has a relative one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLC_NO_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", "~")
    write_checked(cache_dir() / "ab" / "cd.o", b"code")
    assert read_checked(cache_dir() / "ab" / "cd.o") is None
    assert native._cached("key", "kind", lambda: b"made") == b"made"
    Records("cpu", 1).put("key", None, 1.0)
    assert not list(tmp_path.iterdir())
