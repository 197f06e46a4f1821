"""Where a stage starts, and what it leaves: full weights or an adapter, from a base model or from a parent of either kind."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from data.checkpoints import Checkpoint, in_folder, in_store
from data.store import Record, Store
from trainers import adapters, base, models
from trainers.job import KIND, StageJob


@dataclass(frozen=True)
class Start:
    """The checkpoint that a stage starts from, and how its files would name the base of a new adapter."""

    checkpoint: Checkpoint
    name: Mapping[str, str]


def find(job: StageJob, store: Store) -> Start:
    """The start of a stage. A parent's adapter that is to be merged is merged now, unless the store holds it already.

    Every worker must call this; the first one merges.
    """
    if job.merged is not None:
        if dist.get_rank() == 0 and store.record(KIND, job.merged) is None:
            merge(job, store)
        dist.barrier()
    key = job.merged or job.parent
    if key is not None:
        return Start(in_store(store, KIND, key), {"kind": KIND, "key": key})
    folder = base.location(job.model, store)
    here = in_folder(Path(folder)) if Path(folder).is_dir() else Checkpoint(folder, folder)
    return Start(here, base.named(job.model))


def merge(job: StageJob, store: Store) -> None:
    """Publish the parent of a stage with its adapter merged, as a stage of no steps under the key `job.merged`."""
    assert job.parent is not None and job.merged is not None
    parent = in_store(store, KIND, job.parent)
    model = adapters.merged(parent, job.model)
    record: Record = {"base": job.base, "parent": job.parent, "merged": True, "mixture": {}}
    record |= {"steps": 0, "tokens": 0, "examples": 0, "device_seconds": 0.0}  # its time is charged to the stage
    with store.writing(KIND, job.merged, record) as folder:
        models.save(model, model.state_dict(), parent.folder, job.model, folder)


def open_model(job: StageJob, start: Start) -> Any:
    """The model to train, with its adapter where the stage trains one."""
    train, lora = job.train, job.train.lora
    if lora and lora.quantize:
        adapters.refuse_unquantisable()
    model = models.load(start.checkpoint.model, job.model, quantize=bool(lora and lora.quantize))
    if train.gradient_checkpointing:
        models.keep_fewer_activations(model, reentrant=train.deepspeed.zero == 3)
    if lora is None:
        return model
    if start.checkpoint.adapter:
        return adapters.train_on(model, Path(start.checkpoint.adapter), train, job.model)
    return adapters.put_on(model, train, job.model)


def save(model: Any, weights: dict[str, torch.Tensor], start: Start, job: StageJob, folder: Path) -> None:
    """Write what a stage has trained: a Hugging Face folder or an adapter folder."""
    if job.train.lora is None:
        models.save(model, weights, start.checkpoint.folder, job.model, folder)
        return
    inherited = start.checkpoint.adapter
    named = adapters.read_base(Path(inherited)) if inherited else start.name
    adapters.save(model, weights, start.checkpoint, named, job.model, folder)
