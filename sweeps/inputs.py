"""What a run reads: unchanged since it was started, and found good before anything is paid for."""

from collections.abc import Mapping
from functools import partial
from itertools import product

from data import contamination, prepare
from data.config import SourceConfig
from data.conversations import Tell
from data.files import Folder
from data.store import Record, Store
from evaluators import evaluate, sandbox
from evaluators.config import EvaluateConfig
from sweeps import lineage
from sweeps.beside import on_test
from sweeps.config import MAY_CHANGE, SweepConfig
from sweeps.dotted import flat
from sweeps.ledger import read
from sweeps.lineage import Identities
from sweeps.progress import Progress
from trainers import base
from trainers.config import ModelConfig


class Changed(ValueError):
    """A run is to be continued with another configuration or other data."""


def try_benchmarks(config: SweepConfig) -> None:
    """Raises ItemsUnusable for items that cannot be read, JudgeUnusable for a judge whose key is not there, sandbox.Escaped
    where code would have to run unconfined."""
    for evaluates in _evaluations(config).values():
        try_evaluation(evaluates)


def _evaluations(config: SweepConfig) -> dict[str, EvaluateConfig]:
    """The benchmarks of the search, and those of the confirmation, by what is added to their names."""
    confirm = config.search.confirm
    return {"": config.evaluate} | ({" (test)": on_test(config.evaluate, confirm)} if confirm else {})


def try_evaluation(config: EvaluateConfig) -> None:
    """The same for the benchmarks alone."""
    for benchmark in evaluate.benchmarks(config).values():
        benchmark.check()
    if config.runs_code and not config.allow_unsandboxed_code:
        sandbox.require()


def notes(config: SweepConfig) -> list[str]:
    """What a person should know of the benchmarks before a sweep is paid for."""
    built = evaluate.benchmarks(config.evaluate)
    return [f"{name}: {note}" for name, benchmark in built.items() for note in benchmark.notes()]


def prepare_sources(config: SweepConfig, progress: Progress) -> None:
    """Tokenise every source that the store does not hold yet; stop where too many rows are bad, or are evaluation items.

    Raises SourceUnusable, TooManyBadRows or Contaminated.
    """
    store = Store(lineage.store_root(config))
    models = {base.fingerprint(model): model for model in lineage.models(config)}
    for name, source in config.sources.items():
        for length, model in product(lineage.lengths(config), models.values()):
            record = prepared(config, model, source, length, store, telling(progress, name))
            lost = prepare.where_rows_went(record)
            file = f": {prepare.quarantine_file(record, store)}" if record["quarantined"] else ""
            progress.say(f"source {name}: {record['used']} of {record['rows']} rows{f', {lost}{file}' if lost else ''}")
            prepare.refuse_bad_rows(name, record, config.data.max_bad_rows, store)
    _refuse_overlap(config, store, progress)


def telling(progress: Progress, name: str) -> Tell:
    """Tells of the work on a source."""
    return lambda text: progress.doing(f"source {name}: {text}")


def prepared(config: SweepConfig, model: ModelConfig, source: SourceConfig, length: int, store: Store, tell: Tell) -> Record:
    """The record of a source's tokens for a model and a length."""
    opened = partial(base.open_tokenizer, model, store)
    return prepare.prepare(source, base.fingerprint(model), opened, length, store, lineage.held_out(config), tell)


def _refuse_overlap(config: SweepConfig, store: Store, progress: Progress) -> None:
    """Measure which evaluation items stand in the rows that are trained on."""
    built = {
        name + added: benchmark
        for added, evaluates in _evaluations(config).items()
        for name, benchmark in evaluate.benchmarks(evaluates).items()
        if not added or evaluates.benchmarks[name] != config.evaluate.benchmarks[name]
    }
    items = {name: [item.turns for item in benchmark.items()] for name, benchmark in built.items()}
    held_out = lineage.held_out(config)
    for name, source in config.sources.items() if items else ():
        progress.doing(f"source {name}: looking for evaluation items")
        record = contamination.overlap(source, items, store, held_out)
        for benchmark, told in record["benchmarks"].items():
            if told["touched"]:
                progress.say(f"source {name}: {contamination.sentence(benchmark, told)}")
        contamination.refuse_overlap(name, record, config.data.max_overlap)


def refuse_changes(folder: Folder, config: SweepConfig, known: Identities) -> None:
    """A run is continued with what it was started with: the fields that may change are listed in MAY_CHANGE.

    One that was stopped before it was started, say by bad rows, may be started with anything.
    """
    written = folder.read("config.json")
    started = [event for event in read(folder) if event["event"] == "run_started"]
    if written is None or not started:
        return
    try:
        before = flat(SweepConfig.model_validate_json(written).model_dump(mode="json"))
    except ValueError as error:
        raise Changed(f"{folder}/config.json cannot be read ({error}); give the run another `name`") from error
    now = flat(config.model_dump(mode="json"))
    changed = [
        f"  {field}: {before.get(field)!r} before, {now.get(field)!r} now"
        for field in sorted(before.keys() | now.keys())
        if before.get(field) != now.get(field) and not field.startswith(MAY_CHANGE)
    ]
    if "simulation" in started[0] and known.plain() != started[0]["identities"]:
        changed = ["  it is a simulation"]
    if not changed and started[0]["identities"] != known.plain():
        changed = ["  the files that the sources, the model or the benchmarks are read from have changed"]
    changed += _other_judges(started[0]["identities"].get("judges", {}), known.judges) if changed else []
    if changed:
        told = "\n".join(changed)
        raise Changed(f"{folder} was started with another configuration\n{told}\n  give the run another `name`")


def _other_judges(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Ratings of two judges are never mixed, nor those under two sets of prompts or references."""
    return [
        f"  evaluate.{name} was rated by {before.get(name)}, would now be by {now.get(name)}; judges are never mixed"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
