"""The tables of docs/performance.md: `mlc bench` over the suite, and what it comes to all together.

Each model runs in a process of its own, by the command that a user gives.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from . import suite
from .tables import Row, mlc


@dataclass(frozen=True)
class Result:
    """One model at one number of threads.

    Attributes:
        ms: median milliseconds of a run, by engine; mlc and the peers that take the model.
        best_peer: the fastest peer's time over mlc's; above 1, mlc is ahead of all. None without a peer.
        scaling: mlc's time with one thread over this one; None where one thread was not timed.
    """

    model: str
    threads: int
    ms: dict[str, float]
    best_peer: float | None
    scaling: float | None

    def ratio(self, peer: str) -> float | None:
        """The peer's time over mlc's."""
        return self.ms[peer] / self.ms["mlc"] if peer in self.ms else None


def bench_rows(names: Sequence[str], options: Sequence[str] = ()) -> Iterator[Row]:
    """Times each model; a peer that refuses one is left out there."""
    for name in names:
        code, figures, error = mlc(["bench", name, *options])
        yield Row(name, {}, figures, error, code)


def results(rows: Sequence[Row]) -> list[Result]:
    """The figures of all rows that have any."""
    found = []
    for row in rows:
        timings = row.figures["timings"] if row.figures else []
        ours = {t["threads"]: t["median_ms"] for t in timings if t["engine"] == "mlc"}
        for threads, own in ours.items():
            ms = {t["engine"]: t["median_ms"] for t in timings if t["threads"] == threads}
            peers = [v for k, v in ms.items() if k != "mlc"]
            scaling = ours[1] / own if 1 in ours and threads > 1 else None
            found.append(Result(row.model, threads, ms, min(peers) / own if peers else None, scaling))
    return found


def summary(found: Sequence[Result]) -> list[dict[str, Any]]:
    """For each number of threads: geometric means of ratios and scaling, and the models where a peer is ahead."""
    lines = []
    for threads in dict.fromkeys(r.threads for r in found):
        here = [r for r in found if r.threads == threads]
        lines.append(
            {
                "threads": threads,
                "models": len(here),
                "best_peer": geometric_mean(r.best_peer for r in here),
                **{peer: geometric_mean(r.ratio(peer) for r in here) for peer in peers(found)},
                "scaling": geometric_mean(r.scaling for r in here),
                "behind": [r.model for r in here if r.best_peer is not None and r.best_peer < 1],
            }
        )
    return lines


def peers(found: Sequence[Result]) -> list[str]:
    """Engines other than mlc, in order of appearance."""
    return [e for e in dict.fromkeys(e for r in found for e in r.ms) if e != "mlc"]


def geometric_mean(values: Iterable[float | None]) -> float | None:
    """Of the values that there are; None of none."""
    known = [v for v in values if v is not None]
    return math.exp(sum(map(math.log, known)) / len(known)) if known else None


def table(rows: Sequence[Row], found: Sequence[Result]) -> str:
    """Markdown: every model and number of threads, then all together."""
    others = peers(found)
    head = ["model", "threads", "mlc ms", *(f"{p} ms" for p in others), *(f"{p} / mlc" for p in others), "best peer / mlc", "scaling"]
    lines = [_line(head), _line(["---", *["--:"] * (len(head) - 1)])]
    for row in rows:
        if row.figures is None:
            lines.append(_line([title(row.model), "", row.error.replace("|", "/")[:160], *[""] * (len(head) - 3)]))
            continue
        for r in (r for r in found if r.model == row.model):
            times = [_number(r.ms.get(e)) or "cannot run it" for e in ("mlc", *others)]
            ratios = [_number(r.ratio(p)) for p in others]
            lines.append(_line([title(row.model), str(r.threads), *times, *ratios, _number(r.best_peer), _number(r.scaling)]))
    totals = ["threads", "models", *(f"{p} / mlc" for p in others), "best peer / mlc", "scaling", "a peer is ahead on"]
    lines += ["", "Geometric means:", "", _line(totals), _line(["--:"] * (len(totals) - 1) + ["---"])]
    for s in summary(found):
        means = [_number(s[k]) for k in (*others, "best_peer", "scaling")]
        lines.append(_line([str(s["threads"]), str(s["models"]), *means, ", ".join(map(title, s["behind"])) or "–"]))
    for row in rows:
        for engine, why in (row.figures or {}).get("refused", {}).items():
            lines.append(f"\n{engine} does not run {title(row.model)}: {why[:160]}")
    return "\n".join(lines)


def as_json(rows: Sequence[Row], found: Sequence[Result]) -> dict[str, Any]:
    """Everything that `table` shows, and the reports of `mlc bench`."""
    return {
        "summary": summary(found),
        "results": [asdict(r) for r in found],
        "errors": {r.model: r.error for r in rows if r.figures is None},
        "reports": [r.figures for r in rows if r.figures is not None],
    }


def title(model: str) -> str:
    """A suite model's title; other names as they are."""
    prefix, _, rest = model.partition(":")
    return suite.SUITE[rest].title if prefix == "suite" and rest in suite.SUITE else model


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _number(x: float | None) -> str:
    return "" if x is None else f"{x:.2f}" if x >= 0.1 else f"{x:.4f}"
