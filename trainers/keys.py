"""Stage keys: a stage is named by everything that changes its mathematics, and by nothing else.

In the key: the parent, the content and fraction of each source, and the hyper-parameters. Not in it: workers, rows per
forward pass, packing, ZeRO stage, and the names of sources.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.fingerprint import digest
from trainers.config import ModelConfig, TrainConfig
from trainers.recipe import Stage

LOOP_VERSION = 2  # raise it when the loop would train other weights from the same input
NOT_MATHS = {"rows", "packing", "deepspeed", "lora"}


@dataclass(frozen=True)
class KeyedStage:
    """A stage with its place in the graph. `parent` is None for a stage that starts from the base model."""

    key: str
    parent: str | None
    stage: Stage


def chain(stages: Sequence[Stage], base: str, model: ModelConfig, sources: Mapping[str, str]) -> tuple[KeyedStage, ...]:
    """The stages of a recipe with their keys. `base` and the values of `sources` are fingerprints."""
    keyed: list[KeyedStage] = []
    for stage in stages:
        parent = keyed[-1].key if keyed else None
        inputs = {
            "start": parent or {"base": base, "dtype": model.dtype},
            "mixture": sorted([sources[name], fraction] for name, fraction in stage.mixture.items()),
            "train": mathematics(stage.train),
            "loop": LOOP_VERSION,
        }
        keyed.append(KeyedStage(digest(inputs), parent, stage))
    return tuple(keyed)


def mathematics(train: TrainConfig) -> dict[str, Any]:
    """The fields of a training config that change what is learned."""
    return {name: value for name, value in train.model_dump().items() if name not in NOT_MATHS}
