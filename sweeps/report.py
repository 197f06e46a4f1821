"""The report of a sweep: one HTML file that needs nothing else, and the two figures in it.

Everything that a model or a data set wrote is escaped by the template.
"""

import base64
from collections.abc import Sequence
from typing import Any

import jinja2

from data.files import Folder
from sweeps import figures, results
from sweeps.balance import BalancePoint
from sweeps.config import SweepConfig
from sweeps.ledger import Event


def write(folder: Folder, events: Sequence[Event], config: SweepConfig, chosen: BalancePoint | None) -> None:
    """Write `report.html`, and `front.png` and `tradeoff.png` where a trial was completed."""
    points = results.points(events)
    drawn: dict[str, str] = {}
    simulated = results.simulated(events)
    title = "simulation" if simulated else ""
    if points:
        images = {
            "front": figures.front_figure(points, chosen, title),
            "tradeoff": figures.tradeoff_figure(points, chosen, title),
        }
        for name, image in images.items():
            folder.write(f"{name}.png", image)
        drawn = {name: base64.b64encode(image).decode() for name, image in images.items()}
    rows = results.rows(events, config)
    template = jinja2.Environment(
        loader=jinja2.PackageLoader("sweeps"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    ).get_template("report.html")
    page = template.render(
        config=config,
        simulated=simulated,
        chosen=chosen,
        sentence=sentence(chosen, config),
        rows=rows,
        columns=[c for c in (rows[0] if rows else {}) if c != "error" and not c.endswith("_stderr")],
        errors=[row for row in rows if row["error"]],
        figures=drawn,
        warnings=warnings(events, config),
        device_seconds=sum(row["device_seconds"] for row in rows),
        saved=sum(row["saved_device_seconds"] for row in rows),
        show=show,
    )
    folder.write("report.html", page.encode())


def sentence(chosen: BalancePoint | None, config: SweepConfig) -> str:
    """The balance point in one sentence."""
    if chosen is None:
        return "No balance point: no completed trial satisfies the rule."
    at = figures.label(chosen.params) or "the configuration as given"
    return (
        f"Balance point: {at} (trial {chosen.trial}), specialist {chosen.scores['specialist']:.3f}, "
        f"general {chosen.scores['general']:.3f}; {chosen.reason}; chosen again in {chosen.confidence:.0%} of the tables "
        f"redrawn within their standard errors."
    )


def warnings(events: Sequence[Event], config: SweepConfig) -> list[str]:
    """What a reader must know before believing a number."""
    simulated = results.simulated(events)
    told = [simulated] if simulated else []
    if unsandboxed(config) and not simulated:
        told.append("Model-written code was run with process limits but WITHOUT a sandbox (allow_unsandboxed_code).")
    judges = {name: judge for e in results.trials(events) for name, judge in (e.get("judges") or {}).items()}
    for name, judge in sorted(judges.items()):
        if name == "mt_bench":
            told.append(f"The column mt_bench was rated by {judge!r}, which looks at form only: it is no MT-Bench score.")
        else:
            told.append(f"The column {name} was rated by the {judge}, a fixed rule.")
    if any(benchmark.limit for benchmark in config.evaluate.benchmarks.values()):
        told.append("Scores come from the first items of each benchmark only (limit).")
    if any(0 in (e.get("stderr") or {}).values() for e in results.trials(events)):
        told.append("An error of 0 means that all items of a benchmark agreed, not that the score is certain.")
    told.append("The confidence covers the sampling of benchmark items, not the seed of the training.")
    return told


def unsandboxed(config: SweepConfig) -> bool:
    """Whether model-written code ran outside the sandbox."""
    return config.evaluate.runs_code and config.evaluate.allow_unsandboxed_code


def show(value: Any) -> str:
    """A table cell."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
