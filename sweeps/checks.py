"""What can be wrong with a configuration beyond the types of its fields.

Each check reads the raw values, so that it can speak even where other fields do not parse.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data import sources
from data.fraction import parse_fraction
from evaluators.config import names_file
from sweeps.dotted import mapping_at as _mapping
from trainers.config import ResourcesConfig, TrainConfig
from trainers.keys import unlike
from trainers.recipe import NEEDED

TAGS = {"grid", "choice", "uniform", "loguniform", "int", "simplex", "knee", "floor", "weights"}
TAGS |= {"transformers", "continuous", "vllm", "openai", "offline", "asked"}
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


def entries(values: Values, *path: str) -> dict[str, dict[str, Any]]:
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
    for name, source in entries(values, "sources").items():
        path = source.get("path")
        if not isinstance(path, str) or not path:
            continue
        if is_file(path) and sources.reader(Path(path)) is None:
            yield Problem(f"sources.{name}.path", path, "unknown kind of file; use json, jsonl, jsonl.gz, parquet or csv")
        elif not is_there(path) and not sources.exists(path):
            yield Problem(f"sources.{name}.path", path, "no such file or folder; give one, a hub id or toy:math|code|chat")


def benchmark_paths(values: Values) -> Iterator[Problem]:
    for name, benchmark in entries(values, "evaluate").items():
        hub = name == "gsm8k"  # the one that can be read from there
        for field in filter(names_file, benchmark):
            path = benchmark[field]
            if isinstance(path, str) and not is_file(path) and not (hub and sources.looks_like_hub_id(path)):
                what = "items" if field == "path" else field.replace("_", " ")
                yield Problem(f"evaluate.{name}.{field}", path, f"no such file; give the benchmark's {what}")
        judge = _mapping(benchmark, "judge").get("path")
        if isinstance(judge, str) and not is_there(judge):
            yield Problem(f"evaluate.{name}.judge.path", judge, "no such folder; give the folder of the judge's model")


def engine(values: Values) -> Iterator[Problem]:
    """An engine whose environment is not there."""
    python = _mapping(values, "evaluate", "engine").get("python")
    if isinstance(python, str) and not is_file(python):
        remedy = "no such interpreter; make an environment with `python -m venv DIR && DIR/bin/pip install vllm`"
        yield Problem("evaluate.engine.python", python, remedy)


def _server(values: Values) -> Iterator[Problem]:
    chosen = _mapping(values, "evaluate").get("engine")
    if chosen == "openai" or (isinstance(chosen, Mapping) and chosen.get("kind") == "openai"):
        remedy = "a server cannot open what the sweep trains; use transformers here, or the server with `fulcrum evaluate`"
        yield Problem("evaluate.engine.kind", "openai", remedy)


def _model(values: Values) -> Iterator[Problem]:
    model = _mapping(values, "model")
    path, fresh = model.get("path"), model.get("init_from_config")
    if not model or bool(path) == bool(fresh):
        yield Problem("model", model or "missing", "give either path (folder, hub id or toy) or init_from_config")
    if isinstance(fresh, Mapping) and not fresh.get("model_type"):
        yield Problem("model.init_from_config", dict(fresh), "add model_type, for example llama")
    if fresh and not model.get("tokenizer"):
        yield Problem("model.tokenizer", "missing", "give bytes, characters, a folder or a hub id with init_from_config")


def _weights(values: Values) -> Iterator[Problem]:
    """A budget is divided among the sources that are used; without one there is nothing to divide."""
    sources, total = entries(values, "sources"), _mapping(values, "data").get("total")
    given = {name: source["weight"] for name, source in sources.items() if source.get("weight") is not None}
    if any(path.startswith("sources.") and path.endswith(".weight") for path in _searched(values)):
        if total is None:
            yield Problem("data.total", None, "is missing: the weights that are searched are shares of it")
        return  # they are checked with the space
    if total is None:
        for name, weight in given.items():
            yield Problem(f"sources.{name}.weight", weight, "needs data.total, which it is a share of")
        return
    used = used_sources(values)
    for name in used - given.keys():
        yield Problem(f"sources.{name}.weight", "missing", "with data.total every source that is used needs one")
    shares = {name: _share(weight) for name, weight in given.items() if name in used}
    if shares and not used - given.keys() and None not in shares.values() and abs(sum(shares.values()) - 1) > 1e-6:
        told = ", ".join(f"sources.{name}.weight" for name in shares)
        yield Problem("data.total", total, f"the weights sum to {sum(shares.values()):g} and not to 1; change {told}")


def _searched(values: Values) -> list[str]:
    """The paths that the search sets."""
    space = entries(values, "search", "space")
    over = {key: parameter.get("over", [key]) for key, parameter in space.items()}
    return [path for paths in over.values() if isinstance(paths, list | tuple) for path in paths if isinstance(path, str)]


def used_sources(values: Values) -> set[str]:
    """The sources that a stage may take rows from."""
    sources, stages = entries(values, "sources"), values.get("stages")
    if stages and isinstance(stages, list | tuple):
        return {name for stage in stages for name, share in _mapping(stage, "mixture").items() if share not in (0, "0")}
    return {name for name, source in sources.items() if source.get("fraction", 1) not in (0, "0")}


def _share(weight: Any) -> Any:
    """A weight as a number, None where it is none; the field itself is then reported."""
    try:
        return float(parse_fraction(weight))
    except (TypeError, ValueError):
        return None


def _model_path(values: Values) -> Iterator[Problem]:
    path = _mapping(values, "model").get("path")
    if isinstance(path, str) and not _is_model(path):
        yield Problem("model.path", path, "no such folder; give one, a hub id (owner/name) or toy")
    searched = _mapping(values, "search", "space", "model.path").get("values")
    for path in searched if isinstance(searched, list | tuple) else ():
        if not isinstance(path, str) or not _is_model(path) or (is_there(path) and not Path(path).is_absolute()):
            remedy = "give the absolute path of a folder that is there, a hub id (owner/name) or toy"
            yield Problem("search.space.model.path", path, remedy)


def _is_model(path: str) -> bool:
    return path == "toy" or is_there(path) or sources.looks_like_hub_id(path)


def _strategy(values: Values) -> Iterator[Problem]:
    strategy = values.get("strategy", "dmt")
    given = [s.get("role") for s in entries(values, "sources").values() if s.get("fraction", 1) not in (0, "0")]
    for role in NEEDED.get(strategy, ()) if isinstance(strategy, str) else ():
        if role not in given:
            yield Problem("strategy", strategy, f"needs a source with role {role} and a fraction above 0")
    if strategy == "dmt" and values.get("k") is None and "k" not in _mapping(values, "search", "space"):
        yield Problem("k", "missing", "strategy dmt needs it: give a value from 0 to 1, or add k to search.space")


def _stages(values: Values) -> Iterator[Problem]:
    strategy, stages = values.get("strategy", "dmt"), values.get("stages") or []
    stages = stages if isinstance(stages, list | tuple) else []
    before: TrainConfig | None = None
    if (strategy == "explicit") != bool(stages):
        yield Problem("stages", list(stages), "strategy explicit, and only that, takes a list of stages")
    for i, stage in enumerate(stages):
        if not any(share not in (0, "0") for share in _mapping(stage, "mixture").values()):
            yield Problem(f"stages.{i}.mixture", _mapping(stage, "mixture"), "needs a source with a fraction above 0")
        unknown = set(_mapping(stage, "mixture")) - set(_mapping(values, "sources"))
        for name in sorted(unknown):
            yield Problem(f"stages.{i}.mixture.{name}", "", "no such source; name one of sources")
        try:
            train = TrainConfig.model_validate(_mapping(values, "train") | _mapping(stage, "train"))
            for name in unlike(before, train) if before else ():
                remedy = "the stage before trained another adapter; give the same value, or parent: merge"
                yield Problem(f"stages.{i}.train.lora.{name}", getattr(train.lora, name), remedy)
            before = train
        except ValidationError as error:
            own = _mapping(stage, "train")
            for entry in error.errors():
                if entry["loc"] and entry["loc"][0] in own:
                    yield Problem(f"stages.{i}.train.{entry['loc'][0]}", entry["input"], entry["msg"])


def _workers(values: Values) -> Iterator[Problem]:
    """The examples of a step are dealt to the workers: with fewer examples than workers, some would never have any."""
    workers = _mapping(values, "resources").get("workers", ResourcesConfig().workers)
    for field, train in _trains(values):
        size = train.get("batch_size", TrainConfig().batch_size if field == "train" else None)
        if isinstance(size, int) and isinstance(workers, int) and 0 < size < workers:
            remedy = f"has fewer examples than resources.workers = {workers}; lower that, or raise the batch size"
            yield Problem(f"{field}.batch_size", size, remedy)


def _four_bits(values: Values) -> Iterator[Problem]:
    for field, train in _trains(values):
        quantize = _mapping(train, "lora").get("quantize")
        if quantize and find_spec("bitsandbytes") is None:
            remedy = "needs bitsandbytes, which is not installed; install it, or set null"
            yield Problem(f"{field}.lora.quantize", quantize, remedy)


def _trains(values: Values) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every `train` of a configuration with its path: that of all stages, then what single stages say."""
    yield "train", _mapping(values, "train")
    stages = values.get("stages")
    for i, stage in enumerate(stages if isinstance(stages, list | tuple) else ()):
        yield f"stages.{i}.train", _mapping(stage, "train")


def _benchmarks(values: Values) -> Iterator[Problem]:
    benchmarks = entries(values, "evaluate")
    searched = _mapping(values, "search", "space")
    given = [benchmark.get("role") for benchmark in benchmarks.values()]
    for role in ("specialist", "general") if benchmarks or searched else ():
        if role not in given:
            yield Problem("evaluate", sorted(benchmarks), f"add a benchmark with role {role}: a balance has two sides")


def _confirm(values: Values) -> Iterator[Problem]:
    """The test items of a confirmation: those of GSM8K lie in a file of their own, unless the hub has both."""
    confirm = _mapping(values, "search").get("confirm")
    if not isinstance(confirm, Mapping):
        return
    given, benchmarks = entries(confirm, "evaluate"), entries(values, "evaluate")
    for name, fields in given.items():
        field = f"search.confirm.evaluate.{name}"
        if name not in benchmarks:
            yield Problem(field, fields, f"no such benchmark is scored; name one of {sorted(benchmarks)}")
        for key, file in fields.items():
            hub = name == "gsm8k" and sources.looks_like_hub_id(str(file))
            if names_file(key) and isinstance(file, str) and not is_file(file) and not hub:
                yield Problem(f"{field}.{key}", file, "no such file; give the benchmark's test items")
    gsm8k = benchmarks.get("gsm8k", {})
    path, test = gsm8k.get("path"), given.get("gsm8k", {}).get("path")
    if gsm8k.get("split", "dev") == "dev" and isinstance(path, str) and is_file(path) and not test:
        remedy = "give the test file; that of evaluate.gsm8k holds training items"
        yield Problem("search.confirm.evaluate.gsm8k.path", "missing", remedy)


ANCHORED = {"general": {"general"}, "specialist": {"specialist"}, "k0": {"general", "specialist"}}


def _anchors(values: Values) -> Iterator[Problem]:
    roles = {str(source.get("role")) for source in entries(values, "sources").values()}
    anchors = _mapping(values, "search").get("anchors")
    for anchor in anchors if isinstance(anchors, list | tuple) else ():
        missing = ANCHORED.get(anchor, set()) - roles if isinstance(anchor, str) else ()
        if missing:
            yield Problem("search.anchors", anchor, f"needs a source with role {' and one with role '.join(sorted(missing))}")


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


def _tracking(values: Values) -> Iterator[Problem]:
    storage = str(values.get("storage", "runs")).removeprefix("file://")
    if values.get("tracking") and "://" in storage:
        yield Problem("tracking", values["tracking"], "is written to a disk; give a storage on one, or leave it out")


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
    _weights,
    _strategy,
    _stages,
    _workers,
    _four_bits,
    benchmark_paths,
    engine,
    _server,
    _benchmarks,
    _confirm,
    _anchors,
    _storage,
    _tracking,
    _budget,
)
OF_INPUTS = (_model_path, _source_paths, benchmark_paths, engine)
"""Checks that look for files; a simulation reads none."""
