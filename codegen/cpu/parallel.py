"""Compile many kernels at once.

llvmlite takes one process-wide lock around every LLVM call, so threads gain nothing: further processes do. One takes a third
of a second to start, so small models do without, and for others they start while the graph is still being optimized.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import IO

from ...errors import CodegenError
from .compile import compile_ir
from .target import CpuTarget


class CompilePool:
    """This process, and after `start` `workers` further ones, which end with the `with` block.

    Kernels that are offered as soon as they are written keep the further processes busy while this one writes the others.
    """

    def __init__(self, target: CpuTarget, workers: int | None = None) -> None:
        self.target = target
        self.workers = max(0, len(os.sched_getaffinity(0)) - 1) if workers is None else workers
        self._processes: list[subprocess.Popen[str]] = []
        self._helpers: list[threading.Thread] = []
        self._changed = threading.Condition()  # guards all below
        self._known: set[str] = set()
        self._waiting: dict[str, str] = {}
        self._objects: dict[str, bytes] = {}
        self._errors: list[BaseException] = []
        self._closed = False

    def __enter__(self) -> CompilePool:
        return self

    def start(self) -> None:
        """Start the further processes; `compile` uses those that there are."""
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        command = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
        for _ in range(self.workers):
            # a group of its own: Ctrl-C on a terminal is for this process, which ends them
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, process_group=0)
            self._processes.append(process)
            self._helpers.append(threading.Thread(target=self._help, args=(self._remote(process),), daemon=True))
            self._helpers[-1].start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        for p in self._processes:
            p.kill()  # all answers are in, or nobody wants them: one that is still starting is not waited for
        for t in self._helpers:
            t.join()
        for p in self._processes:
            assert p.stdin and p.stdout
            with contextlib.suppress(OSError):
                p.stdin.close()
            p.stdout.close()
            p.wait()
        self._processes.clear()
        self._helpers.clear()

    def offer(self, texts: Mapping[str, str]) -> None:
        """What `compile` will ask for. Nothing happens without further processes."""
        if self._processes:
            self._add(texts)

    def _add(self, texts: Mapping[str, str]) -> None:
        with self._changed:
            self._waiting.update((symbol, text) for symbol, text in texts.items() if symbol not in self._known)
            self._known.update(texts)
            self._changed.notify_all()

    def compile(self, texts: Mapping[str, str], done: Callable[[str], None] = lambda symbol: None) -> dict[str, bytes]:
        """Object code by symbol. Raises CodegenError naming the kernel that LLVM refuses."""
        self._add(texts)
        missing = dict.fromkeys(texts)
        while missing:
            job = self._take(wait=False)
            if job is not None:
                self._build(*job, lambda text: compile_ir(text, self.target))
            with self._changed:
                while job is None and not self._errors and not any(s in self._objects for s in missing):
                    self._changed.wait()
                if self._errors:
                    raise self._errors[0]
                finished = [s for s in missing if s in self._objects]
            for symbol in finished:
                del missing[symbol]
                done(symbol)
        return {s: self._objects[s] for s in texts}

    def _take(self, wait: bool) -> tuple[str, str] | None:
        """The longest text that nobody works on: the last job to finish is then a short one."""
        with self._changed:
            while wait and not self._waiting and not self._closed:
                self._changed.wait()
            if not self._waiting:
                return None
            symbol = max(self._waiting, key=lambda s: len(self._waiting[s]))
            return symbol, self._waiting.pop(symbol)

    def _build(self, symbol: str, text: str, build: Callable[[str], bytes]) -> None:
        found: bytes | BaseException
        try:
            found = build(text)
        except BaseException as e:
            found = e
        with self._changed:
            if isinstance(found, bytes):
                self._objects[symbol] = found
            else:
                self._errors.append(found)
                self._waiting.clear()
            self._changed.notify_all()

    def _help(self, build: Callable[[str], bytes]) -> None:
        while (job := self._take(wait=True)) is not None:
            self._build(*job, build)

    def _remote(self, process: subprocess.Popen[str]) -> Callable[[str], bytes]:
        stdin, stdout = process.stdin, process.stdout
        assert stdin and stdout
        t = self.target
        header = json.dumps([t.triple, t.cpu, sorted(t.features), t.vector_bits])

        def build(text: str) -> bytes:
            try:
                stdin.write(json.dumps([header, text]) + "\n")
                stdin.flush()
                line = stdout.readline()
            except OSError as e:
                raise CodegenError(f"a compile process ended: {e}") from None
            if not line:
                raise CodegenError("a compile process ended early", remedy="memory may be short: see the system log")
            answer = json.loads(line)
            if "error" in answer:
                raise CodegenError(answer["error"])
            return base64.b64decode(answer["object"])

        return build


def _target(header: str) -> CpuTarget:
    triple, cpu, features, bits = json.loads(header)
    return CpuTarget(triple, cpu, frozenset(features), bits)


def serve(source: IO[str] | None = None, sink: IO[str] | None = None) -> None:
    """The loop of a compile process: a JSON request a line in, a JSON answer a line out."""
    source, sink = source or sys.stdin, sink or sys.stdout
    for line in source:
        header, text = json.loads(line)
        try:
            answer = {"object": base64.b64encode(compile_ir(text, _target(header))).decode()}
        except Exception as e:
            answer = {"error": str(e)}
        sink.write(json.dumps(answer) + "\n")
        sink.flush()
