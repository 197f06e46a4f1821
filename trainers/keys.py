"""Stage keys: a stage is named by everything that changes its mathematics, and by nothing else.

In the key: the parent, the content and fraction of each source, and the hyper-parameters. Not in it: workers, rows per
forward pass, packing, ZeRO stage, offloading, resume points, and the names of sources. Of the user's DeepSpeed JSON enters
what is not known to be mere layout.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.fingerprint import digest
from data.mixture import ALL, Draw
from trainers import deepspeed_json
from trainers.config import ModelConfig, TrainConfig
from trainers.recipe import Stage

LOOP_VERSION = 1  # raise it when the loop would train other weights from the same input
NOT_MATHS = {
    "rows", "packing", "deepspeed", "lora", "checkpoint_steps", "checkpoint_minutes", "collective_timeout"
}  # fmt: skip


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
            "mixture": [[sources[name], stage.mixture[name], *_draw(stage, name).plain()] for name in in_order(stage, sources)],
            "train": mathematics(stage.train),
            "loop": LOOP_VERSION,
        }
        keyed.append(KeyedStage(digest(inputs), parent, stage))
    return tuple(keyed)


def in_order(stage: Stage, sources: Mapping[str, str]) -> list[str]:
    """The sources of a stage by what they are: how they are called or listed must not change the order of the examples."""
    return sorted(stage.mixture, key=lambda name: (sources[name], stage.mixture[name], str(_draw(stage, name).plain())))


def _draw(stage: Stage, name: str) -> Draw:
    return stage.draws.get(name, ALL)


def mathematics(train: TrainConfig) -> dict[str, Any]:
    """The fields of a training config that change what is learned."""
    values = {name: value for name, value in train.model_dump().items() if name not in NOT_MATHS}
    numerics = deepspeed_json.mathematics(train.deepspeed.config)
    return values | ({"deepspeed": numerics} if numerics else {})
