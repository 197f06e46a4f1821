"""What the workers of a stage agree on after each step: the loss, and whether to write a resume point or to stop.

One exchange a step carries all of it, so that no worker ever takes another branch than its peers.
"""

import time
from collections.abc import Sequence

import torch
import torch.distributed as dist

from trainers.job import Notice, Progress, Report, StageJob

REPORT_EVERY_S = 1.0
LOOK_EVERY_S = 5.0


class Watch:
    """One worker's wishes, and what all have agreed on: `save`, `stop` and `durable` hold for the last step."""

    def __init__(self, job: StageJob, report: Report | None, notice: Notice | None) -> None:
        self._job = job
        self._report = report
        self._notice = notice
        self._first = dist.get_rank() == 0
        self._told = 0.0
        self._notes = 0
        self._saved = self._looked = time.monotonic()
        self._asked_to_stop = self._leaving = self._was_told_to_leave = False
        self.save = self.stop = self.durable = False

    def agree(self, loss: torch.Tensor, step: int, uploading: bool) -> float:
        """The sum of the workers' parts of a step's loss (steps count from 1). `uploading`: not all is durable here."""
        minutes, now = self._job.train.checkpoint_minutes, time.monotonic()
        late = self._first and minutes is not None and now - self._saved > 60 * minutes
        due = self._job.train.checkpoint_steps is not None and step % self._job.train.checkpoint_steps == 0
        look = self._first and now - self._looked > LOOK_EVERY_S
        wishes = [late or due or self._leaving, self._asked_to_stop, look, uploading]
        told = torch.cat([loss.reshape(1), torch.tensor(wishes, dtype=loss.dtype, device=loss.device)])
        dist.all_reduce(told)
        total, save, stop, look, uploading = told.tolist()
        self.save, self.stop, self.durable = save > 0, stop > 0, not uploading
        if self.save:
            self._saved, self._leaving = now, False
        if look:
            self._look(now)
        return float(total)

    def tell(self, progress: Progress, notes: Sequence[str], last: bool) -> None:
        """Report now and then, at once when there is a note; an answer of True is a wish to stop."""
        due = time.monotonic() - self._told > REPORT_EVERY_S
        if self._report and (due or last or len(notes) > self._notes):
            fresh = progress.with_notes(notes[self._notes :])
            self._told, self._notes = time.monotonic(), len(notes)
            self._asked_to_stop |= bool(self._report(fresh))

    def _look(self, now: float) -> None:
        """Ask once in a while, on all workers at once, whether the devices stay; one point is written when they do not."""
        self._looked = now
        if self._notice and self._notice():
            self._leaving, self._was_told_to_leave = not self._was_told_to_leave, True
