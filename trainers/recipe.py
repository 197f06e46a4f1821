"""Recipes: the ordered stages that a strategy makes of the sources (arXiv 2310.05492, section 3.5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from data.config import Role, SourceConfig
from trainers.config import StageConfig, TrainConfig

Strategy = Literal["multi_task", "sequential", "mixed_sequential", "dmt", "explicit"]
NEEDED: dict[str, tuple[Role, ...]] = {
    "multi_task": ("specialist", "general"),
    "sequential": ("specialist", "general"),
    "mixed_sequential": ("specialist", "general"),
    "dmt": ("specialist", "general"),
    "explicit": (),
}
"""The roles that a strategy cannot do without."""


@dataclass(frozen=True)
class Stage:
    """One fine-tuning pass: the fraction of each source (none is 0) and its hyper-parameters."""

    mixture: Mapping[str, float]
    train: TrainConfig


def recipe(
    strategy: Strategy,
    sources: Mapping[str, SourceConfig],
    train: TrainConfig,
    k: float | None = None,
    stages: Sequence[StageConfig] = (),
) -> tuple[Stage, ...]:
    """The stages of a strategy, in order. Fractions of the sources scale every stage that they enter.

    `sequential` takes the specialists one by one in alphabetical order (code before math, as in the paper); write other
    orders with `explicit`. Raises ValueError where `dmt` has no k.
    """
    if strategy == "explicit":
        return tuple(Stage(_present(s.mixture), TrainConfig(**train.model_dump() | s.train)) for s in stages)
    fractions = {role: _fractions(sources, role) for role in ("specialist", "general")}
    specialist, general = fractions["specialist"], fractions["general"]
    match strategy:
        case "multi_task":
            mixtures = [specialist | general]
        case "sequential":
            mixtures = [*({name: specialist[name]} for name in sorted(specialist)), general]
        case "mixed_sequential":
            mixtures = [specialist, general]
        case "dmt":
            if k is None:
                raise ValueError("strategy dmt needs k, between 0 and 1, or k in search.space")
            mixtures = [specialist, general | {name: k * share for name, share in specialist.items()}]
    return tuple(Stage(_present(mixture), train) for mixture in mixtures)


def _fractions(sources: Mapping[str, SourceConfig], role: Role) -> dict[str, float]:
    return {name: source.fraction for name, source in sources.items() if source.role == role}


def _present(mixture: Mapping[str, float]) -> dict[str, float]:
    """Without the sources that contribute nothing, so that dmt at k=0 is mixed_sequential, and one stage with it."""
    return {name: fraction for name, fraction in mixture.items() if fraction > 0}
