"""What can be wrong with the strategy, its stages and their hyper-parameters."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from pydantic import ValidationError

from sweeps.checks.problem import Problem, Values, entries, stages_of
from sweeps.dotted import mapping_at
from trainers.config import ResourcesConfig, TrainConfig
from trainers.keys import unlike
from trainers.recipe import NEEDED


def strategy(values: Values) -> Iterator[Problem]:
    strategy = values.get("strategy", "dmt")
    given = [s.get("role") for s in entries(values, "sources").values() if s.get("fraction", 1) not in (0, "0")]
    for role in NEEDED.get(strategy, ()) if isinstance(strategy, str) else ():
        if role not in given:
            yield Problem("strategy", strategy, f"needs a source with role {role} and a fraction above 0")
    if strategy == "dmt" and values.get("k") is None and "k" not in mapping_at(values, "search", "space"):
        yield Problem("k", "missing", "strategy dmt needs it: give a value from 0 to 1, or add k to search.space")


def stages(values: Values) -> Iterator[Problem]:
    strategy, stages = values.get("strategy", "dmt"), stages_of(values)
    before: TrainConfig | None = None
    if (strategy == "explicit") != bool(stages):
        yield Problem("stages", list(stages), "strategy explicit, and only that, takes a list of stages")
    for i, stage in enumerate(stages):
        if not any(share not in (0, "0") for share in mapping_at(stage, "mixture").values()):
            yield Problem(f"stages.{i}.mixture", mapping_at(stage, "mixture"), "needs a source with a fraction above 0")
        unknown = set(mapping_at(stage, "mixture")) - set(mapping_at(values, "sources"))
        for name in sorted(unknown):
            yield Problem(f"stages.{i}.mixture.{name}", "", "no such source; name one of sources")
        try:
            train = TrainConfig.model_validate(mapping_at(values, "train") | mapping_at(stage, "train"))
            for name in unlike(before, train) if before else ():
                remedy = "the stage before trained another adapter; give the same value, or parent: merge"
                yield Problem(f"stages.{i}.train.lora.{name}", getattr(train.lora, name), remedy)
            before = train
        except ValidationError as error:
            own = mapping_at(stage, "train")
            for entry in error.errors():
                if entry["loc"] and entry["loc"][0] in own:
                    yield Problem(f"stages.{i}.train.{entry['loc'][0]}", entry["input"], entry["msg"])


def workers(values: Values) -> Iterator[Problem]:
    """The examples of a step are dealt to the workers: with fewer examples than workers, some would never have any."""
    workers = mapping_at(values, "resources").get("workers", ResourcesConfig().workers)
    for field, train in _trains(values):
        size = train.get("batch_size", TrainConfig().batch_size if field == "train" else None)
        if isinstance(size, int) and isinstance(workers, int) and 0 < size < workers:
            remedy = f"has fewer examples than resources.workers = {workers}; lower that, or raise the batch size"
            yield Problem(f"{field}.batch_size", size, remedy)


def four_bits(values: Values) -> Iterator[Problem]:
    for field, train in _trains(values):
        quantize = mapping_at(train, "lora").get("quantize")
        if quantize and find_spec("bitsandbytes") is None:
            remedy = "needs bitsandbytes, which is not installed; install it, or set null"
            yield Problem(f"{field}.lora.quantize", quantize, remedy)


def _trains(values: Values) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every `train` of a configuration with its path: that of all stages, then what single stages say."""
    yield "train", mapping_at(values, "train")
    for i, stage in enumerate(stages_of(values)):
        yield f"stages.{i}.train", mapping_at(stage, "train")
