"""Recipes: the ordered stages that a strategy makes of the sources (arXiv 2310.05492, section 3.5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from data.config import Role, SourceConfig, Total
from data.fraction import rational
from data.mixture import Draw
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
    """One fine-tuning pass: the fraction of each source (none is 0), its hyper-parameters, what each fraction is counted in."""

    mixture: Mapping[str, float]
    train: TrainConfig
    draws: Mapping[str, Draw] = field(default_factory=dict)


def recipe(
    strategy: Strategy,
    sources: Mapping[str, SourceConfig],
    train: TrainConfig,
    k: float | None = None,
    stages: Sequence[StageConfig] = (),
    total: Total | None = None,
) -> tuple[Stage, ...]:
    """The stages of a strategy, in order. Fractions of the sources scale every stage that they enter.

    `sequential` takes the specialists one by one in alphabetical order (code before math, as in the paper); write other
    orders with `explicit`. Raises ValueError where `dmt` has no k.

    With a total, fraction 1 of a source is no longer all of it but its budget, weight x total. Everything else stays as it
    is: k replays a fraction of the specialists' budgets, an explicit mixture takes fractions of budgets. So multi_task,
    sequential and mixed_sequential spend the total once, dmt spends the replay on top, and within each role of a stage the
    sources stand to each other as their weights do.
    """
    draws = {name: _draw(source, total) for name, source in sources.items()}
    if strategy == "explicit":
        return tuple(_stage(s.mixture, TrainConfig(**train.model_dump() | s.train), draws) for s in stages)
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
    return tuple(_stage(mixture, train, draws) for mixture in mixtures)


def _stage(mixture: Mapping[str, float], train: TrainConfig, draws: Mapping[str, Draw]) -> Stage:
    present = _present(mixture)
    return Stage(present, train, {name: draws[name] for name in present})


def _draw(source: SourceConfig, total: Total | None) -> Draw:
    if total is None:
        return Draw(source.sampling)
    share = rational(source.weight or 0.0)
    if total.examples is not None:
        return Draw(source.sampling, float(share * total.examples), "examples")
    return Draw(source.sampling, float(share * (total.tokens or 0)), "tokens")


def _fractions(sources: Mapping[str, SourceConfig], role: Role) -> dict[str, float]:
    return {name: source.fraction for name, source in sources.items() if source.role == role}


def _present(mixture: Mapping[str, float]) -> dict[str, float]:
    """Without the sources that contribute nothing, so that dmt at k=0 is mixed_sequential, and one stage with it."""
    return {name: fraction for name, fraction in mixture.items() if fraction > 0}
