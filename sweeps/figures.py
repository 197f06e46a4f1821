"""The two figures of a sweep, with matplotlib."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np

from sweeps.balance import BalancePoint, Point, front

COLOURS = {"specialist": "#b5482a", "general": "#2a6f97", "front": "#888888", "chosen": "#111111"}
LABELLED = 30
"""Of more points only those on the front are labelled."""
TICKS = 10
"""Of more values along the axis, so many stand for all."""


def front_figure(points: Sequence[Point], chosen: BalancePoint | None, title: str = "") -> bytes:
    """Specialist against general with error bars of one standard error, the front, and the balance point; a PNG."""
    figure, axes = _axes(title)
    table, errors = np.array([p.objectives for p in points]), np.array([p.stderr for p in points])
    axes.errorbar(*table.T, xerr=errors[:, 0], yerr=errors[:, 1], fmt="o", color=COLOURS["general"], capsize=2)
    ends = table[sorted(front(table), key=lambda i: table[i, 0])]
    axes.plot(*ends.T, color=COLOURS["front"], linewidth=1, zorder=0, label="front")
    on_front = set(front(table))
    for i, point in enumerate(points):
        if len(points) > LABELLED and i not in on_front:
            continue
        name = label(point.params) if len(point.params) <= 2 else f"trial {point.trial}"
        axes.annotate(name, point.objectives, xytext=(5, 5), textcoords="offset points", fontsize=8)
    if chosen:
        x, y = next(p.objectives for p in points if p.trial == chosen.trial)
        axes.scatter([x], [y], s=160, facecolors="none", edgecolors=COLOURS["chosen"], label="balance point", zorder=3)
    axes.set_xlabel("specialist (0 to 1)")
    axes.set_ylabel("general (0 to 1)")
    axes.legend(frameon=False)
    return _png(figure)


def tradeoff_figure(points: Sequence[Point], chosen: BalancePoint | None, title: str = "") -> bytes:
    """Both objectives over the first numeric parameter that all trials have; a PNG."""
    figure, axes = _axes(title)
    names = [n for n in points[0].params if all(isinstance(p.params.get(n), int | float) for p in points)]
    name = names[0] if names else "trial"
    value = {p.trial: float(p.params[name]) if names else float(p.trial) for p in points}
    ordered = sorted(points, key=lambda p: value[p.trial])
    for i, objective in enumerate(("specialist", "general")):
        axes.errorbar(
            [value[p.trial] for p in ordered],
            [p.objectives[i] for p in ordered],
            yerr=[p.stderr[i] for p in ordered],
            fmt="o-",
            capsize=2,
            color=COLOURS[objective],
            label=objective,
        )
    _scale(axes, sorted(set(value.values())))
    if chosen:
        axes.axvline(value[chosen.trial], color=COLOURS["chosen"], linewidth=1, linestyle=":", label="balance point")
    axes.set_xlabel(name)
    axes.set_ylabel("objective (0 to 1)")
    axes.legend(frameon=False)
    return _png(figure)


def label(params: Any) -> str:
    """Parameters as short text."""
    return ", ".join(f"{n}={v:.3g}" if isinstance(v, float) else f"{n}={v}" for n, v in params.items())


def _scale(axes: Any, values: Sequence[float]) -> None:
    """A logarithmic axis that has room for 0, where the values span more than a decade."""
    positive = [v for v in values if v > 0]
    if positive and values[0] >= 0 and max(positive) / min(positive) > 10:
        axes.set_xscale("symlog", linthresh=min(positive), base=2)
        ticks = (
            values if len(values) <= TICKS else [*values[: values[0] == 0], *np.geomspace(min(positive), max(positive), TICKS)]
        )
        axes.set_xticks(ticks, [f"{v:.3g}" for v in ticks], rotation=45)
        axes.minorticks_off()


def _axes(title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, color=COLOURS["specialist"])
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Any) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
