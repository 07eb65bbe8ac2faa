"""How many threads to use when nobody says, and where they run."""

from __future__ import annotations

import ctypes
import os


def default_threads() -> int:
    """The least of: CPUs this process may run on, the cgroup's CPU quota (rounded up), OMP_NUM_THREADS."""
    counts = [len(os.sched_getaffinity(0))]
    quota = _cgroup_quota()
    if quota is not None:
        counts.append(quota)
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if first.isdigit() and int(first) > 0:
        counts.append(int(first))
    return max(1, min(counts))


def current_core() -> int:
    """Number of the core that the calling thread runs on."""
    return int(ctypes.CDLL(None).sched_getcpu())


def leave_core(core: int) -> None:
    """Have the calling thread run on others of its cores, if there are any. Not by `os.sched_setaffinity`, which lets no other thread
    run Python while the kernel moves this one, for up to 4 ms where a core has to wake."""
    if others := os.sched_getaffinity(0) - {core}:
        mask = sum(1 << c for c in others).to_bytes(8 * (max(others) // 64 + 1), "little")
        ctypes.CDLL(None).sched_setaffinity(0, len(mask), mask)


def _cgroup_quota(root: str | os.PathLike[str] = "/sys/fs/cgroup") -> int | None:
    def read(name: str) -> str:
        with open(os.path.join(root, name)) as f:
            return f.read()

    try:
        quota, period = read("cpu.max").split()
        return None if quota == "max" else max(1, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    try:  # cgroup version 1
        q = int(read("cpu/cpu.cfs_quota_us"))
        return max(1, -(-q // int(read("cpu/cpu.cfs_period_us")))) if q > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
