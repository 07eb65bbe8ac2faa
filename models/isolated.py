"""Jobs in another process, one after the other: what hangs, faults or crashes there ends that process and not this one."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from ..errors import DeviceError, MlcError

_STARTING, _CLOSING = 300.0, 10.0  # seconds that a process gets to begin, imports included, and to end by itself


class Isolated:
    """A process that runs functions of modules (which it imports by name), restarted when it is lost.

    Args:
        healthy: called in the process after a job that raised; where it returns False, the next job gets a new process.
    """

    def __init__(self, healthy: Callable[[], bool]) -> None:
        self._healthy = healthy
        self._process: Any = None
        self._pipe: Connection | None = None

    def __enter__(self) -> Isolated:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def call(self, function: Callable[..., Any], *args: Any, seconds: float) -> Any:
        """What the function returns. Raises DeviceError when it raises, takes longer than `seconds`, or the process dies."""
        try:
            pipe = self._pipe if self._pipe is not None and self._process.is_alive() else self._start()
            pipe.send((function, args))
            if not pipe.poll(seconds):
                self._end(kill=True)
                raise DeviceError(f"no end after {seconds:.0f} s", remedy="MLC_CUDA_CHECK=1 names the kernel.")
            good, value, healthy = pipe.recv()
        except (EOFError, OSError):
            code = self._end(kill=True)
            raise DeviceError(f"the process died (exit code {code})") from None
        if not healthy:
            self._end()
        if not good:
            raise DeviceError(value)
        return value

    def _start(self) -> Connection:
        self._end(kill=True)
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._healthy), daemon=True)
        self._process.start()
        theirs.close()
        if not self._pipe.poll(_STARTING):
            raise EOFError
        self._pipe.recv()
        return self._pipe

    def _end(self, kill: bool = False) -> int | None:
        """Stop the process; its exit code."""
        process, pipe, self._process, self._pipe = self._process, self._pipe, None, None
        if process is None:
            return None
        if pipe is not None:
            pipe.close()
        if kill:
            process.kill()
        process.join(_CLOSING)
        if process.is_alive():
            process.kill()
            process.join(_CLOSING)
        return int(process.exitcode) if process.exitcode is not None else None


def _serve(pipe: Connection, healthy: Callable[[], bool]) -> None:
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        pipe.send("ready")
        while True:
            function, args = pipe.recv()
            fine = True
            try:
                good, value = True, function(*args)
            except MlcError as e:
                good, value, fine = False, e.found, healthy()
            except Exception as e:  # whatever a library raises is a row of the table
                good, value, fine = False, f"{type(e).__name__}: {e}", healthy()
            pipe.send((good, value, fine))
            if not fine:
                return
