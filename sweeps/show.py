"""Tables and closing lines for a person."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from data.files import Folder
from sweeps import report, results
from sweeps.balance import BalancePoint
from sweeps.config import SweepConfig
from sweeps.ledger import read
from sweeps.plan import Plan
from sweeps.results import Row


def trials(console: Console, rows: Sequence[Row], chosen: BalancePoint | None) -> None:
    """One line per trial; the balance point is marked."""
    columns = [name for name in (rows[0] if rows else {}) if not name.endswith("_stderr") and name != "error"]
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        mark = "bold" if chosen and row["trial"] == chosen.trial else None
        table.add_row(*(Text(report.show(row[name])) for name in columns), style=mark)
    console.print(table)


def ending(console: Console, folder: Folder, config: SweepConfig, chosen: BalancePoint | None) -> None:
    """The balance point in one sentence, warnings, and where everything lies."""
    simulated = results.simulated(read(folder))
    lines = [*([simulated] if simulated else []), report.sentence(chosen, config)]
    lines += filter(None, [report.confirmed(chosen)])
    if report.unsandboxed(config) and not simulated:
        lines.append("Model-written code ran WITHOUT a sandbox (evaluate.allow_unsandboxed_code).")
    lines += [f"report: {folder}/report.html"]
    lines += [f"next: fulcrum train {folder}/best.yaml"] if chosen else []
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def plan(console: Console, planned: Plan) -> None:
    """The stage graph with what is known of its cost."""
    table = Table("stage", "parent", "mixture", "trials", "state", "tokens", "device-seconds", box=None, pad_edge=False)
    for stage in planned.stages:
        mixture = ", ".join(f"{name} {fraction:.4g}" for name, fraction in stage.mixture.items())
        state = "cached" if stage.cached else "to train"
        cells = [stage.key[:8], (stage.parent or "base")[:8], mixture, str(stage.trials), state]
        table.add_row(*map(Text, [*cells, report.show(stage.tokens), report.show(stage.device_seconds)]))
    console.print(table)
    for line in _plan_lines(planned):
        console.print(line, markup=False, soft_wrap=True)


def _plan_lines(planned: Plan) -> list[str]:
    stages, left = len(planned.stages), len(planned.to_train)
    lines = [
        f"{planned.trials} trials, {stages} stages ({planned.unshared_stages} without sharing), "
        f"{stages - left} cached, {left} to train"
    ]
    if not planned.exact:
        lines.append("the sampler decides the trials; this is the plan at the mean of its space")
    if planned.confirmed:
        lines.append(f"the confirmation trains {planned.confirmed} recipes more, which are not counted here")
    if planned.device_hours is None:
        remedy = "or write resources.pools.train.tokens_per_second"
        lines.append(f"device-hours: unknown until a stage of this model has been trained into this storage; {remedy}")
    else:
        lines.append(f"device-hours: about {planned.device_hours:.3g}, evaluation not counted")
    if planned.price and planned.cost is not None:
        lines.append(f"cost: about {planned.cost:.2f}")
    for name, limit, needed in (
        ("device_hours", planned.budget.device_hours, planned.device_hours),
        ("usd", planned.budget.usd, planned.cost),
    ):
        if limit is not None:
            beyond = needed is not None and needed > limit
            lines.append(f"budget.{name} = {limit:g}: " + ("NOT enough for this plan" if beyond else "the run stops there"))
    lines.append(f"head: about {planned.head_mib} MiB for each trial at a time")
    return lines


def status(console: Console, folder: Folder) -> None:
    """How far a run is, from its ledger."""
    events = read(folder)
    ended = {e["trial"]: e["state"] for e in events if e["event"] == "trial_finished"}
    open_trials = {e["trial"] for e in events if e["event"] == "trial_started"} - ended.keys()
    stages = Counter(e["event"] for e in events if e["event"].startswith("stage_"))
    states = ", ".join(f"{number} {state}" for state, number in Counter(ended.values()).items()) or "none"
    if simulated := results.simulated(events):
        console.print(simulated, markup=False, soft_wrap=True)
    console.print(f"{folder.name}: trials finished: {states}; open: {len(open_trials)}", markup=False)
    console.print(f"stages trained: {stages['stage_finished']}, reused: {stages['stage_reused']}", markup=False)
    over = any(e["event"] == "run_finished" for e in events[-1:])
    held = folder.exists("holder.json")
    console.print("state: " + ("finished" if over else "running, or cut off" if held else "stopped"), markup=False)
