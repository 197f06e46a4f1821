"""Stages over the toy world for tests that train: without Ray, in this process or on two workers under torchrun."""

import os
import pickle
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from conftest import ROOT
from data import prepare, sources
from data.config import SourceConfig
from data.store import Store
from trainers import base
from trainers.job import KIND, Share, StageJob
from trainers.loop import train_stage


def stage_over(root, model, train):
    """A stage over 24 word problems in a store at `root`."""
    store, name = Store(root), base.fingerprint(model)
    source = SourceConfig(path="toy:math", format="messages", role="general", limit=24)
    prepare.prepare(source, name, lambda: base.open_tokenizer(model, store), 128, store)
    found = sources.fingerprint(source)
    share = Share("math", prepare.prepared_key(found, name, 128), found, 1.0)
    return StageJob("adapter", None, name, (share,), train, model, root, 1, False, 1, time.time())


def trained(job, key, *, parent=None, merged=None, **train):
    """Train the job under another key and with other fields of train; the folder that was published."""
    train_stage(replace(job, key=key, parent=parent, merged=merged, train=job.train.model_copy(update=train)))
    return Store(job.store).fetch(KIND, key)


def weights(folder):
    """All tensors of a checkpoint, by name."""
    found = {}
    for file in Path(folder).glob("*.safetensors"):
        found |= load_file(file)
    return found


def apart(one, other):
    """The largest difference between two checkpoints' tensors."""
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


@contextmanager
def alone():
    """A process group of this process, as a stage has one."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


# A rendezvous of its own for each job: a second group of the same processes finds the addresses of the first in torchrun's.
WORKER = """import os, pickle, sys
import torch.distributed as dist
from trainers.loop import train_stage
for number, job in enumerate(pickle.load(open(sys.argv[1], "rb"))):
    place = {"rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}.{number}", **place)
    train_stage(job)
"""


def on_two_workers(jobs, tmp_path):
    """Train jobs one after the other on two workers."""
    (tmp_path / "jobs").write_bytes(pickle.dumps(jobs))
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone"]
    ended = subprocess.run(
        [*command, str(tmp_path / "worker.py"), str(tmp_path / "jobs")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
