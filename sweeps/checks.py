"""What can be wrong with a configuration beyond the types of its fields.

Each check reads the raw values, so that it can speak even where other fields do not parse.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from data import sources
from sweeps.config import Parameter, SweepConfig
from trainers.config import TrainConfig
from trainers.recipe import NEEDED

TAGS = {"grid", "choice", "uniform", "loguniform", "int", "knee", "floor", "weights"}
"""Names that pydantic adds to an error's path for the variant of a union."""


@dataclass(frozen=True)
class Problem:
    """One error: field, value and remedy."""

    field: str
    value: Any
    remedy: str

    def __str__(self) -> str:
        shown = "" if self.value in ("", None) else f" = {self.value!r}" if self.value != "missing" else " is missing"
        return f"{self.field}{shown}: {self.remedy}"


Values = Mapping[str, Any]


def find(values: Values) -> list[Problem]:
    """All problems, in the order of the checks."""
    return [problem for check in CHECKS for problem in check(values)]


def _mapping(values: Values, *path: str) -> dict[str, Any]:
    """The mapping at a path, {} where there is none."""
    for name in path:
        values = values.get(name) if isinstance(values, Mapping) else {}  # type: ignore[assignment]
    return dict(values) if isinstance(values, Mapping) else {}


def _entries(values: Values, *path: str) -> dict[str, dict[str, Any]]:
    return {str(name): dict(v) for name, v in _mapping(values, *path).items() if isinstance(v, Mapping)}


def _source_paths(values: Values) -> Iterator[Problem]:
    for name, source in _entries(values, "sources").items():
        path = source.get("path")
        if isinstance(path, str) and path and not sources.exists(path):
            yield Problem(f"sources.{name}.path", path, "no such file or folder; give one, a hub id or toy:math|code|chat")


def _benchmark_paths(values: Values) -> Iterator[Problem]:
    for name, benchmark in _entries(values, "evaluate").items():
        path = benchmark.get("path")
        if isinstance(path, str) and not Path(path).is_file():
            yield Problem(f"evaluate.{name}.path", path, "no such file; give the benchmark's items")


def _model(values: Values) -> Iterator[Problem]:
    model = _mapping(values, "model")
    path, fresh = model.get("path"), model.get("init_from_config")
    if not model or bool(path) == bool(fresh):
        yield Problem("model", model or "missing", "give either path (folder, hub id or toy) or init_from_config")
    if isinstance(path, str) and path != "toy" and not (Path(path).is_dir() or sources.looks_like_hub_id(path)):
        yield Problem("model.path", path, "no such folder; give one, a hub id (owner/name) or toy")
    if isinstance(fresh, Mapping) and not fresh.get("model_type"):
        yield Problem("model.init_from_config", dict(fresh), "add model_type, for example llama")
    if fresh and not model.get("tokenizer"):
        yield Problem("model.tokenizer", "missing", "give bytes, characters, a folder or a hub id with init_from_config")


def _strategy(values: Values) -> Iterator[Problem]:
    strategy = values.get("strategy", "dmt")
    given = {source.get("role") for source in _entries(values, "sources").values()}
    for role in NEEDED.get(strategy, ()) if isinstance(strategy, str) else ():
        if role not in given:
            yield Problem("strategy", strategy, f"needs a source with role {role}; add one under sources")
    if strategy == "dmt" and values.get("k") is None and "k" not in _mapping(values, "search", "space"):
        yield Problem("k", "missing", "strategy dmt needs it: give a value from 0 to 1, or add k to search.space")


def _stages(values: Values) -> Iterator[Problem]:
    strategy, stages = values.get("strategy", "dmt"), values.get("stages") or []
    if (strategy == "explicit") != bool(stages):
        yield Problem("stages", list(stages), "strategy explicit, and only that, takes a list of stages")
    for i, stage in enumerate(stages if isinstance(stages, list | tuple) else []):
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
    for role in ("specialist", "general") if benchmarks or searched else ():
        if role not in {benchmark.get("role") for benchmark in benchmarks.values()}:
            yield Problem("evaluate", sorted(benchmarks), f"add a benchmark with role {role}: a balance has two sides")


def _space(values: Values) -> Iterator[Problem]:
    sampler = _mapping(values, "search").get("sampler", "tpe")
    for key, raw in _mapping(values, "search", "space").items():
        try:
            parameter: Any = TypeAdapter(Parameter).validate_python(raw)
        except ValidationError:
            continue  # reported with the field
        if sampler == "grid" and parameter.type not in ("grid", "choice"):
            yield Problem(f"search.space.{key}.type", parameter.type, "sampler grid needs grid or choice")
        if hasattr(parameter, "low") and parameter.low >= parameter.high:
            yield Problem(f"search.space.{key}.low", parameter.low, f"must be below high = {parameter.high}")
        ends = parameter.values if hasattr(parameter, "values") else (parameter.low, parameter.high)
        yield from _bounds(values, str(key), ends)


def _bounds(values: Values, key: str, ends: Any) -> Iterator[Problem]:
    """Whether every end of a parameter is a value that its field takes."""
    from sweeps.loading import with_value

    if key.split(".")[0] not in SweepConfig.model_fields or key.split(".")[0] in ("name", "storage", "search"):
        yield Problem(f"search.space.{key}", "", "no field that can be searched; give k or a dotted path such as train.lr")
        return
    for end in ends:
        try:
            SweepConfig.model_validate(with_value(values, key, end))
        except ValidationError as error:
            for entry in error.errors():
                if ".".join(map(str, entry["loc"])).startswith(key):
                    yield Problem(f"search.space.{key}", end, entry["msg"])


def _storage(values: Values) -> Iterator[Problem]:
    storage = values.get("storage", "runs")
    if isinstance(storage, str) and "://" in storage and not storage.startswith("file://"):
        yield Problem("storage", storage, "buckets are not supported yet; give a local path or file:///shared/path")


CHECKS: tuple[Callable[[Values], Iterator[Problem]], ...] = (
    _model,
    _source_paths,
    _strategy,
    _stages,
    _benchmark_paths,
    _benchmarks,
    _space,
    _storage,
)
