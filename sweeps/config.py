"""Configuration of a sweep: one file is the experiment."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from data.config import DataConfig, Frozen, SourceConfig
from data.fraction import Fraction, parse_fraction
from evaluators.config import EvaluateConfig
from evaluators.judge.config import JudgeConfig
from trainers.config import ModelConfig, ResourcesConfig, StageConfig, TrainConfig
from trainers.recipe import Strategy

Value = Annotated[Any, BeforeValidator(lambda value: _number(value))]


def _alike(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Values of one column of the trials table: all numbers, all text or all true and false; none twice."""
    kinds = {"flag" if isinstance(v, bool) else "number" if isinstance(v, int | float) else type(v).__name__ for v in values}
    if len(kinds) > 1 or not kinds <= {"flag", "number", "str"}:
        raise ValueError("values must be all numbers, all text, or all true and false")
    if len(set(values)) < len(values):
        raise ValueError("a value stands twice")
    return values


Values = Annotated[tuple[Value, ...], AfterValidator(_alike), Field(min_length=1)]


def _number(value: Any) -> Any:
    """A fraction such as `1/256` as a number; other text stays text."""
    try:
        return parse_fraction(value)
    except ValueError:
        return value


def _several(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


Allowed = Annotated[tuple[Value, ...], BeforeValidator(_several), Field(min_length=1)]


class Searched(Frozen):
    when: dict[str, Allowed] = {}
    """Search this parameter only where other ones have these values, e.g. {strategy: dmt}; `k` needs none."""


class Grid(Searched):
    type: Literal["grid"]
    values: Values
    """The values, each tried once with each value of the other parameters."""


class Choice(Searched):
    type: Literal["choice"]
    values: Values
    """The values to choose from."""


class Uniform(Searched):
    type: Literal["uniform"]
    low: Fraction
    """Smallest value."""
    high: Fraction
    """Largest value."""


class LogUniform(Searched):
    type: Literal["loguniform"]
    low: Fraction = Field(gt=0)
    """Smallest value that is not 0."""
    high: Fraction = Field(gt=0)
    """Largest value."""
    include_zero: bool = False
    """Try 0 as well: once, first."""


class Int(Searched):
    type: Literal["int"]
    low: int
    """Smallest value."""
    high: int
    """Largest value."""


class Simplex(Searched):
    type: Literal["simplex"]
    over: tuple[str, ...] = Field(min_length=2)
    """The dotted paths that share 1 among them; each is a column of its own."""


Parameter = Annotated[Grid | Choice | Uniform | LogUniform | Int | Simplex, Field(discriminator="type")]
Sampler = Literal["grid", "random", "qmc", "tpe", "gp", "nsga2", "nsga3"]


class ConstraintsConfig(Frozen):
    specialist: float | None = Field(default=None, ge=0, le=1)
    """Smallest specialist score that a trial should have."""
    general: float | None = Field(default=None, ge=0, le=1)
    """Smallest general score that a trial should have."""
    device_seconds: float | None = Field(default=None, gt=0)
    """Most that a trial's own stages and evaluation should cost, whoever paid for them."""


class PrunerConfig(Frozen):
    rungs: tuple[Annotated[Fraction, Field(gt=0, le=1)], ...] = Field(min_length=2)
    """Shares of the last stage after which a trial is scored, on the same share of each benchmark's items; the last is 1."""
    keep: Fraction = Field(default=0.4, gt=0, lt=1)
    """Share of the trials at a rung that go on."""
    least: int = Field(default=4, ge=1)
    """The best so many go on, however few have reached the rung."""

    @model_validator(mode="after")
    def _they_rise_to_one(self) -> Self:
        told = [float(f"{rung:g}") for rung in self.rungs]  # as they name their entries in the store
        if told != sorted(set(told)) or self.rungs[-1] != 1:
            raise ValueError(f"rungs = {list(self.rungs)} must rise and end at 1, for example [1/4, 1/2, 1]")
        return self


Anchor = Literal["base", "general", "specialist", "k0", "multi_task"]


class ConfirmConfig(Frozen):
    top: int = Field(default=3, ge=1)
    """Candidates: the balance point, then what would be chosen instead if the scores had come out otherwise."""
    seeds: int = Field(default=3, ge=1)
    """Times that each is trained, with seeds that no trial had."""
    evaluate: dict[str, dict[str, Any]] = {}
    """Fields of `evaluate` that differ on the test items, as gsm8k: {path: test.jsonl}; `split: test` need not be given."""


class SearchConfig(Frozen):
    sampler: Sampler = "tpe"
    """Who proposes trials: grid, random, qmc, or on both objectives tpe, gp, nsga2 or nsga3."""
    trials: int | None = Field(default=None, ge=1)
    """Number of trials; null is 24, or the whole of a grid. A space of fewer points ends when all are tried."""
    concurrency: int | None = Field(default=None, ge=1)
    """Most trials at the same time; null is as many as the cluster has devices for, and follows it."""
    seed: int = Field(default=0, ge=0)
    """Seed of the sampler."""
    start: tuple[dict[str, Value] | str, ...] = ()
    """Tried before the sampler is asked: parameters, `paper` (its values of k), or the folder or trials.csv of a run."""
    constraints: ConstraintsConfig = ConstraintsConfig()
    """What a trial should keep to; the sampler avoids what does not."""
    repeats: int = Field(default=1, ge=1, le=100)
    """Times that each trial is trained, repeat r with `train.seed` + r in all stages; the sampler is told their means."""
    anchors: tuple[Anchor, ...] = ()
    """What the balance point is compared with: base (the model as it is), general or specialist (those sources alone), k0
    (nothing replayed), multi_task (all sources at once). Each is trained as configured, with no searched value."""
    pruner: PrunerConfig | None = None
    """Stop trials that fall behind at rungs inside their last stage; null trains all of them to the end."""
    confirm: ConfirmConfig | None = None
    """Train the best candidates again with fresh seeds and score them on the test splits; null does not."""
    storage_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable with the URL of an Optuna storage to use in place of study.db."""
    space: dict[str, Parameter] = {}
    """What is searched: `k` or the dotted path of a field, and its values."""


class Knee(Frozen):
    rule: Literal["knee"] = "knee"


class Floor(Frozen):
    rule: Literal["floor"]
    general: float = Field(ge=-1, le=1)
    """The general score to keep: from 0 up a value, below 0 the most that may be lost against the best trial."""


class Weights(Frozen):
    rule: Literal["weights"]
    specialist: float = Field(ge=0)
    """Weight of the specialist objective."""
    general: float = Field(ge=0)
    """Weight of the general objective."""

    @model_validator(mode="after")
    def _something_counts(self) -> Self:
        if self.specialist + self.general == 0:
            raise ValueError("one of the weights must be above 0")
        return self


def _named_rule(value: Any) -> Any:
    return {"rule": value} if isinstance(value, str) else value


Balance = Annotated[Knee | Floor | Weights, Field(discriminator="rule"), BeforeValidator(_named_rule)]


class BudgetConfig(Frozen):
    device_hours: float | None = Field(default=None, gt=0)
    """Most device-hours of stages and evaluations over the whole run; null is no limit."""
    usd: float | None = Field(default=None, gt=0)
    """Most money of the whole run, devices at `resources.price` and the judge together; null is no limit."""


class SweepConfig(Frozen):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    """Name of the run; its folder below `storage`."""
    storage: str = Field(default="runs", min_length=1)
    """Where runs and the store lie: a local path, file:///path for one that all nodes share, s3://bucket/path or gs://."""
    model: ModelConfig
    """The base model."""
    sources: dict[str, SourceConfig] = Field(min_length=1)
    """The data sets, by name."""
    data: DataConfig = DataConfig()
    """How sources are read."""
    strategy: Strategy = "dmt"
    """multi_task, sequential, mixed_sequential, dmt or explicit."""
    k: Fraction | None = Field(default=None, ge=0, le=1)
    """Replay factor of dmt, 0 to 1: the fraction of the specialist data that stage 2 sees again."""
    stages: tuple[StageConfig, ...] = ()
    """The stages of strategy explicit."""
    train: TrainConfig = TrainConfig()
    """Hyper-parameters of every stage."""
    resources: ResourcesConfig = ResourcesConfig()
    """Machines of one stage."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """The benchmarks, by name."""
    search: SearchConfig = SearchConfig()
    """How trials are proposed."""
    balance: Balance = Knee()
    """How the balance point is chosen: knee, floor or weights."""
    budget: BudgetConfig = BudgetConfig()
    """What the sweep may cost."""
    tracking: tuple[Literal["tensorboard"], ...] = ()
    """Where the numbers of a stage in training go besides the ledger: `tensorboard` writes its files below the run's folder."""


MAY_CHANGE = (
    *("search.trials", "search.concurrency", "search.confirm", "search.anchors", "resources", "budget", "balance", "tracking"),
    *(f"evaluate.mt_bench.judge.{name}" for name in JudgeConfig.NOT_THE_RATING),
)
"""Fields that may differ when a run is continued."""
