"""LLVM IR text to object code, with a cache on disk by content."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import Any

import llvmlite
import llvmlite.binding as llvm

from ...environment import switch
from ...errors import CodegenError
from ..disk_cache import cache_dir, read_checked, write_checked
from .emitted import REPEATS, TIDY, WALKED
from .target import CpuTarget, initialize

_LOCAL = threading.local()
# LLVM's reduction of strength takes a quarter of making machine code, and saves an instruction of a hundred where loops step
# their pointers. It is an option of the process, so that kernels are emitted one at a time (as they are anyway: llvmlite has a
# lock, too).
_EMITTING = threading.Lock()
# LLVM's models of these move loads of later steps up to where sums fill all registers: 12 rows by 2 vectors then keep 65 of them on
# the stack in every turn of the loop (58 % of the multiply-adds of Zen 4, and 88 without).
_SCHEDULED_AS = {"znver4": "x86-64-v4", "znver5": "x86-64-v4"}
# Emitters write vectors and loops explicitly, so cleaning up is all that is wanted of LLVM. Its own list runs most passes several
# times, and takes as long as making machine code does; these take a quarter of that, and the code is as fast.
_BETWEEN_FUNCTIONS = ("ipsccp", "dead_arg_elimination", "global_opt")
_WITHIN = ("simplify_cfg", "sroa", "instruction_combine", "new_gvn", "loop_rotate", "instruction_combine", "dead_store_elimination",
           "aggressive_dce", "simplify_cfg")  # fmt: skip


def compile_ir(ir_text: str, target: CpuTarget) -> bytes:
    """An object file for the module. Raises CodegenError when LLVM rejects the text.

    The result is cached in `$XDG_CACHE_HOME/mlc` (default ~/.cache/mlc) under the hash of text, target, passes and LLVM version;
    an entry that does not carry its own digest is ignored and written anew. `MLC_NO_CACHE=1` turns the cache off.
    """
    parts = ir_text, repr(_identity(target)), repr((_BETWEEN_FUNCTIONS, _WITHIN)), llvmlite.__version__
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    path = cache_dir() / key[:2] / f"{key}.o"
    use_cache = not switch("MLC_NO_CACHE")
    if use_cache and (data := read_checked(path)) is not None:
        return data
    data = _compile(ir_text, target)
    if use_cache:
        write_checked(path, data)
    return data


def _identity(target: CpuTarget) -> tuple[str, str, str]:
    """Triple, processor whose instructions LLVM schedules for, features."""
    return target.triple, _SCHEDULED_AS.get(target.cpu, target.cpu), target.llvm_features


def _compile(ir_text: str, target: CpuTarget) -> bytes:
    module, _context = _optimised(ir_text, target)
    reduce = not (target.is_x86 and target.vector_registers == 32 and ir_text.startswith(WALKED))
    with _EMITTING:
        try:
            if not reduce:
                llvm.set_option("", "-disable-lsr=true")
            return bytes(_machine(target).emit_object(module))
        finally:
            if not reduce:
                llvm.set_option("", "-disable-lsr=false")


def _optimised(ir_text: str, target: CpuTarget) -> tuple[Any, Any]:
    initialize()
    context = llvm.create_context()
    try:
        module = llvm.parse_assembly(ir_text, context)
        machine = _machine(target)
        module.triple = target.triple
        module.data_layout = str(machine.target_data)
        module.verify()
    except RuntimeError as e:
        raise CodegenError(f"LLVM rejects generated code: {e}", remedy="This is a bug in mlc; please report it with --dump") from None
    _optimise(module, target, ir_text)
    return module, context


def _optimise(module: Any, target: CpuTarget, ir_text: str) -> None:
    if ir_text.startswith((TIDY, WALKED)):
        builder = _pass_builder(target, 2)
        _passes(_BETWEEN_FUNCTIONS + _WITHIN).run(module, builder)
    elif ir_text.startswith(REPEATS):  # llvmlite has no pass alone that moves work out of loops: LLVM's shortest list for functions
        builder = _pass_builder(target, 1)
        _passes(_BETWEEN_FUNCTIONS).run(module, builder)
        each = builder.getFunctionPassManager()
        for function in module.functions:
            if not function.is_declaration:
                each.run(function, builder)
    else:
        builder = _pass_builder(target, 2)
        builder.getModulePassManager().run(module, builder)


def _passes(names: Sequence[str]) -> Any:
    manager = llvm.create_new_module_pass_manager()
    for name in names:
        getattr(manager, f"add_{name}_pass")()
    return manager


def _pass_builder(target: CpuTarget, level: int) -> Any:
    """A builder and what it made serve one compilation."""
    options = llvm.create_pipeline_tuning_options(speed_level=level)
    options.loop_vectorization = False
    options.slp_vectorization = False
    options.loop_unrolling = False
    options.loop_interleaving = False
    return llvm.create_pass_builder(_machine(target), options)


def _machines() -> dict[tuple[str, tuple[str, str, str]], Any]:
    if not hasattr(_LOCAL, "machines"):
        _LOCAL.machines = {}
    machines: dict[tuple[str, tuple[str, str, str]], Any] = _LOCAL.machines
    return machines


def _machine(target: CpuTarget) -> Any:
    """One target machine per thread: LLVM's are not shareable between threads."""
    triple, cpu, features = identity = _identity(target)
    key = ("machine", identity)
    machine = _machines().get(key)
    if machine is None:
        initialize()
        machine = _machines()[key] = llvm.Target.from_triple(triple).create_target_machine(
            cpu=cpu, features=features, opt=2, reloc="pic", codemodel="small"
        )
    return machine
