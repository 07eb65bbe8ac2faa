"""The frontier as one self-contained HTML page: the plot, the table, and the choice under the bound."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ...errors import InputError
from .metrics import Bound, shown
from .pareto import Point, choice, frontier


def require_plots() -> None:
    """Raises InputError without matplotlib."""
    try:
        import matplotlib.figure  # noqa: F401 (whether it is installed)
    except ImportError as e:
        raise InputError(
            "drawing the frontier needs matplotlib", remedy="pip install 'mlc[plot]', or leave --html out", loc="--html"
        ) from e


def page(title: str, points: Sequence[Point], bound: Bound | None, about: dict[str, Any]) -> str:
    """HTML text. `about` are further facts to list (versions, data). Raises InputError without matplotlib."""
    metric = bound.name if bound else "relative-l2"
    best = frontier(points, metric)
    chosen = choice(points, metric, bound.limit) if bound else None
    env = Environment(loader=PackageLoader(__package__, "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return env.get_template("pareto.html.j2").render(
        title=title, points=points, frontier={p.name for p in best}, chosen=chosen, metric=metric, bound=bound, about=about,
        plot=_plot(points, best, chosen, metric, bound), metrics=list(points[0].losses), shown=shown,
    )  # fmt: skip


def _plot(points: Sequence[Point], best: Sequence[Point], chosen: Point | None, metric: str, bound: Bound | None) -> str:
    """An SVG element: speed-up against loss."""
    require_plots()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([p.losses[metric] for p in best], [p.speedup for p in best], color="#888", drawstyle="steps-post", zorder=1, label="frontier")
    for p in points:
        on = p in best
        axes.scatter([p.losses[metric]], [p.speedup], color="#0b6" if p is chosen else "#05a" if on else "#bbb", s=60, zorder=2)
        axes.annotate(p.name, (p.losses[metric], p.speedup), textcoords="offset points", xytext=(6, 5), fontsize=9)
    if bound is not None:
        axes.axvline(bound.limit, color="#c33", linestyle="--", label=f"bound: {bound}")
    largest = max(p.losses[metric] for p in points)
    smallest = min((p.losses[metric] for p in points if p.losses[metric] > 0), default=0.0)
    if smallest and largest / smallest > 30:
        axes.set_xscale("symlog", linthresh=smallest)
    axes.set_xlabel(f"loss: {shown(metric)}")
    axes.set_ylabel("speed-up over float32")
    axes.legend(loc="lower right")
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
