"""What a worker needs to know to train one stage: plain values that travel between machines."""

from collections.abc import Callable
from dataclasses import dataclass

from trainers.config import ModelConfig, TrainConfig

KIND = "stages"


@dataclass(frozen=True)
class Share:
    """A source in a mixture: the key of its prepared rows, its fingerprint (which seeds the sampling) and its fraction."""

    name: str
    prepared: str
    fingerprint: str
    fraction: float


@dataclass(frozen=True)
class StageJob:
    """One stage to train and publish as `stages/<key>` in the store at `store`."""

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


@dataclass(frozen=True)
class Progress:
    """How far a stage is, as its first worker tells it."""

    step: int
    steps: int
    loss: float
    lr: float
    tokens: int


Report = Callable[[Progress], bool | None]
"""Told how far a stage is; true asks it to write a resume point and to stop."""
