"""Loads native code: the thread pool and program interpreter (native.ll), and object files of modules."""

from __future__ import annotations

import ctypes
import functools
import os
import threading
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from ..environment import cache_dir, switch
from ..errors import ArtifactError, TargetError
from .elf import Image

# Number of the futex system call; type and call of the spin-wait hint.
_MACHINES = {
    "x86_64": ("202", "@llvm.x86.sse2.pause()", "@llvm.x86.sse2.pause()"),
    "aarch64": ("98", "@llvm.aarch64.hint(i32)", "@llvm.aarch64.hint(i32 1)"),
}


class Context(ctypes.Structure):
    """%Ctx of native.ll. All pointers as integers; whoever fills it in keeps the memory alive."""

    _fields_ = [
        ("program", ctypes.c_size_t),
        ("words", ctypes.c_int64),
        ("fns", ctypes.c_size_t),
        ("bufs", ctypes.c_size_t),
        ("dims", ctypes.c_size_t),
        ("threads", ctypes.c_int64),
        ("scratch", ctypes.c_size_t),
        ("times", ctypes.c_size_t),
        ("resume", ctypes.c_int64),
        ("tables", ctypes.c_size_t),
        ("shortcuts", ctypes.c_size_t),
        ("starts", ctypes.c_size_t),
    ]


class Native(NamedTuple):
    """Entry points of native.ll; `run(address of a Context)` and the pool's `forget`, `workers`, `parallel`, `taking`, `team`;
    `checksum(address, bytes)` as a signed integer, `checksums(address, bytes, bytes of a block, a counter, where to)`;
    `evaluate(address of tables, address of words)`: −1, or the number of the word that failed."""

    run: Any
    forget: Any
    workers: Any
    parallel: Any
    taking: Any
    team: Any
    checksum: Any
    checksums: Any
    evaluate: Any


class Code:
    """Object files loaded into the process; unloaded when this is collected. Raises ArtifactError for what cannot be loaded."""

    def __init__(self, objects: list[bytes]) -> None:
        self._image = Image(objects) if os.uname().machine == "x86_64" else _Jit(objects)

    def address(self, symbol: str) -> int:
        """Address of a function, 0 when absent."""
        return self._image.address(symbol)

    def keep(self) -> None:
        """Never unload, not even when the interpreter ends and forgets its modules: threads may still be in it then."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))


class _Jit:
    """Objects of machines other than x86-64, linked by LLVM. It ends the process for malformed ones."""

    def __init__(self, objects: list[bytes]) -> None:
        llvm = _llvm()
        with _LOCK:
            machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
            self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
            try:
                for blob in objects:
                    self._engine.add_object_file(llvm.ObjectFileRef.from_data(blob))
                self._engine.finalize_object()
            except RuntimeError as e:
                raise ArtifactError(f"the object code does not load: {str(e)[:100]}") from None

    def address(self, symbol: str) -> int:
        with _LOCK:
            return int(self._engine.get_function_address(symbol))


_LOCK = threading.Lock()
_native: Native | None = None


@functools.cache
def _llvm() -> Any:
    """llvmlite.binding, ready for this machine. Imported when needed only: it takes 60 MB and 40 ms."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


def native() -> Native:
    """The runtime's entry points, compiled on first use. Raises TargetError on an unsupported machine."""
    global _native
    if _native is None:
        code = compiled("native")
        i64, ptr = ctypes.c_int64, ctypes.c_size_t
        loaded = Native(
            run=ctypes.CFUNCTYPE(ctypes.c_int, ptr)(code.address("mlc_run")),
            forget=ctypes.CFUNCTYPE(None)(code.address("mlc_forget")),
            workers=ctypes.CFUNCTYPE(i64)(code.address("mlc_workers")),
            parallel=ctypes.CFUNCTYPE(None, ptr, ptr, ptr, i64, i64, i64)(code.address("mlc_parallel")),
            taking=ctypes.CFUNCTYPE(None, ptr, ptr, ptr, i64, i64, i64)(code.address("mlc_taking")),
            team=ctypes.CFUNCTYPE(None, ptr, ptr, ptr, i64, i64, i64)(code.address("mlc_team")),
            checksum=ctypes.CFUNCTYPE(i64, ptr, i64)(code.address("mlc_checksum")),
            checksums=ctypes.CFUNCTYPE(None, ptr, i64, i64, ptr, ptr)(code.address("mlc_checksums")),
            evaluate=ctypes.CFUNCTYPE(i64, ptr, ptr)(code.address("mlc_evaluate")),
        )
        code.keep()  # workers run in it until the process ends
        with _LOCK:
            if _native is None:  # of two threads that come here at once, one wins: there is one pool
                os.register_at_fork(after_in_child=loaded.forget)
                _native = loaded
    return _native


def source(machine: str, name: str = "native") -> str:
    """native.ll, or another file beside it, for "x86_64" or "aarch64"."""
    futex, kind, pause = _MACHINES[machine]
    with open(os.path.join(os.path.dirname(__file__), f"{name}.ll"), encoding="utf-8") as f:
        text = f.read()
    return text.replace("$FUTEX$", futex).replace("$PAUSE_TYPE$", kind).replace("$PAUSE$", pause)


def compiled(name: str) -> Code:
    """A file of LLVM text beside this one, as machine code. Raises TargetError on an unsupported machine."""
    machine = os.uname().machine
    if machine not in _MACHINES or os.uname().sysname != "Linux":
        raise TargetError(f"this machine is {os.uname().sysname} {machine}", expected="Linux on x86_64 or aarch64")
    text = source(machine, name)
    return Code([_cached(f"{machine}\n{text}", name, lambda: _compile(text))])


def _compile(text: str) -> bytes:
    llvm = _llvm()
    with _LOCK:
        module = llvm.parse_assembly(text)
        machine = llvm.Target.from_default_triple().create_target_machine(opt=2, reloc="pic", codemodel="default", jit=True)
        module.triple, module.data_layout = machine.triple, str(machine.target_data)
        # the files are written as LLVM would leave them: more passes take three times as long, for code that is no faster
        builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=0))
        builder.getModulePassManager().run(module, builder)
        return bytes(machine.emit_object(module))


@functools.cache
def host_features() -> frozenset[str]:
    """Instruction set features that this process may use, in LLVM's names.

    Linux lends the tile registers of AMX to processes that ask for them (arch_prctl ARCH_REQ_XCOMP_PERM, XTILEDATA).
    """
    found = frozenset(_cached(_machine_text(), "host", _detect).decode().split())
    if "amx-tile" in found and ctypes.CDLL(None).syscall(158, 0x1023, 18) != 0:
        return frozenset(f for f in found if not f.startswith("amx"))
    return found


def check_target(target: object) -> None:
    """Raise TargetError unless this machine runs code of the manifest's target."""
    if not isinstance(target, dict) or not isinstance(target.get("triple"), str) or not isinstance(target.get("features"), list):
        raise ArtifactError("the manifest names no target")
    machine, wanted = os.uname().machine, target["triple"].split("-")[0]
    if machine != wanted:
        raise TargetError(
            f"a module for {wanted[:40]}", expected=f"{machine}, which this machine is", remedy="Compile with another --target."
        )
    missing = sorted({str(f) for f in target["features"]} - host_features()) if target["features"] else []
    if missing:
        raise TargetError(f"a module for {str(target.get('cpu'))[:40]} that needs {', '.join(missing)[:200]}",
                          expected="features that this machine has", remedy="Compile with another --target.")  # fmt: skip


def _detect() -> bytes:
    return " ".join(sorted(name for name, present in _llvm().get_host_cpu_features().items() if present)).encode()


def _machine_text() -> str:
    """What tells this machine from others that may share the cache: its first processor, as Linux describes it."""
    with open("/proc/cpuinfo") as f:
        lines = f.read().partition("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if "MHz" not in line and "bogomips" not in line.lower())


def _cached(key: str, kind: str, make: Callable[[], bytes]) -> bytes:
    """`make()`, or what it gave before for this key."""
    named = key.encode()
    path = os.path.join(cache_dir(), f"{kind}-{zlib.crc32(named):08x}")
    if switch("MLC_NO_CACHE") or not os.path.isabs(path):
        return make()
    found = _read_cache(path, named)
    if found is None:
        _write_cache(path, named, found := make())
    return found


def _read_cache(path: str, key: bytes) -> bytes | None:
    """A file holds a checksum of the rest, the key, whose length tells where it ends, and what was made of it.

    hashlib would do as well, and takes 3 ms to import.
    """
    try:
        with open(path, "rb") as f:
            data = f.read()
    except OSError:
        return None
    head = len(key).to_bytes(8, "little") + key
    if data[4 : 4 + len(head)] != head or zlib.crc32(data[4:]) != int.from_bytes(data[:4], "little"):
        return None
    return data[4 + len(head) :]


def _write_cache(path: str, key: bytes, blob: bytes) -> None:
    # A cache that cannot be written costs time, nothing else.
    import tempfile

    data = len(key).to_bytes(8, "little") + key + blob
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path))
        try:
            with os.fdopen(handle, "wb") as f:
                f.write(zlib.crc32(data).to_bytes(4, "little") + data)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError:
        return
