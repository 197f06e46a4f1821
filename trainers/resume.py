"""Going on from a resume point: a stage in the middle, as an entry of the store that any attempt can take up.

An entry `resume/<stage key>-<step>` holds what DeepSpeed saves (weights, optimizer, each worker its shard) and the state of
every worker's random generators. The learning rate and the examples are functions of the step, so the step is all that is
kept of them. Another number of workers reads it through DeepSpeed's universal checkpoint, which ZeRO 0 does not need.

`find` and `load` are for all workers at once. A worker that fails in one fails the attempt.
"""

import contextlib
import hashlib
import io
import math
import shutil
import tempfile
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from data.store import Record, Store
from trainers import randomness
from trainers.job import RESUME, StageJob
from trainers.workers import beside, first_of_machine, from_first, told_by_all

TAG = "state"


@dataclass(frozen=True)
class Position:
    """Steps and tokens that are done, the loss of the last good step, and how many were bad since."""

    step: int = 0
    tokens: int = 0
    loss: float = math.nan
    bad: int = 0


@dataclass(frozen=True)
class Point:
    """A resume point that was found whole. `convert` when other workers or another ZeRO stage wrote it."""

    record: Record
    folder: Path
    convert: bool

    @property
    def position(self) -> Position:
        return Position(self.record["step"], self.record["tokens"], self.record["loss"], self.record.get("bad", 0))


def find(job: StageJob, store: Store, limit: int, notes: list[str]) -> Point | None:
    """The newest point at or before a step. One whose files are not what was written is removed, and noted."""
    for record in from_first(lambda: newest_first(job.key, store)):
        if record["step"] > limit or not _fits(record, job, notes):
            continue
        damage = _fetch(record, store)
        if not damage:
            notes.append(f"continued from step {record['step']}")
            layout = [dist.get_world_size(), job.train.deepspeed.zero]
            convert = record["zero"] > 0 and [record["workers"], record["zero"]] != layout
            return Point(record, store.fetch(RESUME, record["key"], compare=False), convert)
        notes.append(f"the resume point at step {record['step']} was damaged ({damage}) and is removed")
        if dist.get_rank() == 0:
            store.delete(RESUME, record["key"])
        dist.barrier()
    if notes:
        notes.append("begins again from its parent")
    return None


def load(engine: Any, point: Point, store: Store) -> None:
    """Give an engine, made for this point, its state; and this worker its random generators."""
    folder = _universal(point) if point.convert else point.folder
    loaded, _ = engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=not frozen(engine))
    if loaded is None:
        raise RuntimeError(f"DeepSpeed found no state in {folder}")
    randomness.load(generators(point.folder, dist.get_rank() % point.record["workers"]))
    dist.barrier()
    if first_of_machine():
        temporary = [folder] * point.convert + [point.folder] * (not store.local)
        for path in temporary:
            shutil.rmtree(path, ignore_errors=True)


def newest_first(stage: str, store: Store) -> list[Record]:
    """The records of a stage's resume points."""
    return sorted(store.records(RESUME, f"{stage}-"), key=lambda record: -record["step"])


def frozen(engine: Any) -> bool:
    """Whether weights stand still, as under an adapter. They are left out: the attempt brings them along."""
    return not all(parameter.requires_grad for parameter in engine.module.parameters())


def generators(folder: Path, rank: int) -> Path:
    return folder / TAG / f"random_pp_rank_{rank}_.pt"


def _fits(record: Record, job: StageJob, notes: list[str]) -> bool:
    """ZeRO 1 and 2 keep the same state; 0 and 3 each have a form of their own, into which no other is converted."""
    mine = job.train.deepspeed.zero
    fits = mine == record["zero"] or {mine, record["zero"]} == {1, 2}
    if not fits:
        notes.append(f"the resume point at step {record['step']} is of zero {record['zero']}, not {mine}: not used")
    return fits


def _fetch(record: Record, store: Store) -> str | None:
    """Bring a point to this machine and compare its sums, each worker a part; what is wrong, the same on all workers."""
    brought = told_by_all(_bring(record, store) if first_of_machine() else None)
    if any(brought):
        return next(filter(None, brought))
    folder = store.fetch(RESUME, record["key"], compare=False)
    me, here = beside()
    mine = sorted(record["checksums"].items())[me::here]
    found = [damage for name, digest in mine if (damage := _damage(folder / name, digest))]
    return next((reason for told in told_by_all(found) for reason in told), None)


def _bring(record: Record, store: Store) -> str | None:
    try:
        store.fetch(RESUME, record["key"], compare=False)
    except (OSError, KeyError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _damage(path: Path, digest: str) -> str | None:
    if not path.is_file():
        return f"{path.name} is missing"
    with path.open("rb") as stream:  # not data.fingerprint, which trusts what it read once
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    return None if found == digest else f"{path.name} has another checksum"


def _universal(point: Point) -> Path:
    """The point for any number of workers, converted once on each machine."""
    from deepspeed.checkpoint import ds_to_universal

    folder = Path(tempfile.gettempdir()) / f"fulcrum-universal-{point.record['attempt']}"
    if first_of_machine():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # it tells its life
            ds_to_universal.main(
                Namespace(
                    input_folder=str(point.folder / TAG),
                    output_folder=str(folder / TAG),
                    num_extract_workers=1,
                    num_merge_workers=1,
                    keep_temp_folder=False,
                    strict=True,
                    inject_missing_state=True,
                )
            )
    dist.barrier()
    return folder
