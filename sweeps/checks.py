"""What can be wrong with a configuration beyond the types of its fields.

Each check reads the raw values, so that it can speak even where other fields do not parse.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data import sources
from sweeps.dotted import mapping_at as _mapping
from trainers.config import TrainConfig
from trainers.recipe import NEEDED

TAGS = {"grid", "choice", "uniform", "loguniform", "int", "simplex", "knee", "floor", "weights"}
"""Names that pydantic adds to an error's path for the variant of a union."""


@dataclass(frozen=True)
class Problem:
    """One error: field, value and remedy."""

    field: str
    value: Any
    remedy: str

    def __str__(self) -> str:
        shown = {"": "", "missing": " is missing"}.get(self.value) if isinstance(self.value, str) else None
        return f"{self.field}{f' = {self.value!r}' if shown is None else shown}: {self.remedy}"


Values = Mapping[str, Any]


def find(values: Values, inputs: bool = True) -> list[Problem]:
    """All problems, in the order of the checks; without those of files that are not there, where nothing will be read."""
    return [problem for check in CHECKS if inputs or check not in OF_INPUTS for problem in check(values)]


def of_the_recipe(values: Values) -> list[Problem]:
    """The problems of strategy and stages."""
    return [*_strategy(values), *_stages(values)]


def _entries(values: Values, *path: str) -> dict[str, dict[str, Any]]:
    return {str(name): dict(v) for name, v in _mapping(values, *path).items() if isinstance(v, Mapping)}


def is_file(path: str) -> bool:
    """Whether a file can be there: false, too, for what no file can be called."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def is_there(path: str) -> bool:
    """Whether a file or folder is there."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def _source_paths(values: Values) -> Iterator[Problem]:
    for name, source in _entries(values, "sources").items():
        path = source.get("path")
        if not isinstance(path, str) or not path:
            continue
        if is_file(path) and sources.reader(Path(path)) is None:
            yield Problem(f"sources.{name}.path", path, "unknown kind of file; use json, jsonl, jsonl.gz, parquet or csv")
        elif not is_there(path) and not sources.exists(path):
            yield Problem(f"sources.{name}.path", path, "no such file or folder; give one, a hub id or toy:math|code|chat")


def _benchmark_paths(values: Values) -> Iterator[Problem]:
    for name, benchmark in _entries(values, "evaluate").items():
        path = benchmark.get("path")
        if isinstance(path, str) and not is_file(path):
            yield Problem(f"evaluate.{name}.path", path, "no such file; give the benchmark's items")


def _model(values: Values) -> Iterator[Problem]:
    model = _mapping(values, "model")
    path, fresh = model.get("path"), model.get("init_from_config")
    if not model or bool(path) == bool(fresh):
        yield Problem("model", model or "missing", "give either path (folder, hub id or toy) or init_from_config")
    if isinstance(fresh, Mapping) and not fresh.get("model_type"):
        yield Problem("model.init_from_config", dict(fresh), "add model_type, for example llama")
    if fresh and not model.get("tokenizer"):
        yield Problem("model.tokenizer", "missing", "give bytes, characters, a folder or a hub id with init_from_config")


def _model_path(values: Values) -> Iterator[Problem]:
    path = _mapping(values, "model").get("path")
    if isinstance(path, str) and path != "toy" and not (is_there(path) or sources.looks_like_hub_id(path)):
        yield Problem("model.path", path, "no such folder; give one, a hub id (owner/name) or toy")


def _strategy(values: Values) -> Iterator[Problem]:
    strategy = values.get("strategy", "dmt")
    given = [s.get("role") for s in _entries(values, "sources").values() if s.get("fraction", 1) not in (0, "0")]
    for role in NEEDED.get(strategy, ()) if isinstance(strategy, str) else ():
        if role not in given:
            yield Problem("strategy", strategy, f"needs a source with role {role} and a fraction above 0")
    if strategy == "dmt" and values.get("k") is None and "k" not in _mapping(values, "search", "space"):
        yield Problem("k", "missing", "strategy dmt needs it: give a value from 0 to 1, or add k to search.space")


def _stages(values: Values) -> Iterator[Problem]:
    strategy, stages = values.get("strategy", "dmt"), values.get("stages") or []
    stages = stages if isinstance(stages, list | tuple) else []
    if (strategy == "explicit") != bool(stages):
        yield Problem("stages", list(stages), "strategy explicit, and only that, takes a list of stages")
    for i, stage in enumerate(stages):
        if not any(share not in (0, "0") for share in _mapping(stage, "mixture").values()):
            yield Problem(f"stages.{i}.mixture", _mapping(stage, "mixture"), "needs a source with a fraction above 0")
        unknown = set(_mapping(stage, "mixture")) - set(_mapping(values, "sources"))
        for name in sorted(unknown):
            yield Problem(f"stages.{i}.mixture.{name}", "", "no such source; name one of sources")
        try:
            TrainConfig.model_validate(_mapping(values, "train") | _mapping(stage, "train"))
        except ValidationError as error:
            own = _mapping(stage, "train")
            for entry in error.errors():
                if entry["loc"] and entry["loc"][0] in own:
                    yield Problem(f"stages.{i}.train.{entry['loc'][0]}", entry["input"], entry["msg"])


def _benchmarks(values: Values) -> Iterator[Problem]:
    benchmarks = _entries(values, "evaluate")
    searched = _mapping(values, "search", "space")
    given = [benchmark.get("role") for benchmark in benchmarks.values()]
    for role in ("specialist", "general") if benchmarks or searched else ():
        if role not in given:
            yield Problem("evaluate", sorted(benchmarks), f"add a benchmark with role {role}: a balance has two sides")


def _storage(values: Values) -> Iterator[Problem]:
    storage = values.get("storage", "runs")
    if values.get("name") == "store":
        yield Problem("name", "store", "is the folder of the artefacts that all runs share; give another name")
    if isinstance(storage, str) and is_file(storage.removeprefix("file://")):
        yield Problem("storage", storage, "is a file; give a folder")
    if not isinstance(storage, str) or "://" not in storage:
        return
    if not storage.startswith(("file:///", "s3://", "gs://")):
        yield Problem("storage", storage, "give a local path, file:///shared/path, s3://bucket/path or gs://bucket/path")
    elif set("?@") & set(storage):
        yield Problem("storage", storage, "give the bucket and a path alone; keys and endpoints come from the environment")


def _budget(values: Values) -> Iterator[Problem]:
    budget, resources = _mapping(values, "budget"), _mapping(values, "resources")
    if budget.get("usd") is not None and not resources.get("price"):
        yield Problem(
            "budget.usd", budget["usd"], "write resources.price: money per device-hour by gpu, cpu or accelerator type"
        )


CHECKS: tuple[Callable[[Values], Iterator[Problem]], ...] = (
    _model,
    _model_path,
    _source_paths,
    _strategy,
    _stages,
    _benchmark_paths,
    _benchmarks,
    _storage,
    _budget,
)
OF_INPUTS = (_model_path, _source_paths, _benchmark_paths)
