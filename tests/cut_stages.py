"""Small stages to be cut off, stopped and gone on with; a module that uses them imports what it needs, fixtures too."""

import time

import pytest
from safetensors.torch import load_file

from data import prepare, sources
from data.config import SourceConfig
from data.prepare import prepared_key
from data.store import Store
from trainers import base, resume, watch
from trainers.config import DeepSpeedConfig, ModelConfig, TrainConfig
from trainers.failures import StageStopped
from trainers.job import KIND, Share, StageJob
from trainers.loop import train_stage

MODEL = ModelConfig(path="toy")
STEPS = 10


def maker(root: str, limit: int = 40):
    """A function that makes jobs over word problems, of 10 steps where the limit is 40, by key and fields of `train`."""
    store, name = Store(root), base.fingerprint(MODEL)
    source = SourceConfig(path="toy:math", format="messages", role="general", limit=limit)
    prepare.prepare(source, name, lambda: base.open_tokenizer(MODEL, store), 128, store)
    found = sources.fingerprint(source)
    share = Share("math", prepared_key(found, name, 128), found, 1.0)

    def job(key: str, zero: int = 2, **train) -> StageJob:
        values = {"epochs": 2, "lr": 1e-3, "batch_size": 8, "max_length": 128, "rows": 4, "checkpoint_minutes": None} | train
        config = TrainConfig(deepspeed=DeepSpeedConfig(zero=zero), **values)
        return StageJob(key, None, name, (share,), config, MODEL, root, 1, False, 1, time.time())

    return job


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    return maker(str(tmp_path_factory.mktemp("store")))


@pytest.fixture(autouse=True, scope="module")
def every_step_is_told():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "REPORT_EVERY_S", 0.0)
        yield


@pytest.fixture(scope="module")
def whole(make):
    """Record and weights of a stage that nobody disturbed, by ZeRO stage."""
    done = {}

    def of(zero=2):
        if zero not in done:
            job = make(f"whole-{zero}", zero=zero)
            done[zero] = train_stage(job), weights(job)
        return done[zero]

    return of


def weights(job, kind=KIND, key=None):
    return load_file(Store(job.store).fetch(kind, key or job.key) / "model.safetensors")


def apart(one, other):
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def points(job):
    return [record["step"] for record in resume.newest_first(job.key, Store(job.store))]


def stopped(job, step):
    """Have a stage stop after a step; it says in which point it stands."""
    with pytest.raises(StageStopped) as stop:
        train_stage(job, lambda progress: progress.step >= step)
    return stop.value.step
