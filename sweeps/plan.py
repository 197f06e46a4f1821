"""What a sweep would do: its stages, which of them are cached or shared, and what they would cost. Starts nothing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from data.store import Store
from sweeps import beside, costs, lineage, space, starts
from sweeps.config import BudgetConfig, SweepConfig
from sweeps.loading import with_params
from sweeps.scales import Params
from sweeps.study import planned_trials
from trainers.job import KIND, StageJob

HEAD_MIB = {"task": 160, "workers": 440}
"""As measured by tests/bench/head.py: a trial alone, or with the processes of a Train run beside it."""


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
    budget: BudgetConfig
    confirmed: int
    """Recipes that the confirmation will train beyond these: which ones, the scores decide."""
    head_mib: int
    """Memory on the head of a trial whose stage trains."""

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
    paths = [path for params in trials for path in lineage.repeats(with_params(config, params), known)]
    paths += [path for anchor in beside.anchors(config, known) for path in anchor.paths]
    return Plan(
        trials=len(trials),
        exact=exact,
        stages=tuple(_nodes(config, [job for path in paths for job in path.jobs], store)),
        unshared_stages=sum(len(path.jobs) for path in paths),
        price=config.resources.pool("train").device_hour,
        budget=config.budget,
        confirmed=min(confirm.top, len(trials)) * confirm.seeds if (confirm := config.search.confirm) else 0,
        head_mib=HEAD_MIB["workers" if config.resources.pool("train").workers else "task"],
    )


def points(config: SweepConfig) -> tuple[list[Params], bool]:
    """The parameters of the trials to come, and whether these are the very ones: else the middle of the space stands in."""
    search = config.search
    trials, searched = planned_trials(search), search.space
    whole = space.grid(searched) if search.sampler == "grid" or space.size(searched) is not None else []
    if search.sampler == "grid" or len(whole) == trials:
        return whole[:trials], True
    first = space.start_points(searched, starts.points(search))[:trials]
    return first + [space.complete(searched, {})] * (trials - len(first)), False


def _nodes(config: SweepConfig, wanted: Sequence[StageJob], store: Store) -> list[PlannedStage]:
    """The stages of all trials, each once, in the order of asking."""
    rates, pool = costs.rates(config, store), config.resources.pool("train")
    trials = Counter(job.key for job in wanted)
    nodes = []
    for job in {job.key: job for job in wanted}.values():
        tokens = costs.stage_tokens(job, store)
        seconds = rates.device_seconds(tokens, job.base, pool.accelerator_name, job.train.max_length, pool.devices)
        mixture = {share.name: share.fraction for share in job.shares}
        cached = store.record(KIND, job.key) is not None
        nodes.append(PlannedStage(job.key, job.parent, mixture, trials[job.key], cached, tokens, seconds))
    return nodes
