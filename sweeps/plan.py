"""What a sweep would do: its stages, which of them are cached or shared, and what they would cost. Starts nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from data.mixture import take
from data.prepare import KIND as PREPARED
from data.prepare import prepared_key
from data.store import Store
from sweeps import lineage, space
from sweeps.config import SweepConfig
from sweeps.lineage import Identities
from sweeps.loading import with_params
from sweeps.space import Params
from sweeps.study import planned_trials
from trainers.job import KIND
from trainers.keys import KeyedStage


@dataclass(frozen=True)
class PlannedStage:
    """One node of the stage graph. `tokens` is None until the sources are prepared, `device_seconds` until a rate is known."""

    key: str
    parent: str | None
    mixture: dict[str, float]
    trials: int
    cached: bool
    tokens: int | None
    device_seconds: float | None


@dataclass(frozen=True)
class Plan:
    """A sweep before it runs. `exact` is false where the sampler decides the trials and their mean stands for them."""

    trials: int
    exact: bool
    stages: tuple[PlannedStage, ...]
    unshared_stages: int
    price: float

    @property
    def to_train(self) -> tuple[PlannedStage, ...]:
        return tuple(stage for stage in self.stages if not stage.cached)

    @property
    def device_hours(self) -> float | None:
        """None where a stage's cost is not known."""
        seconds = [stage.device_seconds for stage in self.to_train]
        return None if None in seconds else sum(s for s in seconds if s is not None) / 3600

    @property
    def cost(self) -> float | None:
        return None if self.device_hours is None else self.device_hours * self.price


def plan(config: SweepConfig) -> Plan:
    """The stage graph of a sweep, from its configuration and the store's records."""
    known = lineage.identities(config)
    store = Store(lineage.store_root(config))
    trials, exact = points(config)
    chains = [lineage.stages(with_params(config, params), known) for params in trials]
    rate = _seconds_per_token(store, known)
    return Plan(
        trials=len(trials),
        exact=exact,
        stages=tuple(_nodes(chains, known, store, rate)),
        unshared_stages=sum(map(len, chains)),
        price=config.resources.price.get(config.resources.kind, 0.0),
    )


def points(config: SweepConfig) -> tuple[list[Params], bool]:
    """The parameters of the trials to come, and whether these are the very ones: else the middle of the space stands in."""
    trials, searched = planned_trials(config.search), config.search.space
    if config.search.sampler == "grid" or not searched:
        return (space.grid(searched) or [{}])[:trials], True
    first = space.start_points(searched)[:trials]
    middle = {name: space.middle(parameter) for name, parameter in searched.items()}
    return first + [middle] * (trials - len(first)), False


def _nodes(chains: Sequence[Sequence[KeyedStage]], known: Identities, store: Store, rate: float | None) -> list[PlannedStage]:
    stages = {keyed.key: keyed for chain in chains for keyed in chain}
    wanted = [keyed.key for chain in chains for keyed in chain]
    nodes = []
    for key, keyed in stages.items():
        tokens = _tokens(keyed, known, store)
        seconds = tokens * rate if tokens is not None and rate is not None else None
        cached = store.record(KIND, key) is not None
        nodes.append(PlannedStage(key, keyed.parent, dict(keyed.stage.mixture), wanted.count(key), cached, tokens, seconds))
    return nodes


def _tokens(keyed: KeyedStage, known: Identities, store: Store) -> int | None:
    """Tokens of a stage, from the mean length of the prepared rows; None where a source is not prepared."""
    train, total = keyed.stage.train, 0.0
    for name, fraction in keyed.stage.mixture.items():
        record = store.record(PREPARED, prepared_key(known.sources[name], known.base, train.max_length))
        if record is None or not record["used"]:
            return None
        used = len(take(record["used"], fraction, train.seed, known.sources[name]))
        total += used * record["tokens"] / record["used"] * train.epochs
    return round(total)


def _seconds_per_token(store: Store, known: Identities) -> float | None:
    """Median device-seconds per token of the stages in the store that start from the same base model."""
    records = [r for r in store.records(KIND) if r.get("base") == known.base and r["tokens"]]
    return median(r["device_seconds"] / r["tokens"] for r in records) if records else None
