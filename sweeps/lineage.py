"""What a trial asks the stage graph for: its chain of stages and its evaluation, all named by their keys.

Pure: from a configuration and the fingerprints of its inputs. `plan` computes the same keys as `run`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data import sources
from data.fingerprint import digest
from data.prepare import prepared_key
from data.words import HeldOut
from evaluators import evaluate
from evaluators.config import FILE_FIELDS, EvaluateConfig
from sweeps.config import SweepConfig
from trainers import base
from trainers.job import Share, StageJob
from trainers.keys import KeyedStage, chain, in_order
from trainers.recipe import Stage, recipe

EVALUATIONS = "evaluations"


@dataclass(frozen=True)
class Identities:
    """Fingerprints of everything that a sweep reads."""

    base: str
    sources: Mapping[str, str]
    items: str
    judges: Mapping[str, str] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Lineage:
    """A trial's path through the graph: jobs in order, each with the stage it trains, then one evaluation."""

    jobs: tuple[StageJob, ...]
    evaluation: str
    evaluate: EvaluateConfig
    strategy: str
    trust_remote_code: bool

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(job.key for job in self.jobs)


def identities(config: SweepConfig) -> Identities:
    """Read the inputs of a configuration and name them; needs no torch."""
    kept_back = held_out(config)
    return Identities(
        base=base.fingerprint(config.model),
        sources={name: sources.fingerprint(source, kept_back) for name, source in config.sources.items()},
        items=evaluate.fingerprint(config.evaluate),
        judges=evaluate.judges(config.evaluate),
    )


def held_out(config: SweepConfig) -> HeldOut | None:
    """The questions that the benchmarks keep from every source, None where there are none."""
    questions = [text for one in evaluate.benchmarks(config.evaluate).values() for text in one.held_out()]
    return HeldOut.of(questions) if questions else None


def stages(config: SweepConfig, known: Identities) -> tuple[KeyedStage, ...]:
    """The keyed stages of a configuration's recipe."""
    steps: tuple[Stage, ...] = recipe(config.strategy, config.sources, config.train, config.k, config.stages, config.data.total)
    return chain(steps, known.base, config.model, known.sources)


def lineage(config: SweepConfig, known: Identities) -> Lineage:
    """The jobs and the evaluation of one trial's configuration."""
    keyed = stages(config, known)
    return Lineage(
        jobs=tuple(_job(config, known, stage) for stage in keyed),
        evaluation=evaluation_key(keyed[-1].key, known),
        evaluate=config.evaluate,
        strategy=config.strategy,
        trust_remote_code=config.model.trust_remote_code,
    )


def evaluation_key(stage: str, known: Identities) -> str:
    """Names the scores of one checkpoint under one set of benchmarks."""
    return digest({"stage": stage, "items": known.items})


def lengths(config: SweepConfig) -> list[int]:
    """The lengths that sources are tokenised for, over all stages and searched values."""
    parameter = config.search.space.get("train.max_length")
    stages = recipe(config.strategy, config.sources, config.train, config.k or 0.0, config.stages)
    searched = getattr(parameter, "values", ()) if parameter else ()
    return sorted({stage.train.max_length for stage in stages} | set(searched))


def store_root(config: SweepConfig) -> str:
    """The store of a configuration's storage, absolute, so that every process finds it."""
    return f"{local(config.storage)}/store"


def run_folder(config: SweepConfig) -> Path:
    """The folder of the run."""
    return local(config.storage) / config.name


def absolute(config: SweepConfig) -> SweepConfig:
    """The configuration with absolute paths, for processes that work in another folder. It has the same keys."""
    values = config.model_dump()
    values["storage"] = str(local(config.storage))
    judges = [benchmark.get("judge") for benchmark in values["evaluate"].values() if isinstance(benchmark, dict)]
    for entry in (values["model"], *values["sources"].values(), *values["evaluate"].values(), *judges):
        for name in FILE_FIELDS & entry.keys() if isinstance(entry, dict) else ():
            if entry[name] and Path(entry[name]).exists():
                entry[name] = str(Path(entry[name]).resolve())
    return SweepConfig.model_validate(values)


def local(storage: str) -> Path:
    """A storage that is a path or a file:// URI, as an absolute path."""
    return Path(storage.removeprefix("file://")).resolve()


def _job(config: SweepConfig, known: Identities, keyed: KeyedStage) -> StageJob:
    train = keyed.stage.train
    return StageJob(
        key=keyed.key,
        parent=keyed.parent,
        merged=keyed.merged,
        base=known.base,
        shares=tuple(
            Share(
                name,
                prepared_key(known.sources[name], known.base, train.max_length),
                known.sources[name],
                keyed.stage.mixture[name],
                keyed.stage.draws[name],
            )
            for name in in_order(keyed.stage, known.sources)
        ),
        train=train,
        model=config.model,
        store=store_root(config),
        devices=config.resources.devices,
        gpu=config.resources.gpus_per_worker > 0,
        threads=max(1, int(config.resources.cpus_per_worker)),
        tensorboard=str(run_folder(config) / "tensorboard" / keyed.key[:8]) if "tensorboard" in config.tracking else None,
    )
