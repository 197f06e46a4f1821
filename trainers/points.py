"""The resume points that a stage leaves on its way; how an attempt goes on from one is told in `trainers.resume`.

A point is written to local files while the workers wait and made durable behind their backs; its marker is written when
every worker's files are.

All methods but `uploading` are for all workers at once. A worker that fails in one fails the attempt.
"""

import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from data.store import Record, Store
from trainers import memory, randomness
from trainers.job import RESUME, StageJob
from trainers.resume import TAG, Position, frozen, generators
from trainers.workers import from_first, told_by_all

KEPT = 2
SHARD = re.compile(r"pp_rank_(\d+)_")


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
        """What happened to the stage, for a person."""

    def save(self, engine: Any, position: Position) -> None:
        """Take a snapshot and begin to make it durable. An earlier one is waited for."""
        self.settle()
        attempt = from_first(self._store.attempt)
        key = f"{self._job.key}-{position.step}"
        folder = self._store.scratch(RESUME, key, attempt)
        (folder / TAG).mkdir(exist_ok=True)
        engine.save_checkpoint(str(folder), TAG, save_latest=False, exclude_frozen_parameters=frozen(engine))
        randomness.save(generators(folder, dist.get_rank()))
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
            **asdict(position),
            "workers": dist.get_world_size(),
            "zero": engine.zero_optimization_stage(),
            "precision": self._job.model.dtype,
            "device_seconds": self._job.device_seconds,
        }

    def _prune(self) -> None:
        """Keep the points written last; what was never published goes as well."""
        records = self._store.records(RESUME, f"{self._job.key}-")
        kept = [record["key"] for record in sorted(records, key=lambda record: -record["time"])[:KEPT]]
        for key in self._store.keys(RESUME, f"{self._job.key}-"):
            if key not in kept:
                self._store.delete(RESUME, key)


def _is_mine(path: Path) -> bool:
    """Whether this worker wrote a file. DeepSpeed names shards by their worker; the rest is written by the first."""
    shard = SHARD.search(path.name)
    return path.is_file() and (int(shard[1]) if shard else 0) == dist.get_rank()


def _outcome(sums: Future[dict[str, str]]) -> dict[str, str] | str:
    """The sums of what was made durable, or why it was not."""
    error = sums.exception()
    return f"{type(error).__name__}: {error}" if error else sums.result()
