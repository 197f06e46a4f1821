"""What a worker needs to know to train one stage: plain values that travel between machines."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from data.mixture import ALL, Draw
from trainers.config import ModelConfig, TrainConfig

KIND = "stages"
RUNGS = "rungs"
RESUME = "resume"
OWNED = "fulcrum-owned-by-"
"""Begins the name of the placement group of a stage's workers; the id of the Ray worker that launched them follows."""


@dataclass(frozen=True)
class Share:
    """A source in a mixture: the key of its prepared rows, its fingerprint (which seeds the sampling), its fraction, and
    what that is counted in."""

    name: str
    prepared: str
    fingerprint: str
    fraction: float
    draw: Draw = ALL


@dataclass(frozen=True)
class StageJob:
    """One stage to train and publish as `stages/<key>` in the store at `store`, or its beginning as a rung."""

    key: str
    parent: str | None
    base: str
    shares: tuple[Share, ...]
    train: TrainConfig
    model: ModelConfig
    store: str
    devices: float
    gpu: bool
    threads: int
    pool: str = "cpu"
    """What its devices are called in records and prices: an accelerator type, `gpu` or `cpu`."""
    launched: float = 0.0
    """Unix time at which the devices were taken; the record counts device-seconds from here."""
    spent: float = 0.0
    """Device-seconds that went into the stage before."""
    until: float = 1.0
    """Train this share of the steps. Below 1 the end is published as `rungs/<key>@<share>`, and another job goes on from it."""
    tensorboard: str | None = None
    """Folder for TensorBoard's event files."""
    merged: str | None = None
    """Key of the parent's weights with its adapter merged, from which the stage starts; None to start from the parent."""

    @property
    def device_seconds(self) -> float:
        """Spent on the stage up to now."""
        return self.spent + self.devices * (time.time() - self.launched)

    @property
    def kind(self) -> str:
        """Kind of the store's entry that it ends with."""
        return kind_of(self.end)

    @property
    def end(self) -> str:
        """Key of the entry that it ends with: of the stage, or of a rung."""
        return self.key if self.until == 1 else f"{self.key}@{self.until:g}"


def kind_of(end: str) -> str:
    """Kind of the entry that a job ends with, by its key."""
    return RUNGS if "@" in end else KIND


@dataclass(frozen=True)
class Progress:
    """How far a stage is, as its first worker tells it. What is not known is None."""

    step: int
    steps: int
    loss: float
    lr: float
    tokens: int
    grad_norm: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    """Model FLOPs utilisation: the share of the devices' bf16 peak that the model's own arithmetic takes."""
    memory: int = 0
    """Most bytes that the first worker has held: of its GPU, or resident where there is none."""
    seconds_left: float | None = None
    notes: tuple[str, ...] = ()
    """What happened to the stage since the last report, for a person."""

    def with_notes(self, notes: Sequence[str]) -> "Progress":
        return replace(self, notes=tuple(notes))


Report = Callable[[Progress], bool | None]
"""Told about once a second; True asks the stage to stop where it can be continued."""
Notice = Callable[[], bool]
"""Asked on every worker now and then; True asks for a resume point, because the devices will be taken away."""
