"""Resume points: a stage in the middle, as an entry of the store that any later attempt goes on from.

An entry `resume/<stage key>-<step>` holds what DeepSpeed saves (weights, optimizer, each worker its shard) and the state of
every worker's random generators. The learning rate and the examples are functions of the step, so the step is all that is
kept of them. A point is written to local files while the workers wait and made durable behind their backs; its marker is
written when every worker's files are. Another number of workers reads it through DeepSpeed's universal checkpoint, which
ZeRO 0 does not need.

All methods but `uploading` are for all workers at once. A worker that fails in one fails the attempt.
"""

import contextlib
import hashlib
import io
import math
import re
import shutil
import tempfile
from argparse import Namespace
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from data.store import Record, Store
from trainers import memory, randomness
from trainers.job import RESUME, StageJob
from trainers.workers import beside, first_of_machine, from_first, told_by_all

KEPT = 2
TAG = "state"
SHARD = re.compile(r"pp_rank_(\d+)_")


@dataclass(frozen=True)
class Position:
    """Steps and tokens that are done, and the loss of the last step."""

    step: int = 0
    tokens: int = 0
    loss: float = math.nan


@dataclass(frozen=True)
class Point:
    """A resume point that was found whole. `convert` when other workers or another ZeRO stage wrote it."""

    record: Record
    folder: Path
    convert: bool

    @property
    def position(self) -> Position:
        return Position(self.record["step"], self.record["tokens"], self.record["loss"])


@dataclass(frozen=True)
class _Upload:
    key: str
    attempt: str
    record: Record
    folder: Path
    sums: Future[dict[str, str]]


class ResumePoints:
    """The resume points of one stage, as this worker sees them."""

    def __init__(self, job: StageJob, store: Store) -> None:
        self._job = job
        self._store = store
        self._background = ThreadPoolExecutor(1, "resume")
        self._upload: _Upload | None = None
        self.notes: list[str] = []

    def find(self, limit: int) -> Point | None:
        """The newest point at or before a step. One whose files are not what was written is removed, and noted."""
        for record in from_first(lambda: newest_first(self._job.key, self._store)):
            if record["step"] > limit or not self._fits(record):
                continue
            damage = self._fetch(record)
            if not damage:
                self.notes.append(f"continued from step {record['step']}")
                layout = [dist.get_world_size(), self._job.train.deepspeed.zero]
                convert = record["zero"] > 0 and [record["workers"], record["zero"]] != layout
                return Point(record, self._store.fetch(RESUME, record["key"], compare=False), convert)
            self.notes.append(f"the resume point at step {record['step']} was damaged ({damage}) and is removed")
            if dist.get_rank() == 0:
                self._store.delete(RESUME, record["key"])
            dist.barrier()
        return None

    def load(self, engine: Any, point: Point) -> None:
        """Give an engine, made for this point, its state; and this worker its random generators."""
        folder = _universal(point) if point.convert else point.folder
        loaded, _ = engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=not frozen(engine))
        if loaded is None:
            raise RuntimeError(f"DeepSpeed found no state in {folder}")
        randomness.load(_generators(point.folder, dist.get_rank() % point.record["workers"]))
        dist.barrier()
        if first_of_machine():
            temporary = [folder] * point.convert + [point.folder] * (not self._store.local)
            for path in temporary:
                shutil.rmtree(path, ignore_errors=True)

    def save(self, engine: Any, position: Position) -> None:
        """Take a snapshot and begin to make it durable. An earlier one is waited for."""
        self.settle()
        attempt = from_first(self._store.attempt)
        key = f"{self._job.key}-{position.step}"
        folder = self._store.scratch(RESUME, key, attempt)
        (folder / TAG).mkdir(exist_ok=True)
        engine.save_checkpoint(str(folder), TAG, save_latest=False, exclude_frozen_parameters=frozen(engine))
        randomness.save(_generators(folder, dist.get_rank()))
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if _is_mine(path)]
        record = self._record(engine, position)
        sums = self._background.submit(self._store.put, RESUME, key, attempt, folder, names)
        self._upload = _Upload(key, attempt, record, folder, sums)

    def uploading(self) -> bool:
        """Whether this worker's part of the last point is still under way. For this worker alone."""
        return self._upload is not None and not self._upload.sums.done()

    @property
    def unsettled(self) -> bool:
        """Whether a point was saved that has not been published; the same on all workers."""
        return self._upload is not None

    def settle(self) -> bool:
        """Wait until the last point is durable on all workers, publish it and remove those that are too old.

        False for a point that could not be made durable: it is given up and noted, and the one before it still holds.
        """
        if self._upload is None:
            return True
        upload, self._upload = self._upload, None
        told = told_by_all(_outcome(upload.sums))
        failed = [outcome for outcome in told if isinstance(outcome, str)]
        if failed:
            self.notes.append(f"no resume point at step {upload.record['step']}: {failed[0]}")
        elif dist.get_rank() == 0:
            sums = {name: digest for outcome in told if isinstance(outcome, dict) for name, digest in outcome.items()}
            self._store.publish(RESUME, upload.key, upload.attempt, upload.record, sums)
            self._prune()
        if not self._store.local:
            shutil.rmtree(upload.folder, ignore_errors=True)
        dist.barrier()
        return not failed

    def clear(self) -> None:
        """Remove all points of the stage, and what is known of its memory: nobody needs that once it is published."""
        if self._upload is not None:
            _outcome(self._upload.sums)
        dist.barrier()
        if dist.get_rank() == 0:
            for key in self._store.keys(RESUME, f"{self._job.key}-"):
                self._store.delete(RESUME, key)
            memory.forget(self._job, self._store)

    def close(self) -> None:
        """Let go of the thread, also in the middle of a failure."""
        self._background.shutdown(wait=False, cancel_futures=True)

    def _record(self, engine: Any, position: Position) -> Record:
        return {
            "stage": self._job.key,
            "step": position.step,
            "tokens": position.tokens,
            "loss": position.loss,
            "workers": dist.get_world_size(),
            "zero": engine.zero_optimization_stage(),
            "precision": self._job.model.dtype,
            "device_seconds": self._job.device_seconds,
        }

    def _fits(self, record: Record) -> bool:
        """ZeRO 1 and 2 keep the same state; 0 and 3 each have a form of their own, into which no other is converted."""
        mine = self._job.train.deepspeed.zero
        fits = mine == record["zero"] or {mine, record["zero"]} == {1, 2}
        if not fits:
            self.notes.append(f"the resume point at step {record['step']} is of zero {record['zero']}, not {mine}: not used")
        return fits

    def _fetch(self, record: Record) -> str | None:
        """Bring a point to this machine and compare its sums, each worker a part; what is wrong, the same on all workers."""
        brought = told_by_all(self._bring(record) if first_of_machine() else None)
        if any(brought):
            return next(filter(None, brought))
        folder = self._store.fetch(RESUME, record["key"], compare=False)
        me, here = beside()
        mine = sorted(record["checksums"].items())[me::here]
        found = [damage for name, digest in mine if (damage := _damage(folder / name, digest))]
        return next((reason for told in told_by_all(found) for reason in told), None)

    def _bring(self, record: Record) -> str | None:
        try:
            self._store.fetch(RESUME, record["key"], compare=False)
        except (OSError, KeyError, RuntimeError) as error:
            return f"{type(error).__name__}: {error}"
        return None

    def _prune(self) -> None:
        """Keep the points written last; what was never published goes as well."""
        records = self._store.records(RESUME, f"{self._job.key}-")
        kept = [record["key"] for record in sorted(records, key=lambda record: -record["time"])[:KEPT]]
        for key in self._store.keys(RESUME, f"{self._job.key}-"):
            if key not in kept:
                self._store.delete(RESUME, key)


def newest_first(stage: str, store: Store) -> list[Record]:
    """The records of a stage's resume points."""
    return sorted(store.records(RESUME, f"{stage}-"), key=lambda record: -record["step"])


def frozen(engine: Any) -> bool:
    """Whether weights stand still, as under an adapter. They are left out: the attempt brings them along."""
    return not all(parameter.requires_grad for parameter in engine.module.parameters())


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


def _is_mine(path: Path) -> bool:
    """Whether this worker wrote a file. DeepSpeed names shards by their worker; the rest is written by the first."""
    shard = SHARD.search(path.name)
    return path.is_file() and (int(shard[1]) if shard else 0) == dist.get_rank()


def _outcome(sums: Future[dict[str, str]]) -> dict[str, str] | str:
    """The sums of what was made durable, or why it was not."""
    error = sums.exception()
    return f"{type(error).__name__}: {error}" if error else sums.result()


def _damage(path: Path, digest: str) -> str | None:
    if not path.is_file():
        return f"{path.name} is missing"
    with path.open("rb") as stream:  # not data.fingerprint, which trusts what it read once
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    return None if found == digest else f"{path.name} has another checksum"


def _generators(folder: Path, rank: int) -> Path:
    return folder / TAG / f"random_pp_rank_{rank}_.pt"
