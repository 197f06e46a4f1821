"""The training loop of one stage. Imports no Ray: it runs the same under Ray Train, torchrun or in a plain process."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist

from data.store import Record, Store
from trainers import bad_steps, engine, memory, resume, start
from trainers.batches import labelled, layout
from trainers.config import TrainConfig
from trainers.examples import Examples
from trainers.failures import StageStopped
from trainers.job import KIND, Notice, Report, StageJob
from trainers.loss import refuse_leaks, seed_dropout, summed_loss
from trainers.metrics import Meter
from trainers.points import ResumePoints
from trainers.resume import Position
from trainers.schedule import learning_rate
from trainers.watch import Watch
from trainers.workers import from_first


def train_stage(job: StageJob, report: Report | None = None, notice: Notice | None = None) -> Record:
    """Train a stage, from its last resume point on if it has one, and publish it; its record.

    Every worker calls this. `report` is for the first worker. Raises LossNotFinite, OutOfMemory or NothingFits, and
    StageStopped after `report` has answered True.
    """
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.train.seed)
    engine.join_workers(job.gpu, job.train.collective_timeout)
    store = Store(job.store)
    points = ResumePoints(job, store)
    try:
        return _trained(job, store, points, report if dist.get_rank() == 0 else None, notice)
    finally:
        points.close()
        engine.leave_workers()


def _trained(job: StageJob, store: Store, points: ResumePoints, report: Report | None, notice: Notice | None) -> Record:
    job = _with_fewer_rows(job, store, points)
    examples = Examples(job, store)
    last = math.ceil(job.until * len(examples.steps))
    begin = start.find(job, store)
    found = resume.find(job, store, last, points.notes)
    model = start.open_model(job, begin)
    running = engine.start(model, job.train, job.model, dist.get_world_size(), universal=found is not None and found.convert)
    if job.train.packing:
        refuse_leaks(running)
    if found:
        resume.load(running, found, store)
    stage = Stage(job, store, examples, running, points, Watch(job, report, notice))
    end = stage.run(found.position if found else Position(), last)
    done = {"steps": end.step, "tokens": end.tokens, "examples": len(examples), "loss": end.loss}
    return _publish(running, job, store, begin, done, points)


def _with_fewer_rows(job: StageJob, store: Store, points: ResumePoints) -> StageJob:
    """The job with as many rows at a time as an earlier attempt found out."""
    known = from_first(lambda: memory.allowed(job, store))
    if known is None or known["rows"] >= job.train.rows:
        return job
    points.notes.append(f"out of memory at step {known['step']} with {known['tried']} rows: now {known['rows']} at a time")
    return replace(job, train=job.train.model_copy(update={"rows": known["rows"]}))


@dataclass(frozen=True)
class Stage:
    """A stage in training, as one worker holds it."""

    job: StageJob
    store: Store
    examples: Examples
    engine: Any
    points: ResumePoints
    watch: Watch

    def run(self, position: Position, last: int) -> Position:
        """Train up to step `last`; below the stage's end, that is where another attempt goes on from."""
        steps = len(self.examples.steps)
        allowed = min(self.job.train.bad_steps, last)  # one step has to be good
        meter = Meter(self.engine, self.job, steps, position) if dist.get_rank() == 0 else None
        self.engine.train()
        try:
            while position.step < last:
                position, rate, norm = self._advance(position, steps, allowed)
                self._keep(position, last)
                if meter and math.isfinite(position.loss):
                    self.watch.tell(meter.measure(position, rate, norm), self.points.notes, position.step == last)
        finally:
            if meter:
                meter.close()
        return position

    def _advance(self, before: Position, steps: int, allowed: int) -> tuple[Position, float, float | None]:
        """One optimiser step: where the stage stands then, the learning rate and the norm of the gradient."""
        rows, rate = self.examples.of_step(before.step), learning_rate(before.step, steps, self.job.train)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        seed_dropout(self.job.train.seed, before.step)
        loss = self.watch.agree(self._taken(rows, before.step + 1), before.step + 1, self.points.uploading())
        norm = self.engine.get_global_grad_norm()  # ZeRO 0 has none in fp32
        norm = None if norm is None else float(norm)
        where = f"at step {before.step + 1} of {steps}, learning rate {rate:.3g}"
        bad = bad_steps.in_a_row(self.engine, loss, norm, before.bad, allowed, where)
        if bad:
            self.points.notes.append(f"left out a step: loss {loss} {where}, norm of the gradient {norm}")
            loss, norm = before.loss, None
        return Position(before.step + 1, before.tokens + sum(row["length"] for row in rows), loss, bad), rate, norm

    def _taken(self, rows: list[dict[str, Any]], step: int) -> torch.Tensor:
        """This worker's part of the loss of an optimiser step, which is taken. Raises OutOfMemory or NothingFits."""
        try:
            return _step(self.engine, rows, self.job.train)
        except (RuntimeError, MemoryError) as error:
            if memory.is_out_of_memory(error):
                raise memory.halve(self.job, self.store, self.job.train.rows, step) from error
            raise

    def _keep(self, position: Position, last: int) -> None:
        """Publish a point that has become durable, write one where it is due, and stop where that was asked for."""
        if self.points.unsettled and self.watch.durable:
            self.points.settle()
        stop = self.watch.stop and position.step < last
        if (self.watch.save and position.step < last) or stop or (position.step == last and self.job.until < 1):
            self.points.save(self.engine, position)
        if stop:
            if not self.points.settle():
                raise OSError(self.points.notes[-1])
            raise StageStopped(position.step)


def _step(running: Any, rows: list[dict[str, Any]], train: TrainConfig) -> torch.Tensor:
    """One optimiser step; this worker's part of the mean loss over its labelled tokens."""
    me, workers = dist.get_rank(), dist.get_world_size()
    passes = layout([row["length"] for row in rows], train.max_length, train.rows, workers, train.packing)
    # DeepSpeed averages over workers; the loss is to be a mean over all labelled tokens of the step.
    scale = workers / max(1, labelled(rows))
    total = torch.zeros((), device=running.device)
    for number, shares in enumerate(passes):
        running.set_gradient_accumulation_boundary(number + 1 == len(passes))
        loss = summed_loss(running, rows, shares[me]) * scale
        running.backward(loss)
        running.step()
        total += loss.detach().float()
    return total / workers


def _publish(running: Any, job: StageJob, store: Store, begin: start.Start, done: Record, points: ResumePoints) -> Record:
    """Write the weights as a stage or, before its end, as a rung."""
    points.settle()
    weights = engine.full_weights(running)

    def written() -> Record:
        mixture = {share.name: share.fraction for share in job.shares}
        record = done | {"base": job.base, "parent": job.parent, "mixture": mixture, "notes": points.notes}
        record |= {"pool": job.pool, "max_length": job.train.max_length}
        with store.writing(job.kind, job.end, record) as folder:
            start.save(running.module, weights, begin, job, folder)
            record["device_seconds"] = job.device_seconds
        return record

    record = from_first(written)
    if job.kind == KIND:
        points.clear()
    return record
