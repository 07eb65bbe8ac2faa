"""Compile many kernels at once.

llvmlite takes one process-wide lock around every LLVM call, so threads gain nothing: further processes do. One takes a third
of a second to start, so small models do without, and for others they start while the graph is still being optimized.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
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
    """This process, and after `start` `workers` further ones, which end with the `with` block."""

    def __init__(self, target: CpuTarget, workers: int | None = None) -> None:
        self.target = target
        self.workers = max(0, len(os.sched_getaffinity(0)) - 1) if workers is None else workers
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> CompilePool:
        return self

    def start(self) -> None:
        """Start the further processes; `compile` uses those that there are."""
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        command = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
        for _ in range(self.workers):
            self._processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for p in self._processes:
            assert p.stdin and p.stdout
            p.kill()  # all answers are in, or nobody wants them: one that is still starting is not waited for
            with contextlib.suppress(OSError):
                p.stdin.close()
            p.stdout.close()
            p.wait()
        self._processes.clear()

    def compile(self, texts: Mapping[str, str], done: Callable[[str], None] = lambda symbol: None) -> dict[str, bytes]:
        """Object code by symbol. Raises CodegenError naming the kernel that LLVM refuses."""
        jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
        # Longest first: the last job to finish is then a short one.
        for symbol in sorted(texts, key=lambda s: -len(texts[s])):
            jobs.put(symbol)
        objects: dict[str, bytes] = {}
        errors: list[BaseException] = []

        def drain(build: Callable[[str], bytes]) -> None:
            while not errors:
                try:
                    symbol = jobs.get_nowait()
                except queue.Empty:
                    return
                try:
                    objects[symbol] = build(texts[symbol])
                except BaseException as e:
                    errors.append(e)
                    return
                done(symbol)

        helpers = [threading.Thread(target=drain, args=(self._remote(p),)) for p in self._processes]
        for t in helpers:
            t.start()
        drain(lambda text: compile_ir(text, self.target))
        for t in helpers:
            t.join()
        if errors:
            raise errors[0]
        return {s: objects[s] for s in texts}

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
