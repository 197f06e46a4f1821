"""Stage keys: a stage is named by everything that changes its mathematics, and by nothing else.

In the key: the parent, the content and fraction of each source, and the hyper-parameters. Not in it: workers, rows per
forward pass, packing, ZeRO stage, offloading, attention kernel, gradient checkpointing, resume points, and the names of
sources. Of the user's DeepSpeed JSON enters what is not known to be mere layout. An adapter that is merged before the next
stage is a node of its own, named by the stage that trained it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.fingerprint import digest
from data.mixture import ALL, Draw
from trainers import deepspeed_json
from trainers.config import ModelConfig, TrainConfig
from trainers.recipe import Stage

LOOP_VERSION = 2  # raise it when the loop would train other weights from the same input
MERGE_VERSION = 1  # raise it when merging an adapter would give other weights
NOT_MATHS = {
    "rows", "packing", "deepspeed", "gradient_checkpointing", "checkpoint_steps", "checkpoint_minutes", "collective_timeout",
    "bad_steps",
}  # fmt: skip
SHAPE = ("rank", "alpha", "targets", "dora", "rslora")
"""Fields of an adapter that cannot change while it is trained on."""


@dataclass(frozen=True)
class KeyedStage:
    """A stage with its place in the graph. `parent` is None for a stage that starts from the base model.

    `merged` names the parent's weights with its adapter merged into them, None where the stage needs no such thing.
    """

    key: str
    parent: str | None
    stage: Stage
    merged: str | None = None


def chain(stages: Sequence[Stage], base: str, model: ModelConfig, sources: Mapping[str, str]) -> tuple[KeyedStage, ...]:
    """The stages of a recipe with their keys. `base` and the values of `sources` are fingerprints."""
    keyed: list[KeyedStage] = []
    for stage in stages:
        before = keyed[-1] if keyed else None
        parent = before.key if before else None
        merged = merge_key(before.key) if before and merges(before.stage.train, stage.train) else None
        inputs = {
            "start": merged or parent or {"base": base, "dtype": model.dtype},
            "mixture": [[sources[name], stage.mixture[name], *_draw(stage, name).plain()] for name in in_order(stage, sources)],
            "train": mathematics(stage.train),
            "loop": LOOP_VERSION,
        }
        keyed.append(KeyedStage(digest(inputs), parent, stage, merged))
    return tuple(keyed)


def in_order(stage: Stage, sources: Mapping[str, str]) -> list[str]:
    """The sources of a stage by what they are: how they are called or listed must not change the order of the examples."""
    return sorted(stage.mixture, key=lambda name: (sources[name], stage.mixture[name], str(_draw(stage, name).plain())))


def _draw(stage: Stage, name: str) -> Draw:
    return stage.draws.get(name, ALL)


def merge_key(stage: str) -> str:
    """Names the full weights that merging the adapter of a stage gives."""
    return digest({"merge": stage, "version": MERGE_VERSION})


def merges(before: TrainConfig, train: TrainConfig) -> bool:
    """Whether the adapter of the stage before is merged: for full fine-tuning always, for an adapter as it is configured."""
    return before.lora is not None and (train.lora is None or train.lora.parent == "merge")


def unlike(before: TrainConfig, train: TrainConfig) -> list[str]:
    """Fields of `train.lora` that differ between two stages although the second trains the adapter of the first on."""
    if before.lora is None or train.lora is None or train.lora.parent == "merge":
        return []
    return [name for name in SHAPE if getattr(before.lora, name) != getattr(train.lora, name)]


def mathematics(train: TrainConfig) -> dict[str, Any]:
    """The fields of a training config that change what is learned. How a parent is taken up is told by the start."""
    values = {name: value for name, value in train.model_dump(exclude={"lora": {"parent"}}).items() if name not in NOT_MATHS}
    numerics = deepspeed_json.mathematics(train.deepspeed.config)
    return values | ({"deepspeed": numerics} if numerics else {})
