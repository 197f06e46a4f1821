"""What a run reads: unchanged since it was started, and found good before anything is paid for."""

from data import prepare
from data.files import Folder
from data.store import Store
from evaluators import evaluate, sandbox
from sweeps import lineage
from sweeps.checks import Problem
from sweeps.config import MAY_CHANGE, SweepConfig
from sweeps.dotted import flat
from sweeps.ledger import read
from sweeps.lineage import Identities
from sweeps.loading import ConfigError
from sweeps.progress import Progress
from trainers import base


class Changed(ValueError):
    """A run is to be continued with another configuration or other data."""


def refuse_what_is_only_simulated(config: SweepConfig) -> None:
    """Raises ConfigError for what `fulcrum simulate` knows and a run does not yet."""
    if config.search.pruner:
        given = config.search.pruner.model_dump(mode="json")
        raise ConfigError([Problem("search.pruner", given, "prunes in `fulcrum simulate` only, for now; set it to null")])


def try_benchmarks(config: SweepConfig) -> None:
    """Raises ItemsUnusable for items that cannot be read, sandbox.Escaped where code would have to run unconfined."""
    for benchmark in evaluate.benchmarks(config.evaluate).values():
        benchmark.items()
    if config.evaluate.runs_code and not config.evaluate.allow_unsandboxed_code:
        sandbox.require()


def prepare_sources(config: SweepConfig, progress: Progress) -> None:
    """Tokenise every source that the store does not hold yet; stop where too many rows are bad."""
    store = Store(lineage.store_root(config))
    name = base.fingerprint(config.model)
    for source_name, source in config.sources.items():
        for length in lineage.lengths(config):
            record = prepare.prepare(source, name, lambda: base.open_tokenizer(config.model, store), length, store)
            bad = sum(record["quarantined"].values())
            quarantined = f", {bad} in quarantine {record['quarantined']}: {record['quarantine']}" if bad else ""
            progress.say(f"source {source_name}: {record['used']} of {record['rows']} rows{quarantined}")
            prepare.refuse_bad_rows(source_name, record, config.data.max_bad_rows)


def refuse_changes(folder: Folder, config: SweepConfig, known: Identities) -> None:
    """A run is continued with what it was started with: the fields that may change are listed in MAY_CHANGE."""
    written = folder.read("config.json")
    if written is None:
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
    started = [e for e in read(folder) if e["event"] == "run_started"]
    if started and "simulation" in started[0] and known.plain() != started[0]["identities"]:
        changed = ["  it is a simulation"]
    if started and not changed and started[0]["identities"] != known.plain():
        changed = ["  the files that the sources, the model or the benchmarks are read from have changed"]
    if changed:
        told = "\n".join(changed)
        raise Changed(f"{folder} was started with another configuration\n{told}\n  give the run another `name`")
