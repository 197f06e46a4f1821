"""The training loop of one stage. Imports no Ray: it runs the same under Ray Train, torchrun or in a plain process."""

import math
import time
from typing import Any

import torch
import torch.distributed as dist

from data.store import Record, Store
from data.tokens import IGNORED
from trainers import base, engine
from trainers.batches import Batch, collate, labelled, layout
from trainers.config import TrainConfig
from trainers.examples import Examples
from trainers.job import KIND, Progress, Report, StageJob
from trainers.models import load, save

REPORT_EVERY_S = 1.0


class LossNotFinite(RuntimeError):
    """The loss became infinite or not a number."""


def train_stage(job: StageJob, report: Report | None = None) -> Record:
    """Train a stage and publish it; every worker calls this, each gets the record. `report` is for the first worker."""
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.train.seed)
    engine.join_workers(job.gpu)
    try:
        store = Store(job.store)
        examples = Examples(job, store)
        start = str(store.fetch(KIND, job.parent)) if job.parent else base.location(job.model, store)
        running = engine.start(load(start, job.model), job.train, job.model, dist.get_world_size())
        done = _run(running, job, examples, report if dist.get_rank() == 0 else None)
        return _publish(running, job, store, start, done)
    finally:
        engine.leave_workers()


def learning_rate(step: int, steps: int, train: TrainConfig) -> float:
    """The rate of a step (from 0): a linear rise, then the schedule, which ends just above 0."""
    rise = math.ceil(train.warmup * steps)
    if step < rise:
        return train.lr * (step + 1) / rise
    done = (step - rise) / max(1, steps - rise)
    fall = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}
    return train.lr * fall[train.schedule]


def _run(running: Any, job: StageJob, examples: Examples, report: Report | None) -> Record:
    steps, tokens, loss, told = len(examples.steps), 0, math.nan, 0.0
    running.train()
    for step in range(steps):
        rows = examples.of_step(step)
        rate = learning_rate(step, steps, job.train)
        for group in running.optimizer.param_groups:
            group["lr"] = rate
        loss = _step(running, rows, job.train)
        tokens += sum(row["length"] for row in rows)
        if not math.isfinite(loss):
            raise LossNotFinite(f"loss {loss} at step {step + 1} of {steps}, learning rate {rate:.3g}; lower train.lr")
        if report and (time.monotonic() - told > REPORT_EVERY_S or step + 1 == steps):
            report(Progress(step + 1, steps, loss, rate, tokens))
            told = time.monotonic()
    return {"steps": steps, "tokens": tokens, "examples": len(examples), "loss": loss}


def _step(running: Any, rows: list[dict[str, Any]], train: TrainConfig) -> float:
    """One optimiser step; the mean loss over its labelled tokens, on all workers."""
    me, workers = dist.get_rank(), dist.get_world_size()
    passes = layout([row["length"] for row in rows], train.max_length, train.rows, workers, train.packing)
    # DeepSpeed averages over workers; the loss is to be a mean over all labelled tokens of the step.
    scale = workers / max(1, labelled(rows))
    total = torch.zeros((), device=running.device)
    for number, shares in enumerate(passes):
        running.set_gradient_accumulation_boundary(number + 1 == len(passes))
        loss = _summed_loss(running, collate(rows, shares[me], padding=0)) * scale
        running.backward(loss)
        running.step()
        total += loss.detach().float()
    dist.all_reduce(total)
    return float(total) / workers


def _summed_loss(running: Any, batch: Batch) -> torch.Tensor:
    """Sum of the token losses. No attention mask and no cache: only so do packed examples stay apart (transformers 5)."""
    device = running.device
    logits = running(input_ids=batch.input_ids.to(device), position_ids=batch.position_ids.to(device), use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(),
        batch.labels[:, 1:].flatten().to(device),
        ignore_index=IGNORED,
        reduction="sum",
    )


def _publish(running: Any, job: StageJob, store: Store, start: str, done: Record) -> Record:
    weights = engine.full_weights(running)
    shared: list[Record | None] = [None]
    if dist.get_rank() == 0:
        mixture = {share.name: share.fraction for share in job.shares}
        record = done | {"base": job.base, "parent": job.parent, "mixture": mixture}
        record |= {"pool": job.pool, "max_length": job.train.max_length}
        with store.writing(KIND, job.key, record) as folder:
            save(running.module, weights, start, job.model, folder)
            record["device_seconds"] = job.devices * (time.time() - job.launched)
        shared = [record]
    dist.broadcast_object_list(shared, src=0)
    assert shared[0] is not None
    return shared[0]
