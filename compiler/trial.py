"""Calls tried in processes of their own: a library that crashes there, as a peer of `mlc bench` may on a model, ends one of these alone."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

Call = Callable[[], Any]


def crashes(tried: Mapping[str, Sequence[Call]]) -> dict[str, str]:
    """Which signal ended the process that made the calls of a name, one after the other: only of names where one did.

    Calls must be picklable. What they return or raise is dropped, and so is what they print. Names are tried at the same time.
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
    null = subprocess.DEVNULL
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in tried:
            running[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=null, stderr=null, env=env)
        for name, p in running.items():
            assert p.stdin
            with suppress(BrokenPipeError), p.stdin:
                pickle.dump(list(tried[name]), p.stdin)
        ended = {name: p.wait() for name, p in running.items()}
        return {name: signal.Signals(-code).name for name, code in ended.items() if code < 0}
    finally:
        for p in running.values():  # Ctrl-C
            if p.poll() is None:
                p.kill()
                p.wait()


def serve() -> None:
    """The process's work: calls from standard input."""
    for call in pickle.load(sys.stdin.buffer):
        with suppress(Exception):
            call()
    os._exit(0)  # a crash of destructors is none of a run
