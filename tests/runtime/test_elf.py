"""The linker of x86-64 objects: what LLVM's does with the same objects, and errors for what it cannot do."""

from __future__ import annotations

import ctypes
import gc
import platform
import struct
import subprocess
import sys

import llvmlite.binding as llvm
import numpy as np
import pytest
from mlc.errors import ArtifactError
from mlc.runtime.elf import Image, is_x86_64
from mlc.runtime.native import Code, _Jit, native

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="links x86-64 objects")

TEXT = """
@table = internal constant [4 x i64] [i64 10, i64 20, i64 30, i64 40], align 32
@counter = internal global i64 5, align 8
@zeros = internal global [100 x i64] zeroinitializer, align 64
@pointer = internal global ptr @table
declare float @powf(float, float)
declare ptr @memset(ptr, i32, i64)
define i64 @look(i64 %i) {
  %p = load ptr, ptr @pointer
  %q = getelementptr i64, ptr %p, i64 %i
  %v = load i64, ptr %q
  ret i64 %v
}
define i64 @count() {
  %a = load i64, ptr @counter
  %b = add i64 %a, 1
  store i64 %b, ptr @counter
  %z = getelementptr i64, ptr @zeros, i64 99
  store i64 %b, ptr %z
  %w = load i64, ptr %z
  ret i64 %w
}
define i64 @through(i64 %i) {
  %r = call i64 @look(i64 %i)
  ret i64 %r
}
define float @power(float %x, float %y) {
  %r = call float @powf(float %x, float %y)
  ret float %r
}
define void @clear(ptr %p, i64 %n) {
  %r = call ptr @memset(ptr %p, i32 0, i64 %n)
  ret void
}
"""


def compiled(text, **options):
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(reloc="pic", codemodel="small", **options)
    return machine.emit_object(llvm.parse_assembly(text))


@pytest.fixture(scope="module")
def blob():
    return compiled(TEXT)


def call(code, name, result, *args):
    fn = ctypes.CFUNCTYPE(result, *[type(a) for a in args])(code.address(name))
    return fn(*args)


@pytest.mark.parametrize("linker", [Image, _Jit])
def test_links(blob, linker):
    other = compiled("define i64 @second() {\n ret i64 77\n}")
    code = linker([blob, other])
    i64, f32 = ctypes.c_int64, ctypes.c_float
    assert [call(code, f, i64, i64(2)) for f in ("look", "through")] == [30, 30]
    assert [call(code, "count", i64) for _ in range(3)] == [6, 7, 8]
    assert call(code, "power", f32, f32(3), f32(4)) == 81 and call(code, "second", i64) == 77
    data = np.ones(40, np.uint8)
    call(code, "clear", None, ctypes.c_void_p(data.ctypes.data), i64(39))
    assert data.sum() == 1
    assert code.address("nothing") == 0


@pytest.mark.parametrize("linker", [Image, _Jit])
def test_files_call_each_other(linker):
    """Whichever comes first, and by the name that the C library has for another function, too."""
    texts = ["declare i64 @labs(i64)\ndefine i64 @first(i64 %x) {\n %y = call i64 @labs(i64 %x)\n %z = add i64 %y, 1\n ret i64 %z\n}",
             "define i64 @labs(i64 %x) {\n %y = mul i64 %x, 10\n ret i64 %y\n}"]  # fmt: skip
    for blobs in (texts, texts[::-1]):
        assert call(linker([compiled(t) for t in blobs]), "first", ctypes.c_int64, ctypes.c_int64(4)) == 41


def test_alignment_and_many_objects():
    code = Image([compiled(f"define i64 @f{i}() align 64 {{\n ret i64 {i}\n}}") for i in range(50)])
    assert [call(code, f"f{i}", ctypes.c_int64) for i in range(50)] == list(range(50))
    assert all(code.address(f"f{i}") % 64 == 0 for i in range(50))


def permissions(address):
    """Of the mapping that holds an address; none when there is none."""
    with open("/proc/self/maps") as f:
        lines = [line.split() for line in f]
    spans = [([int(x, 16) for x in span.split("-")], allowed) for span, allowed, *_ in lines]
    return [allowed for (first, last), allowed in spans if first <= address < last]


def test_pages_allow_no_more_than_they_need_and_are_freed(blob):
    code = Image([blob])
    at = code.address("look")
    assert permissions(at) == ["r-xp"]
    del code
    gc.collect()
    assert "r-xp" not in permissions(at)


def test_an_unknown_function():
    with pytest.raises(ArtifactError, match="calls no_such_thing"):
        Image([compiled("declare void @no_such_thing()\ndefine void @f() {\n call void @no_such_thing()\n ret void\n}")])


def test_an_unknown_relocation():
    text = "@x = external global i64\ndefine i64 @f() {\n %v = load i64, ptr @x\n ret i64 %v\n}"
    with pytest.raises(ArtifactError):
        Image([compiled(text)])


def test_names_of_the_loader_are_no_functions():
    with pytest.raises(ArtifactError, match="calls _handle"):
        Image([compiled("declare void @_handle()\ndefine void @f() {\n call void @_handle()\n ret void\n}")])


@pytest.mark.parametrize("at, byte", [(4, 1), (5, 2), (16, 3), (18, 0)])
def test_no_object(blob, at, byte):
    """Of 32 bits, big-endian, a shared library, of no machine: LLVM's loader would end the process."""
    bad = bytearray(blob)
    bad[at] = byte
    for data in (bytes(bad), b"\x7fELF" + bytes(100)):
        assert not is_x86_64(data)
        with pytest.raises(ArtifactError, match="malformed"):
            Code([data])


def test_relocations_to_no_symbol(blob):
    bad = bytearray(blob)
    (table,) = struct.unpack_from("<Q", blob, 40)
    for at in range(table, len(blob), 64):
        kind, offset, size = struct.unpack_from("<4xI16xQQ", blob, at)
        if kind == 4:  # relocations with addends
            for entry in range(offset, offset + size, 24):
                bad[entry + 12 : entry + 16] = bytes(4)
    with pytest.raises(ArtifactError, match="malformed"):
        Image([bytes(bad)])


def test_damaged_objects_are_refused_or_linked(blob):
    rng = np.random.default_rng(0)
    refused = 0
    (table,) = struct.unpack_from("<Q", blob, 40)
    for _ in range(400):
        bad = bytearray(blob)
        for _ in range(3):  # headers and tables, not instructions
            bad[rng.choice([rng.integers(16, 64), rng.integers(table, len(blob))])] = rng.integers(0, 256)
        try:
            Image([bytes(bad)])
        except ArtifactError:
            refused += 1
    assert refused > 100
    for cut in range(0, len(blob) - 1, 97):
        with pytest.raises(ArtifactError):
            Image([blob[:cut]])


def test_running_needs_no_compiler_once_the_cache_is_filled(static_parts, tmp_path):
    from mlc.runtime import artifact

    native()
    artifact.save(static_parts, tmp_path / "m.mlc")
    script = """
import sys, mlc
m = mlc.load(sys.argv[1])
import numpy as np
m(*[np.zeros(i.shape, i.dtype) for i in m.inputs])
print('llvmlite' in sys.modules)
"""
    runs = [subprocess.run([sys.executable, "-c", script, tmp_path / "m.mlc"], capture_output=True, text=True) for _ in range(2)]
    assert runs[1].stdout.strip() == "False", runs[1].stdout + runs[1].stderr


def test_other_machines_objects_are_for_llvm():
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple("aarch64-unknown-linux-gnu").create_target_machine(reloc="pic")
    blob = machine.emit_object(llvm.parse_assembly("define i64 @f() {\n ret i64 1\n}"))
    assert not is_x86_64(blob)
    with pytest.raises(ArtifactError):
        Image([blob])
    assert isinstance(Code([compiled("define void @f() {\n ret void\n}")])._image, Image)
