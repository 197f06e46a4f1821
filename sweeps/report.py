"""The report of a sweep: one HTML file that needs nothing else, and the two figures in it.

Everything that a model or a data set wrote is escaped by the template.
"""

import base64
from collections.abc import Sequence
from typing import Any

import jinja2

from data.files import Folder
from sweeps import figures, judging, results
from sweeps.accounts import Accounts
from sweeps.balance import BalancePoint
from sweeps.comparisons import OBJECTIVES, Comparison, alike, detectable
from sweeps.config import SweepConfig
from sweeps.confirmation import failed
from sweeps.ledger import Event


def write(
    folder: Folder,
    events: Sequence[Event],
    config: SweepConfig,
    chosen: BalancePoint | None,
    compared: Sequence[Comparison],
) -> None:
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
        judging=judging.bill(events),
        apart=apart(compared),
        confirmed=confirmed(chosen),
        without_split=without_split(config) if config.search.confirm else [],
        compared=[c for c in compared if chosen and chosen.trial in c.trials],
        device_seconds=sum(row["device_seconds"] for row in rows) + Accounts(events).cost(None, ())["device_seconds"],
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
        f"redrawn within their standard errors.{_alike(chosen)}"
    )


def _alike(chosen: BalancePoint) -> str:
    if not chosen.alike:
        return ""
    return f" {_trials(chosen.alike)} cannot be told apart from it on these items."


def apart(compared: Sequence[Comparison]) -> list[str]:
    """Which of the compared trials cannot be told apart, and how large a difference would have to be."""
    pairs = alike(compared)
    partners = {one: [sum(pair) - one for pair in pairs if one in pair] for one in sorted({t for pair in pairs for t in pair})}
    told = [f"Trial {one} cannot be told apart from {', '.join(map(str, others))}." for one, others in partners.items()]
    if compared and not pairs:
        told.append("Each of the compared pairs is told apart by at least one objective.")
    for objective in OBJECTIVES:
        least = detectable(compared, objective)
        if least == 0:
            told.append(f"In {objective} all items changed alike: they cannot say how small a difference would be found.")
        elif least is not None:
            told.append(f"A difference in {objective} below {least:.3f} is missed more often than once in five comparisons.")
    return told


def confirmed(chosen: BalancePoint | None) -> str | None:
    """What the test items say of the choice; None where none were asked."""
    found = chosen.confirmation if chosen else None
    if chosen is None or not found:
        return None
    seeds, trials = found["trials"][0]["seeds"], [t["trial"] for t in found["trials"]]
    how = f"trained again with {seeds} fresh seeds and scored on the test items"
    if chosen.trial not in trials:
        return f"Trial {chosen.trial} was not confirmed; {_trials(trials)} {'was' if len(trials) == 1 else 'were'}: {how}."
    if len(trials) == 1:
        return f"Trial {chosen.trial} was {how}; there was no other candidate."
    if found["winner"] is None:
        return f"No candidate, {how}, satisfies the rule of the balance."
    if found["changed"]:
        return f"THE WINNER CHANGED: {how}, trial {found['winner']} would be chosen in place of trial {chosen.trial}."
    return f"Confirmed: {how}, trial {chosen.trial} is chosen again among {len(found['trials'])} candidates."


def _trials(numbers: Sequence[int]) -> str:
    named = ", ".join(map(str, numbers))
    return f"Trial {named}" if len(numbers) == 1 else f"Trials {named}"


def warnings(events: Sequence[Event], config: SweepConfig) -> list[str]:
    """What a reader must know before believing a number."""
    simulated = results.simulated(events)
    told = [simulated] if simulated else []
    if unsandboxed(config) and not simulated:
        told.append("Model-written code was run with process limits but WITHOUT a sandbox (allow_unsandboxed_code).")
    told += judging.warnings(events)
    told += failed(events)
    if any(benchmark.limit for benchmark in config.evaluate.benchmarks.values()):
        told.append("Scores come from the first items of each benchmark only (limit).")
    if any(0 in (e.get("stderr") or {}).values() for e in results.trials(events)):
        told.append("An error of 0 means that all items of a benchmark agreed, not that the score is certain.")
    gsm8k = config.evaluate.gsm8k
    if gsm8k is not None and gsm8k.split == "test":
        told.append("The search was steered on the test set of gsm8k (split: test), so its scores are those of seen questions.")
    repeats = config.search.repeats
    if repeats == 1:
        told.append("The confidence covers the sampling of benchmark items, not the seed of the training.")
    else:
        told.append(f"The confidence covers the sampling of benchmark items and, from {repeats} repeats, the seed of the "
                    "training; comparisons item by item cover the items alone.")  # fmt: skip
    return told


def without_split(config: SweepConfig) -> list[str]:
    """Benchmarks that have no test items of their own, so that a confirmation asks what the search has asked."""
    return [name for name, benchmark in config.evaluate.benchmarks.items() if not hasattr(benchmark, "split")]


def unsandboxed(config: SweepConfig) -> bool:
    """Whether model-written code ran outside the sandbox."""
    return config.evaluate.runs_code and config.evaluate.allow_unsandboxed_code


def show(value: Any) -> str:
    """A table cell."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
