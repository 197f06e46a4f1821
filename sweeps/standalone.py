"""`fulcrum evaluate`: the benchmarks of a configuration on any model folder, without a sweep and without Ray."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ConfigDict, Field
from rich.console import Console
from rich.table import Table
from rich.text import Text

from data.checkpoints import Checkpoint, in_folder
from data.config import Frozen
from data.fingerprint import digest, folder_digest
from data.store import Record, Store, write_atomically
from evaluators.config import EvaluateConfig
from evaluators.generation.config import EndpointConfig
from sweeps import loading
from sweeps.checks import evaluation
from sweeps.checks.problem import Problem, entries
from sweeps.lineage import root
from sweeps.loading import ConfigError


class _Trust(Frozen):
    model_config = ConfigDict(extra="ignore")

    trust_remote_code: bool = False
    """Run Python code that comes with the model."""


class StandaloneConfig(Frozen):
    """What an evaluation needs of a sweep's configuration; the rest of it may be there, and is not looked at."""

    model_config = ConfigDict(extra="ignore")

    storage: str = Field(default="runs", min_length=1)
    """Where the store lies."""
    model: _Trust = _Trust()
    """Whether the model's own code may run."""
    evaluate: EvaluateConfig
    """The benchmarks, by name."""


def evaluate(
    model_dir: Annotated[str, typer.Argument(metavar="MODEL_DIR", help="Hugging Face folder or adapter folder.")],
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A configuration, or its part `evaluate` alone.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Fields to set.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the results; default evaluated/<name of MODEL_DIR>.")] = None,
) -> None:
    """Evaluate any Hugging Face folder with the benchmarks of a configuration. What the store holds is not made again."""
    from sweeps.cli import out as console

    values = loading.parse_as(StandaloneConfig, _check, loading.given(config, overrides or []))
    folder = out or Path("evaluated") / Path(model_dir).resolve().name
    records = run(model_dir, values, folder, console)
    show(console, records)
    console.print(f"results: {folder / 'results.json'}", markup=False, soft_wrap=True)


def run(model_dir: str, config: StandaloneConfig, folder: Path, console: Console) -> dict[str, Record]:
    """Evaluate, and write `results.json` and a file per benchmark with every item. The records by benchmark."""
    from evaluators.entries import EVALUATIONS, evaluate_here
    from sweeps.inputs import try_evaluation

    store = Store(f"{root(config.storage)}/store")
    checkpoint, identity = _opened(model_dir, config, store)
    try_evaluation(config.evaluate)
    trust = config.model.trust_remote_code
    records = evaluate_here(checkpoint, identity, config.evaluate, store, trust, lambda line: console.print(line, markup=False))
    for record in records.values():
        for file in store.fetch(EVALUATIONS, record["key"]).glob("*.jsonl"):
            write_atomically(folder / file.name, file.read_bytes())
    scores = {name: record["scores"][name] for name, record in records.items()}
    about = {"model": str(model_dir), "checkpoint": identity, "scores": scores}
    write_atomically(folder / "results.json", json.dumps(about, indent=2, ensure_ascii=False).encode())
    return records


def show(console: Console, records: Mapping[str, Record]) -> None:
    """One line per benchmark: score with its standard error, and the two rates of trouble."""
    table = Table("benchmark", "n", "score", "stderr", "no answer", "truncated", "judge", box=None, pad_edge=False)
    for name, record in records.items():
        score = record["scores"][name]
        rates = [f"{score[rate]:.1%}" for rate in ("no_answer_rate", "truncated_rate")]
        cells = [name, str(score["n"]), f"{score['value']:.4g}", f"{score['stderr']:.2g}", *rates, score["judge"] or ""]
        table.add_row(*map(Text, cells))
    console.print(table)


def _opened(model_dir: str, config: StandaloneConfig, store: Store) -> tuple[Checkpoint, str]:
    """The checkpoint, and what names it: the stage's key for a folder of a store, as in the sweep; else its content."""
    if isinstance(config.evaluate.engine, EndpointConfig):  # it has its model, and MODEL_DIR is only what we call it
        return Checkpoint(model_dir, model_dir), digest({"served as": model_dir})
    path = Path(model_dir)
    if not (path / "config.json").is_file() and not (path / "adapter_config.json").is_file():
        remedy = "no Hugging Face model or adapter in this folder; give one that holds config.json or adapter_config.json"
        raise ConfigError([Problem("MODEL_DIR", model_dir, remedy)])
    try:
        checkpoint = in_folder(path, store)
    except KeyError as error:
        raise ConfigError([Problem("MODEL_DIR", model_dir, f"{error.args[0]}; set storage to that of its run")]) from error
    return checkpoint, _stage(path.resolve()) or _content(checkpoint)


def _stage(folder: Path) -> str | None:
    """The key of the stage whose published folder this is."""
    try:
        record = json.loads((folder.parent / "DONE").read_text())
        return str(record["key"]) if (record["kind"], record["attempt"]) == ("stages", folder.name) else None
    except (OSError, ValueError, KeyError):
        return None


def _content(checkpoint: Checkpoint) -> str:
    base = Path(checkpoint.model)
    named = [folder_digest(base) if base.exists() else checkpoint.model] if checkpoint.adapter else []
    return digest([folder_digest(Path(checkpoint.folder)), *named])


def _check(values: Mapping[str, Any]) -> list[Problem]:
    found = [*evaluation.benchmark_paths(values), *evaluation.engine(values)]
    if not entries(values, "evaluate"):
        found.append(Problem("evaluate", "missing", "name at least one benchmark"))
    return found
