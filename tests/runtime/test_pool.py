"""The native thread pool: every unit runs exactly once, whoever calls, also in children of fork."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import llvmlite.binding as llvm
import numpy as np
import pytest
from mlc.runtime.native import Context, native, source
from mlc.runtime.threads import _cgroup_quota, default_threads, leave_core

KERNEL = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_int64), ctypes.c_int64, ctypes.c_int64)


def parallel(units, grain, threads):
    """Units counted, and the chunks seen."""
    counts = np.zeros(units, np.int64)
    chunks = []

    @KERNEL
    def kernel(bufs, dims, begin, end):
        counts[begin:end] += 1
        chunks.append((begin, end, threading.get_ident()))

    native().parallel(ctypes.cast(kernel, ctypes.c_void_p).value, 0, 0, units, grain, threads)
    return counts, chunks


@pytest.mark.parametrize("units, grain, threads", [(1, 1, 4), (2, 1, 2), (7, 3, 4), (1000, 1, 3), (1001, 17, 2), (64, 64, 8), (50, 0, 8)])
def test_each_unit_runs_once(units, grain, threads):
    counts, chunks = parallel(units, grain, threads)
    assert (counts == 1).all()
    if units <= grain or threads == 1:
        assert [c[:2] for c in chunks] == [(0, units)]
    sizes = {e - b for b, e, _ in chunks}
    assert min(sizes) >= min(grain, units) and max(sizes) - min(sizes) <= 1
    assert len({c[2] for c in chunks}) <= threads


def awake(run, expected):
    """What `run` finds right behind a step that wakes workers, else a small one would be the caller's alone. Again, until it is expected."""
    until = time.monotonic() + 30
    while (found := (parallel(1000, 1, 8), run())[1]) != expected and time.monotonic() < until:
        time.sleep(0.01)
    return found


def test_threads_get_equally_many_chunks():
    for units, grain, threads, chunks in (
        (36, 1, 2, 16),
        (7, 1, 2, 6),
        (7, 2, 2, 2),
        (3, 1, 2, 2),
        (13, 2, 3, 6),
        (2, 1, 3, 2),
        (5, 3, 2, 1),
        (36, -1, 2, 2),  # one a thread
        (7, -2, 8, 3),
        (5, -3, 2, 1),
    ):
        assert awake(lambda u=units, g=grain, t=threads: len(parallel(u, g, t)[1]), chunks) == chunks


def test_nobody_is_woken_for_what_is_over_soon():
    """Small steps behind a pause, and behind a burst that was short: workers sleep on. Large ones are shared out all the same."""
    alone, until = [(0, 63, threading.get_ident())], time.monotonic() + 30
    while parallel(63, 1, 2)[1] != alone:  # the burst before may have been long, or this thread kept off its core
        assert time.monotonic() < until, "a worker was always woken"
        time.sleep(0.1)
    time.sleep(0.1)
    assert len(parallel(64, 1, 2)[1]) == 16


TAKE = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int64))
TAKING = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, TAKE, ctypes.c_void_p)


def taking(units, grain, threads, slow=0.0):
    """Units counted, and the chunks that each call took, whose first thread waits a while for each."""
    counts, calls = np.zeros(units, np.int64), []

    @TAKING
    def kernel(bufs, dims, take, share):
        chunk, taken = (ctypes.c_int64 * 2)(), []
        calls.append((threading.get_ident(), taken))
        while take(share, chunk):
            counts[chunk[0] : chunk[1]] += 1
            taken.append((chunk[0], chunk[1]))
            time.sleep(slow if threading.get_ident() == threading.main_thread().ident else 0)

    native().taking(ctypes.cast(kernel, ctypes.c_void_p).value, 0, 0, units, grain, threads)
    return counts, calls


@pytest.mark.parametrize("units, grain, threads", [(1, 1, 4), (2, 1, 2), (7, 3, 4), (1000, 1, 3), (1001, 17, 2), (64, 64, 8), (5, 1, 1)])
def test_kernels_take_each_unit_once(units, grain, threads):
    counts, calls = taking(units, grain, threads)
    assert (counts == 1).all() and 1 <= len(calls) <= threads
    chunks = [c for _, taken in calls for c in taken]
    if units <= grain or threads == 1:
        assert chunks == [(0, units)]
    assert min(e - b for b, e in chunks) >= min(grain, units) and len(chunks) <= 8 * threads


def test_a_thread_that_is_slow_takes_fewer_chunks():
    until = time.monotonic() + 30  # a worker that is kept off its core may miss it all
    while True:
        counts, calls = taking(64, 1, 2, slow=0.002)
        assert (counts == 1).all() and sum(len(taken) for _, taken in calls) == 16
        own = [len(taken) for who, taken in calls if who == threading.main_thread().ident]
        if own[0] < 8:
            break
        assert time.monotonic() < until, "no worker ever took a chunk of the caller's"


def test_many_takers_at_once():
    def work(k):
        for i in range(20):
            counts, _ = taking(k * 10 + i + 1, 1 + i % 3, 1 + k % 5) if i % 2 else parallel(k * 10 + i + 1, 1, 3)
            assert (counts == 1).all()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(16)))


def test_many_callers_at_once():
    def work(k):
        for i in range(30):
            counts, _ = parallel(k * 10 + i + 1, 1 + i % 3, 1 + k % 5)
            assert (counts == 1).all()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(24)))


TEAM = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.CFUNCTYPE(None, ctypes.c_int64))


def team(units, grain, threads, rounds=20):
    """Run a team whose members check that nobody is a round ahead or behind; the number of members."""
    seen, progress = [], np.zeros(256, np.int64)
    wrong = []

    @TEAM
    def member(bufs, dims, part, parts, barrier):
        seen.append((part, parts))
        for r in range(rounds):
            progress[part] += 1
            barrier(parts)
            if (progress[:parts] != r + 1).any():
                wrong.append((part, r))
            barrier(parts)

    native().team(ctypes.cast(member, ctypes.c_void_p).value, 0, 0, units, grain, threads)
    parts = seen[0][1]
    assert not wrong and sorted(seen) == [(p, parts) for p in range(parts)]
    return parts


def test_team_meets_at_barriers():
    assert team(10, 10, 4) == 1 and team(10, 1, 1) == 1 and team(0, 1, 4) == 1
    assert awake(lambda: team(8, 1, 2), 2) == 2  # who asks does not wait for members: a worker that is kept off its core misses the start
    assert all(1 <= team(8, 1, 5) <= 5 for _ in range(5))
    assert all(1 <= team(9, 3, 5) <= 3 for _ in range(5))


def test_teams_of_many_callers():
    def work(k):
        for i in range(15):
            if (i + k) % 2:
                assert 1 <= team(6, 1, 2 + k % 3, rounds=3) <= 4
            else:
                assert (parallel(50 + k, 1, 3)[0] == 1).all()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(16)))


def test_workers_are_shared_and_few():
    parallel(100, 1, 4)
    assert 0 < native().workers() <= 256
    before = native().workers()
    for _ in range(50):
        parallel(100, 1, 3)
    assert native().workers() == before


def test_fork():
    """The busy thread runs a C function: threads that call Python make and end thread states without the GIL, which in CPython
    3.11 blocks a child that is forked at that moment."""
    script = """
import ctypes, os, sys, threading
sys.path.insert(0, sys.argv[1])
import test_pool as t
assert (t.parallel(500, 1, 3)[0] == 1).all()
stop, harmless = threading.Event(), ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p).value
def busy():
    while not stop.is_set(): t.native().parallel(harmless, 0, 0, 300, 1, 3)
caller = threading.Thread(target=busy); caller.start()
for _ in range(10):
    pid = os.fork()
    if pid == 0:
        ok = t.native().workers() == 0
        ok &= all((t.parallel(500, 1, 3)[0] == 1).all() for _ in range(5))
        ok &= all(1 <= t.team(9, 1, 3) <= 3 for _ in range(5))
        ok &= t.native().workers() == 2
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
stop.set(); caller.join()
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script, os.path.dirname(__file__)], check=True, timeout=60)


def interpret(words, buffers, dims=(0,)):
    program, table = np.array(words, np.int64), np.array([b.ctypes.data for b in buffers], np.int64)
    values, fns, scratch = np.array(dims, np.int64), np.zeros(1, np.int64), np.zeros(8, np.int64)
    at = [a.ctypes.data for a in (program, fns, table, values, scratch)]
    context = Context(at[0], len(words), at[1], at[2], at[3], 1, at[4], 0)
    return native().run(ctypes.addressof(context))


def test_control_instructions():
    a, b = np.array(7, np.int64), np.array(3, np.int64)
    assert interpret([], [a]) == 0
    assert interpret([5, 0, 4, 0, 4, 0], [a]) == 0 and a == 2
    # while a < b: a += 1
    assert interpret([6, 0, 1, 8, 4, 0, 2, 0], [a, b]) == 0 and a == 3
    flag, n = np.array(False), np.array(0, np.int64)
    assert interpret([3, 0, 5, 4, 1, 4, 1], [flag, n]) == 0 and n == 1
    flag[...] = True
    assert interpret([3, 0, 5, 4, 1, 4, 1], [flag, n]) == 0 and n == 3
    assert interpret([99, 0], [a]) == 1


def test_an_expectation_that_is_not_met_stops_the_program():
    """The second pair, least and greatest, against limits in dim slots; what comes behind does not run."""
    ends, n = np.array([[-9, 9], [-2, 1]], np.int64), np.array(0, np.int64)
    for lo, hi, code in ((-2, 1, 0), (-1, 1, 3), (-2, 0, 3), (-3, 2, 0)):
        n[...] = 0
        assert interpret([9, 0, 0, 1, 0, 1, 4, 1], [ends, n], (lo, hi)) == code
        assert n == (code == 0)


@pytest.mark.parametrize("machine, hint", [("x86_64", "pause"), ("aarch64", "yield")])
def test_both_machines_compile(machine, hint):
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    native()
    triple = f"{machine}-unknown-linux-gnu"
    target = llvm.Target.from_triple(triple).create_target_machine(opt=2, reloc="pic")
    module = llvm.parse_assembly(source(machine))
    module.verify()
    module.triple = triple
    assert hint in target.emit_assembly(module)


def test_default_thread_count(monkeypatch, tmp_path):
    usable = len(os.sched_getaffinity(0))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert 1 <= default_threads() <= usable
    monkeypatch.setenv("OMP_NUM_THREADS", "1,2")
    assert default_threads() == 1
    for text, count in (("max 100000", None), ("150000 100000", 2), ("20000 100000", 1), ("junk", None)):
        (tmp_path / "cpu.max").write_text(text)
        assert _cgroup_quota(tmp_path) == count


def test_code_stays_when_the_interpreter_forgets_it() -> None:
    """Workers wait in native code until the process ends: a stop and a start then send them back into it."""
    code = (
        "import ctypes, gc, mlc.runtime.native as n, time\n"
        "kernel = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 2)(lambda *_: time.sleep(0.01))\n"
        "n.native().parallel(ctypes.cast(kernel, ctypes.c_void_p).value, 0, 0, 8, 1, 4)\n"
        "assert n.native().workers() > 0\n"
        "n.__dict__.clear()\n"
        "gc.collect()\n"
        "print('ready', flush=True)\n"
        "time.sleep(0.5)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        time.sleep(0.05)
        for number in (signal.SIGSTOP, signal.SIGCONT):
            child.send_signal(number)
            time.sleep(0.05)
        assert child.wait(60) == 0


def test_a_thread_leaves_a_core():
    allowed, seen = os.sched_getaffinity(0), []

    def leave(core: int) -> None:
        leave_core(core)
        seen.append(os.sched_getaffinity(0))

    first = min(allowed)
    for core in (first, max(allowed) + 1):
        thread = threading.Thread(target=leave, args=(core,))
        thread.start()
        thread.join()
    assert seen == [allowed - {first} or allowed, allowed] and os.sched_getaffinity(0) == allowed
