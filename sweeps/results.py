"""The trials table and the balance point, computed from the ledger alone."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as parquet
import yaml

from data.files import Folder
from sweeps import comparisons, space
from sweeps.accounts import Accounts
from sweeps.balance import BalancePoint, Point, choose, plain
from sweeps.comparisons import Comparison
from sweeps.config import SweepConfig
from sweeps.confirmation import anchors, confirmation
from sweeps.ledger import Event
from sweeps.loading import with_params

Row = dict[str, Any]


def trials(events: Sequence[Event]) -> list[Event]:
    """The last `trial_finished` of each trial, by number."""
    last = {event["trial"]: event for event in events if event["event"] == "trial_finished"}
    return [last[number] for number in sorted(last)]


def simulated(events: Iterable[Event]) -> str | None:
    """The sentence that stands wherever results of a simulation are shown; None for a real run."""
    started = next((event for event in events if event["event"] == "run_started"), {})
    about = started.get("simulation")
    if not about:
        return None
    return (
        f"SIMULATION against the surface {about['surface']}: no model was trained, every score, second and device-second "
        f"is made up (seed {about['world']})."
    )


def rows(events: Sequence[Event], config: SweepConfig) -> list[Row]:
    """One row per finished trial, with the same columns in each."""
    params, benchmarks = list(space.columns(config.search.space)), list(config.evaluate.benchmarks)
    accounts = Accounts(events)
    return [
        {"trial": t["trial"], "state": t["state"]}
        | {name: t["params"].get(name) for name in params}
        | _scores(t, benchmarks)
        | {"specialist": t.get("specialist"), "general": t.get("general")}
        | accounts.cost(t["trial"], t.get("stages") or ())
        | {"error": t.get("error")}
        for t in trials(events)
    ]


def points(events: Sequence[Event]) -> list[Point]:
    """The completed trials as points to balance."""
    return [
        Point(
            trial=t["trial"],
            params=t["params"],
            scores=t["scores"] | {"specialist": t["specialist"], "general": t["general"]},
            objectives=(t["specialist"], t["general"]),
            stderr=(t["specialist_stderr"], t["general_stderr"]),
        )
        for t in trials(events)
        if t["state"] == "complete"
    ]


def write(folder: Folder, events: Sequence[Event], config: SweepConfig) -> tuple[BalancePoint | None, list[Comparison]]:
    """Write the tables, `balance.json` and `best.yaml`; the balance point, None where no trial can be chosen, and which
    trials can be told apart."""
    table = pa.Table.from_pylist(rows(events, config), schema=_schema(config))
    _write_table(folder, table)
    completed = points(events)
    try:
        chosen = choose(completed, config.balance)
    except ValueError as nothing:
        _write_json(folder, "balance.json", {"trial": None, "reason": str(nothing)})
        folder.remove("best.yaml")
        return None, comparisons.compare(folder, config, completed, None)
    compared = comparisons.compare(folder, config, completed, chosen.trial)
    alike = comparisons.alike_to(compared, chosen.trial)
    confirmed = confirmation(events, config.balance, completed, chosen.trial)
    chosen = replace(chosen, alike=alike, confirmation=confirmed, anchors=anchors(events))
    _write_json(folder, "balance.json", plain(chosen))
    folder.write("best.yaml", best(config, chosen, simulated(events)).encode())
    return chosen, compared


def best(config: SweepConfig, chosen: BalancePoint, simulated: str | None = None) -> str:
    """The balance point as a configuration that `fulcrum train` runs."""
    values = with_params(config, chosen.params).model_dump(mode="json", exclude_none=True)
    values.pop("search", None)
    values["name"] = f"{config.name}-best"
    head = f"# {simulated} It tells nothing about your data.\n" if simulated else ""
    head += f"# trial {chosen.trial} of {config.name}: {chosen.reason}\n"
    return head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _scores(trial: Event, benchmarks: Sequence[str]) -> Row:
    values: Mapping[str, float] = trial.get("scores") or {}
    errors: Mapping[str, float] = trial.get("stderr") or {}
    return {k: v for name in benchmarks for k, v in ((name, values.get(name)), (f"{name}_stderr", errors.get(name)))}


def _schema(config: SweepConfig) -> pa.Schema:
    names = {"trial": pa.int64(), "state": pa.string()}
    names |= {name: _type(parameter) for name, parameter in space.columns(config.search.space).items()}
    for name in config.evaluate.benchmarks:
        names |= {name: pa.float64(), f"{name}_stderr": pa.float64()}
    names |= dict.fromkeys(("specialist", "general", "device_seconds", "saved_device_seconds"), pa.float64())
    return pa.schema([*names.items(), ("error", pa.string())])


def _type(parameter: Any) -> pa.DataType:
    values = list(getattr(parameter, "values", None) or [getattr(parameter, "low", 0.0)])
    if all(isinstance(v, bool) for v in values):
        return pa.bool_()
    if all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        return pa.int64()
    return pa.float64() if all(isinstance(v, int | float) for v in values) else pa.string()


def _write_table(folder: Folder, table: pa.Table) -> None:
    columns, lines = pa.BufferOutputStream(), pa.BufferOutputStream()
    parquet.write_table(table, columns)
    csv.write_csv(table, lines, csv.WriteOptions(quoting_style="needed"))
    folder.write("trials.parquet", columns.getvalue().to_pybytes())
    folder.write("trials.csv", lines.getvalue().to_pybytes())


def _write_json(folder: Folder, name: str, values: Mapping[str, Any]) -> None:
    folder.write(name, json.dumps(values, indent=2, ensure_ascii=False).encode())
