"""Counts by set and mode at the end of a run."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

_CASE = re.compile(r"test_case\[(?P<mode>\w+)/(?P<kind>[\w-]+)/")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    counts: Counter[tuple[str, str, str]] = Counter()
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.stats.get(outcome, ()):
            found = _CASE.search(report.nodeid)
            if found:
                counts[found["kind"], found["mode"], outcome] += 1
    if not counts:
        return
    terminalreporter.section("ONNX backend suite")
    modes = list(dict.fromkeys(mode for _, mode, _ in sorted(counts)))
    terminalreporter.write_line("passed/failed/not run".ljust(22) + "".join(m.rjust(18) for m in modes))
    for kind in dict.fromkeys(kind for kind, _, _ in sorted(counts)):
        cells = ("/".join(str(counts[kind, m, o]) for o in ("passed", "failed", "skipped")) for m in modes)
        terminalreporter.write_line(kind.ljust(22) + "".join(c.rjust(18) for c in cells))
