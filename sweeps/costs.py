"""What a stage will cost, from the store: its tokens, and what a token has cost before."""

from data.fraction import count
from data.mixture import Draw
from data.prepare import KIND as PREPARED
from data.store import Record, Store
from sweeps.budget import Rates
from sweeps.config import SweepConfig
from sweeps.lineage import models
from trainers import base
from trainers.job import KIND, RUNGS, StageJob


def stage_tokens(job: StageJob, store: Store) -> int | None:
    """Tokens of a stage, from the mean length of the prepared rows; None where a source is not prepared."""
    total = 0.0
    for share in job.shares:
        record = store.record(PREPARED, share.prepared)
        if record is None or not record["used"]:
            return None
        total += _share_tokens(share.fraction, share.draw, record) * job.train.epochs
    return round(total)


def tokens_left(job: StageJob, store: Store) -> int | None:
    """Tokens from the last rung that was reached before the job's end."""
    whole = stage_tokens(job, store)
    reached = (float(end.rpartition("@")[2]) for end in store.keys(RUNGS, f"{job.key}@") if store.record(RUNGS, end))
    before = max((share for share in reached if share < job.until), default=0.0)
    return None if whole is None else round(whole * (job.until - before))


def _share_tokens(fraction: float, draw: Draw, record: Record) -> float:
    mean = record["tokens"] / record["used"]
    if draw.budget is None:
        return count(fraction, record["used"]) * mean
    return fraction * draw.budget * (mean if draw.unit == "examples" else 1)


def measured(config: SweepConfig, store: Store) -> list[Record]:
    """The records of the stages in the store that were trained from the same base models."""
    names = {base.fingerprint(model) for model in models(config)}
    return [record for record in store.records(KIND) if record.get("base") in names]


def rates(config: SweepConfig, store: Store) -> Rates:
    """Device-seconds per token, as measured, else as written for the pool."""
    return Rates(measured(config, store), config.resources.tokens_per_second)
