"""Kernels compiled by several processes, some of them before all are written."""

import os
import subprocess
import sys

import pytest
from mlc.codegen.cpu import parallel
from mlc.codegen.cpu.parallel import CompilePool
from mlc.codegen.cpu.target import host
from mlc.errors import CodegenError


def texts(count):
    return {f"f{i}": f"define i64 @f{i}(i64 %x) {{\n  %y = mul i64 %x, {i + 2}\n  ret i64 %y\n}}\n" for i in range(count)}


@pytest.mark.parametrize("workers", [0, 1])
def test_all_come_back_whoever_compiled_them(workers, monkeypatch):
    monkeypatch.setenv("MLC_NO_CACHE", "1")
    kernels, seen = texts(9), []
    with CompilePool(host(), workers) as pool:
        pool.start()
        for symbol in ("f0", "f1", "f2"):
            pool.offer({symbol: kernels[symbol]})
        found = pool.compile(kernels, seen.append)
        again = pool.compile({s: kernels[s] for s in ("f1", "f8")})
    assert list(found) == list(kernels) and sorted(seen) == sorted(kernels)
    assert all(code.startswith(b"\x7fELF") for code in found.values())
    assert again == {s: found[s] for s in ("f1", "f8")}


def test_a_further_process_starts_with_what_is_offered(monkeypatch):
    monkeypatch.setenv("MLC_NO_CACHE", "1")

    def refuse(text, target):
        raise AssertionError("compiled here")

    kernels = texts(2)
    with CompilePool(host(), 1) as pool:
        pool.start()
        for symbol, text in kernels.items():
            pool.offer({symbol: text})
        with pool._changed:
            assert pool._changed.wait_for(lambda: len(pool._objects) == 2, timeout=60)
        monkeypatch.setattr(parallel, "compile_ir", refuse)
        assert set(pool.compile(kernels)) == set(kernels)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_what_was_offered(workers):
    with CompilePool(host(), workers) as pool:
        pool.start()
        pool.offer({"bad": "no LLVM"})
        with pytest.raises(CodegenError):
            pool.compile({"bad": "no LLVM", **texts(3)})


def test_what_was_offered_is_not_waited_for():
    with CompilePool(host(), 1) as pool:
        pool.start()
        for symbol, text in texts(50).items():
            pool.offer({symbol: text})
    assert not pool._processes and not pool._helpers


def test_an_interrupt_on_the_terminal_is_for_this_process_only():
    """Else each further process prints where it was interrupted."""
    with CompilePool(host(), 1) as pool:
        pool.start()
        assert all(os.getpgid(p.pid) != os.getpgid(0) for p in pool._processes)


def test_a_process_that_only_compiles_imports_no_numpy():
    code = "import sys, mlc.codegen.cpu.parallel; sys.exit('numpy' in sys.modules)"
    path = os.pathsep.join(p for p in sys.path if p)
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}).returncode == 0
