"""What a trial asks the stage graph for: its chain of stages and its evaluation, all named by their keys.

Pure: from a configuration and the fingerprints of its inputs. `plan` computes the same keys as `run`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data import sources
from data.files import Folder
from data.fingerprint import digest
from data.prepare import prepared_key
from evaluators import evaluate
from evaluators.config import EvaluateConfig
from sweeps.config import SweepConfig
from trainers import base
from trainers.job import Share, StageJob
from trainers.keys import KeyedStage, chain
from trainers.recipe import Stage, recipe

EVALUATIONS = "evaluations"


@dataclass(frozen=True)
class Identities:
    """Fingerprints of everything that a sweep reads."""

    base: str
    sources: Mapping[str, str]
    items: str

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Identities":
        """From what `plain` gave, as it stands in a ledger."""
        return cls(**values)


@dataclass(frozen=True)
class Lineage:
    """A trial's path through the graph: jobs in order, each with the stage it trains, then one evaluation."""

    jobs: tuple[StageJob, ...]
    evaluation: str
    evaluate: EvaluateConfig
    strategy: str
    trust_remote_code: bool
    share: float = 1.0
    """The share of the last stage after which, and of the items on which, it is evaluated."""

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(job.key for job in self.jobs)


def identities(config: SweepConfig) -> Identities:
    """Read the inputs of a configuration and name them; needs no torch."""
    return Identities(
        base=base.fingerprint(config.model),
        sources={name: sources.fingerprint(source) for name, source in config.sources.items()},
        items=evaluate.fingerprint(config.evaluate),
    )


def stages(config: SweepConfig, known: Identities) -> tuple[KeyedStage, ...]:
    """The keyed stages of a configuration's recipe."""
    steps: tuple[Stage, ...] = recipe(config.strategy, config.sources, config.train, config.k, config.stages)
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
    return f"{root(config.storage)}/store"


def run_folder(config: SweepConfig) -> Folder:
    """The folder of the run."""
    return Folder(root(config.storage)) / config.name


def absolute(config: SweepConfig) -> SweepConfig:
    """The configuration with absolute paths, for processes that work in another folder. It has the same keys."""
    values = config.model_dump()
    values["storage"] = root(config.storage)
    for entry in (values["model"], *values["sources"].values(), *values["evaluate"].values()):
        if isinstance(entry, dict) and entry.get("path") and Path(entry["path"]).exists():
            entry["path"] = str(Path(entry["path"]).resolve())
    return SweepConfig.model_validate(values)


def root(storage: str) -> str:
    """A storage as every process finds it: the address of a bucket, or an absolute path."""
    path = storage.removeprefix("file://")
    return path.rstrip("/") if "://" in path else str(Path(path).resolve())


def _job(config: SweepConfig, known: Identities, keyed: KeyedStage) -> StageJob:
    train, pool = keyed.stage.train, config.resources.pool("train")
    return StageJob(
        key=keyed.key,
        parent=keyed.parent,
        base=known.base,
        shares=tuple(
            Share(name, prepared_key(known.sources[name], known.base, train.max_length), known.sources[name], fraction)
            # in the order of the key: how the sources are listed must not change the order of the examples
            for name, fraction in sorted(keyed.stage.mixture.items(), key=lambda entry: (known.sources[entry[0]], entry[1]))
        ),
        train=train,
        model=config.model,
        store=store_root(config),
        devices=pool.devices,
        gpu=pool.gpus_per_worker > 0,
        threads=max(1, int(pool.cpus_per_worker)),
        pool=pool.accelerator_name,
    )
