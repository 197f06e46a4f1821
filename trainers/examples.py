"""The examples of a stage in the order in which it sees them, read from the prepared sources of its mixture."""

from typing import Any

import numpy as np

from data import mixture, prepare
from data.store import Store
from trainers.job import StageJob


class Examples:
    """Rows of several prepared sources under one numbering; the rows themselves stay memory-mapped."""

    def __init__(self, job: StageJob, store: Store) -> None:
        self._sources = [prepare.Prepared(share.prepared, store) for share in job.shares]
        rows = [
            mixture.take(source.table, share.fraction, job.train.seed, share.fingerprint, share.draw)
            for source, share in zip(self._sources, job.shares, strict=True)
        ]
        self._rows = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        self._source_of = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
        if not len(self._rows):
            raise ValueError(f"stage {job.key}: its mixture holds no example; raise a fraction or give more rows")
        self.steps = mixture.steps(mixture.epochs(len(self._rows), job.train.epochs, job.train.seed), job.train.batch_size)

    def __len__(self) -> int:
        return len(self._rows)

    def of_step(self, step: int) -> list[dict[str, Any]]:
        """The rows of an optimiser step (from 0), with `input_ids`, `labels` and `length`."""
        wanted = self.steps[step]
        found: list[dict[str, Any]] = [{} for _ in wanted]
        for number, source in enumerate(self._sources):
            here = np.flatnonzero(self._source_of[wanted] == number)
            if len(here):
                for place, row in zip(here, source.rows(self._rows[wanted[here]]), strict=True):
                    found[place] = row
        return found
