"""What a trial asks the stage graph for: its chain of stages and its evaluation, all named by their keys.

Pure: from a configuration and the fingerprints of its inputs. `plan` computes the same keys as `run`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any

from data import sources
from data.files import Folder
from data.fingerprint import digest
from data.prepare import prepared_key
from data.words import HeldOut
from evaluators import evaluate
from evaluators.config import EvaluateConfig
from evaluators.evaluate import Identity
from evaluators.judge.cost import total
from sweeps.config import SweepConfig
from trainers import base
from trainers.config import ModelConfig
from trainers.job import Share, StageJob, kind_of
from trainers.keys import KeyedStage, chain, in_order
from trainers.recipe import Stage, recipe


@dataclass(frozen=True)
class Identities:
    """Fingerprints of everything that a sweep reads."""

    base: str
    sources: Mapping[str, str]
    items: Mapping[str, Identity]
    judges: Mapping[str, str] = field(default_factory=dict)
    bases: Mapping[str, str] = field(default_factory=dict)
    """Those of the models that are searched, by path."""

    def base_of(self, model: ModelConfig) -> str:
        """The base model of a trial."""
        return self.bases.get(str(model.path), self.base)

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Identities":
        """From what `plain` gave, as it stands in a ledger."""
        return cls(**{**values, "items": {name: Identity(**item) for name, item in values["items"].items()}})


BATCHES = 2
"""A chunk holds so many full batches: small enough to lose, large enough to keep a batch full."""


@dataclass(frozen=True)
class Order:
    """One benchmark of one checkpoint to evaluate: its items from `start` to `stop`, None for the last."""

    store: str
    stage: str
    name: str
    config: EvaluateConfig
    trust_remote_code: bool
    generation: str
    evaluation: str
    count: int | None
    share: float = 1.0
    """Of the questions; below 1 the checkpoint is a rung."""
    base: ModelConfig | None = None
    """The base model, where that is evaluated itself."""
    start: int = 0
    stop: int | None = None

    @property
    def kind(self) -> str:
        """Kind of the checkpoint's entry in the store."""
        return kind_of(self.stage)

    @property
    def chunks(self) -> list["Order"]:
        """The order cut into pieces that actors work on."""
        size = BATCHES * self.config.batch_size
        if self.count is None:
            return [self]
        starts = range(0, ceil(self.share * self.count - 1e-9), size)
        pieces = [replace(self, start=start, stop=start + size) for start in starts]
        return [*pieces[:-1], replace(pieces[-1], stop=None)]  # samples of a question stay together, so there may be more


@dataclass(frozen=True)
class Lineage:
    """A trial's path through the graph: jobs in order, each with the stage it trains, then an evaluation by each benchmark."""

    jobs: tuple[StageJob, ...]
    orders: tuple[Order, ...]
    strategy: str
    store: str

    @property
    def share(self) -> float:
        """The share of the last stage after which, and of the questions on which, it is evaluated."""
        return self.jobs[-1].until if self.jobs else 1.0

    @property
    def checkpoint(self) -> str:
        """Key of what is evaluated."""
        return self.orders[-1].stage

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(job.end for job in self.jobs)

    @property
    def evaluation(self) -> str:
        """Names the scores of all benchmarks together."""
        return digest(self.evaluations)

    @property
    def evaluations(self) -> dict[str, str]:
        """The key of each benchmark's evaluation."""
        return {order.name: order.evaluation for order in self.orders}


def identities(config: SweepConfig) -> Identities:
    """Read the inputs of a configuration and name them; needs no torch."""
    kept_back = held_out(config)
    return Identities(
        base=base.fingerprint(config.model),
        sources={name: sources.fingerprint(source, kept_back) for name, source in config.sources.items()},
        items=evaluate.identities(config.evaluate),
        judges=evaluate.judges(config.evaluate),
        bases={str(model.path): base.fingerprint(model) for model in models(config)[1:]},
    )


def models(config: SweepConfig) -> list[ModelConfig]:
    """The model of a configuration, then those that are searched."""
    searched = getattr(config.search.space.get("model.path"), "values", ())
    return [config.model, *(config.model.model_copy(update={"path": path}) for path in searched)]


def held_out(config: SweepConfig) -> HeldOut | None:
    """The questions that the benchmarks keep from every source, None where there are none."""
    questions = [text for one in evaluate.benchmarks(config.evaluate).values() for text in one.held_out()]
    return HeldOut.of(questions) if questions else None


def stages(config: SweepConfig, known: Identities) -> tuple[KeyedStage, ...]:
    """The keyed stages of a configuration's recipe."""
    steps: tuple[Stage, ...] = recipe(config.strategy, config.sources, config.train, config.k, config.stages, config.data.total)
    return chain(steps, known.base_of(config.model), config.model, known.sources)


def lineage(config: SweepConfig, known: Identities, share: float = 1.0) -> Lineage:
    """The jobs and the evaluation of one trial's configuration, up to a share of its last stage."""
    jobs = tuple(_job(config, known, stage) for stage in stages(config, known))
    last = replace(jobs[-1], until=share)
    return Lineage(
        jobs=(*jobs[:-1], last),
        orders=tuple(_order(config, last.end, share, name, known.items[name]) for name in config.evaluate.benchmarks),
        strategy=config.strategy,
        store=store_root(config),
    )


def untrained(config: SweepConfig, known: Identities) -> Lineage:
    """The evaluation of the base model as it is."""
    orders = (_order(config, known.base_of(config.model), 1.0, name, known.items[name]) for name in config.evaluate.benchmarks)
    return Lineage((), tuple(replace(order, base=config.model) for order in orders), config.strategy, store_root(config))


def repeats(config: SweepConfig, known: Identities, share: float = 1.0) -> tuple[Lineage, ...]:
    """The lineages of a trial, one for each of its repeats."""
    return tuple(lineage(reseeded(config, r), known, share) for r in range(config.search.repeats))


def reseeded(config: SweepConfig, repeat: int) -> SweepConfig:
    """The configuration with the seeds of a repeat in all stages."""
    if not repeat:
        return config
    values = config.model_dump()
    for train in [values["train"], *(stage["train"] for stage in values["stages"] if "seed" in stage["train"])]:
        train["seed"] += repeat
    return SweepConfig.model_validate(values)


def merged(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The records of a checkpoint's evaluations as one: scores by benchmark, device-seconds in all."""
    found = list(records)
    scores = {name: score for record in found for name, score in record["scores"].items()}
    costs = [record["cost"] for record in found if record.get("cost")]
    seconds = sum(record["device_seconds"] for record in found)
    return {"scores": scores, "device_seconds": seconds} | ({"cost": total(costs)} if costs else {})


def lengths(config: SweepConfig) -> list[int]:
    """The lengths that sources are tokenised for, over all stages and searched values."""
    parameter = config.search.space.get("train.max_length")
    stages = recipe(config.strategy, config.sources, config.train, config.k or 0.0, config.stages)
    searched = getattr(parameter, "values", ()) if parameter else ()
    return sorted({stage.train.max_length for stage in stages} | set(searched))


def store_root(config: SweepConfig) -> str:
    """The store of a configuration's storage, absolute, so that every process finds it."""
    return f"{root(config.storage)}/store"


def run_folder(config: SweepConfig) -> Folder:
    """The folder of the run."""
    return Folder(root(config.storage)) / config.name


def absolute(config: SweepConfig) -> SweepConfig:
    """The configuration with absolute paths, for processes that work in another folder. It has the same keys."""
    values = config.model_dump()
    values["storage"] = root(config.storage)
    files = {name: benchmark.FILES for name, benchmark in config.evaluate.benchmarks.items()}
    entries: list[tuple[dict[str, Any], tuple[str, ...]]] = [(values["model"], ("path",))]
    entries += [(source, ("path",)) for source in values["sources"].values()]
    entries += [(values["evaluate"][name], fields) for name, fields in files.items()]
    judges = (values["evaluate"][name].get("judge") for name in files)
    entries += [(judge, ("path",)) for judge in judges if isinstance(judge, dict)]
    for entry, fields in entries:
        for name in fields:
            if entry.get(name) and Path(entry[name]).exists():
                entry[name] = str(Path(entry[name]).resolve())
    return SweepConfig.model_validate(values)


def root(storage: str) -> str:
    """A storage as every process finds it: the address of a bucket, or an absolute path."""
    path = storage.removeprefix("file://")
    return path.rstrip("/") if "://" in path else str(Path(path).resolve())


def _order(config: SweepConfig, checkpoint: str, share: float, name: str, identity: Identity) -> Order:
    return Order(
        store=store_root(config),
        stage=checkpoint,
        name=name,
        config=config.evaluate,
        trust_remote_code=config.model.trust_remote_code,
        generation=identity.generation(checkpoint),
        evaluation=identity.evaluation(checkpoint),
        count=identity.count,
        share=share,
    )


def _job(config: SweepConfig, known: Identities, keyed: KeyedStage) -> StageJob:
    train, pool = keyed.stage.train, config.resources.pool("train")
    return StageJob(
        key=keyed.key,
        parent=keyed.parent,
        merged=keyed.merged,
        base=known.base_of(config.model),
        shares=tuple(
            Share(
                name,
                prepared_key(known.sources[name], known.base_of(config.model), train.max_length),
                known.sources[name],
                keyed.stage.mixture[name],
                keyed.stage.draws[name],
            )
            for name in in_order(keyed.stage, known.sources)
        ),
        train=train,
        model=config.model,
        store=store_root(config),
        devices=pool.devices,
        gpu=pool.gpus_per_worker > 0,
        threads=max(1, int(pool.cpus_per_worker)),
        pool=pool.accelerator_name,
        tensorboard=str(run_folder(config) / "tensorboard" / keyed.key[:8]) if "tensorboard" in config.tracking else None,
    )
