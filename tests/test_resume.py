"""A stage that was cut off: it goes on from its last resume point, and ends with the weights of one that was not."""

import contextlib
import dataclasses
import os
import pickle
import shutil
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from conftest import ROOT
from data import prepare, sources
from data.config import SourceConfig
from data.prepare import prepared_key
from data.store import Store
from trainers import base, loop, memory, resume, watch
from trainers.config import DeepSpeedConfig, ModelConfig, TrainConfig
from trainers.failures import NothingFits, StageStopped
from trainers.job import KIND, RESUME, RUNGS, Share, StageJob
from trainers.loop import train_stage

MODEL = ModelConfig(path="toy")
STEPS = 10


class Cut(Exception):
    """The test cuts a stage off."""


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Jobs of 10 steps over 40 word problems, each in a store of its own unless told otherwise."""
    root = str(tmp_path_factory.mktemp("store"))
    store, name = Store(root), base.fingerprint(MODEL)
    source = SourceConfig(path="toy:math", format="messages", role="general", limit=40)
    prepare.prepare(source, name, lambda: base.open_tokenizer(MODEL, store), 128, store)
    found = sources.fingerprint(source)
    share = Share("math", prepared_key(found, name, 128), found, 1.0)

    def job(key: str, **train) -> StageJob:
        zero = train.pop("zero", 2)
        values = {"epochs": 2, "lr": 1e-3, "batch_size": 8, "max_length": 128, "rows": 4} | train
        config = TrainConfig(deepspeed=DeepSpeedConfig(zero=zero), checkpoint_minutes=None, **values)
        return StageJob(key, None, name, (share,), config, MODEL, root, 1, False, 1, time.time())

    return job


@pytest.fixture(autouse=True, scope="module")
def every_step_is_told():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "REPORT_EVERY_S", 0.0)
        yield


def weights(job, kind=KIND, key=None):
    return load_file(Store(job.store).fetch(kind, key or job.key) / "model.safetensors")


def apart(one, other):
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def points(job):
    return [record["step"] for record in resume.newest_first(job.key, Store(job.store))]


def cut_at(step):
    def report(progress):
        if progress.step == step:
            raise Cut

    return report


def cut(job, step):
    with pytest.raises(Cut):
        train_stage(job, cut_at(step))


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


@pytest.mark.parametrize("zero", [2, *(pytest.param(z, marks=pytest.mark.slow) for z in (0, 1, 3))])
def test_a_stage_cut_off_at_any_step_ends_with_the_same_weights(make, whole, zero):
    continued = set()
    for step in range(1, STEPS + 1):
        job = make(f"cut-{zero}-{step}", zero=zero, checkpoint_steps=2)
        cut(job, step)
        record = train_stage(job)
        assert apart(weights(job), whole(zero)[1]) == 0, step
        assert [record[name] for name in ("loss", "tokens", "steps")] == [
            whole(zero)[0][name] for name in ("loss", "tokens", "steps")
        ]
        continued |= set(record["notes"])
    assert continued <= {f"continued from step {step}" for step in (2, 4, 6, 8)}
    assert "continued from step 4" in continued


WORKER = """
import os, pickle, signal, sys
import torch
from trainers import loop, watch
watch.REPORT_EVERY_S = 0.0
jobs, harm, at, rank = pickle.load(open(sys.argv[1], "rb"))
step, taken = loop._step, []

def harmed(engine, rows, train):
    taken.append(train.rows)
    if len(taken) == at and int(os.environ["RANK"]) == rank and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        if harm == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if harm == "hang":
            signal.pause()
        raise torch.OutOfMemoryError("CUDA out of memory")
    return step(engine, rows, train)

loop._step, told = harmed, {}
for job in jobs:
    curve = {}
    told[job.key] = loop.train_stage(job, lambda progress: curve.update({progress.step: progress.loss})), curve
if int(os.environ["RANK"]) == 0:
    pickle.dump((told, taken), open(sys.argv[1] + ".out", "wb"))
"""


def run_two(folder, *jobs, harm="", at=0, rank=1, restarts=0):
    """Run jobs one after the other on two workers under torchrun; one worker comes to harm in its `at`-th step.

    Returns how torchrun ended, by job record and loss at every step, and the rows that each step of the first worker took.
    """
    (folder / "worker.py").write_text(WORKER)
    (folder / "jobs").write_bytes(pickle.dumps((jobs, harm, at, rank)))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    ended = subprocess.run(
        ["timeout", "200", *torchrun, f"--max-restarts={restarts}", str(folder / "worker.py"), str(folder / "jobs")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    out = folder / "jobs.out"
    told, taken = pickle.loads(out.read_bytes()) if out.exists() else ({}, [])
    out.unlink(missing_ok=True)
    return ended, told, taken


def copy_points(job, key):
    """The resume points of a stage for another one."""
    store = Store(job.store)
    for record in resume.newest_first(job.key, store):
        attempt, target = store.attempt(), f"{key}-{record['step']}"
        folder = store.scratch(RESUME, target, attempt)
        shutil.copytree(store.fetch(RESUME, record["key"]), folder, dirs_exist_ok=True)
        store.publish(RESUME, target, attempt, record | {"stage": key}, store.put(RESUME, target, attempt, folder))


@pytest.fixture(scope="module", params=[2, *(pytest.param(zero, marks=pytest.mark.slow) for zero in (0, 1, 3))])
def moved(make, request, tmp_path_factory):
    """Stages that were cut off and went on with as many workers, or with others: ZeRO stage, jobs, loss at every step."""
    zero, folder = request.param, tmp_path_factory.mktemp("moved")
    killed = make(f"killed-{zero}", zero=zero, checkpoint_steps=2)
    ended, *_ = run_two(folder, killed, harm="kill", at=7)
    assert ended.returncode and points(killed), ended.stderr[-3000:]
    from_two = make(f"from-two-{zero}", zero=zero)
    copy_points(killed, from_two.key)
    from_one = make(f"from-one-{zero}", zero=zero)
    assert stopped(from_one, 4) == 5
    whole_two = make(f"whole-two-{zero}", zero=zero)
    ended, told, _ = run_two(folder, whole_two, killed, from_one)
    assert ended.returncode == 0, ended.stderr[-3000:]
    curves = {key: curve for key, (_, curve) in told.items()} | {from_two.key: {}, "one": {}}
    train_stage(from_two, lambda progress: curves[from_two.key].update({progress.step: progress.loss}))
    train_stage(make(f"one-{zero}", zero=zero), lambda progress: curves["one"].update({progress.step: progress.loss}))
    return whole_two, killed, from_two, from_one, curves


def test_two_workers_go_on_exactly_after_one_was_killed(moved):
    whole_two, killed, *_, curves = moved
    assert 2 < min(curves[killed.key]) <= 7
    assert apart(weights(killed), weights(whole_two)) == 0
    assert not Store(killed.store).keys(RESUME, killed.key)


def test_one_worker_goes_on_from_two_and_two_from_one(moved):
    *_, from_two, from_one, curves = moved
    assert 2 < min(curves[from_two.key]) <= 7 and min(curves[from_one.key]) == 6
    for job in (from_two, from_one):
        assert max(curves[job.key]) == STEPS
        for step, loss in curves[job.key].items():
            assert loss == pytest.approx(curves["one"][step], abs=1e-3)


def test_a_worker_that_does_not_answer_ends_the_attempt(make, tmp_path):
    job = make("hangs", checkpoint_steps=2, collective_timeout=3.0)
    ended, *_ = run_two(tmp_path, job, harm="hang", at=5)
    assert ended.returncode == 1
    assert "imed out" in ended.stderr
    assert 2 in points(job)


@pytest.mark.slow
def test_out_of_memory_on_one_worker_halves_the_rows_of_all(make, whole, tmp_path):
    job = make("memory-two", rows=4, checkpoint_steps=2)
    ended, told, taken = run_two(tmp_path, job, harm="memory", at=5, restarts=1)
    assert ended.returncode == 0, ended.stderr[-3000:]
    first, second = told[job.key][0]["notes"]
    assert first == "out of memory at step 5 with 4 rows: now 2 at a time" and second.startswith("continued from step")
    assert set(taken) == {2}
    assert apart(weights(job), whole()[1]) < 1e-4


def test_the_last_two_points_are_kept_and_none_after_the_end(make, monkeypatch):
    job, seen = make("kept", checkpoint_steps=1), []
    torn = Store(job.store).scratch(RESUME, "kept-99", "torn")
    (torn / "half").write_text("written by an attempt that was killed")
    train_stage(job, lambda progress: seen.append(points(job)))
    assert max(map(len, seen)) == 2
    assert all(len(found) < 2 or found[0] == found[1] + 1 for found in seen)
    assert not Store(job.store).keys(RESUME, "kept-")


def stopped(job, step):
    """Have a stage stop after a step; it says in which point it stands."""
    with pytest.raises(StageStopped) as stop:
        train_stage(job, lambda progress: progress.step >= step)
    return stop.value.step


def test_a_stage_stops_when_asked_and_goes_on_exactly(make, whole):
    job = make("stopped")
    assert stopped(job, 4) == 5
    assert points(job) == [5]
    assert Store(job.store).record(KIND, job.key) is None
    assert train_stage(job)["notes"] == ["continued from step 5"]
    assert apart(weights(job), whole()[1]) == 0


@pytest.mark.parametrize("harm", ["flipped", "missing"])
def test_a_damaged_point_is_set_aside_for_the_one_before(make, whole, harm):
    job = make(f"damaged-{harm}")
    stopped(job, 3), stopped(job, 6)
    assert points(job) == [7, 4]
    file = max(Store(job.store).fetch(RESUME, f"{job.key}-7").rglob("*optim_states.pt"), key=lambda p: p.stat().st_size)
    if harm == "missing":
        file.unlink()
    else:
        stat = file.stat()
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    damaged, continued = train_stage(job)["notes"]
    assert "step 7 was damaged" in damaged and file.name in damaged
    assert continued == "continued from step 4"
    assert apart(weights(job), whole()[1]) == 0


def test_a_point_that_cannot_be_kept_is_noted_and_training_goes_on(make, whole, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    put = Store.put
    monkeypatch.setattr(Store, "put", lambda self, kind, *more: full() if kind == RESUME else put(self, kind, *more))
    job = make("full", checkpoint_steps=4)
    assert "no resume point at step 4: OSError: No space left on device" in train_stage(job)["notes"]
    assert apart(weights(job), whole()[1]) == 0


def test_a_point_is_written_when_the_devices_will_be_taken_away(make, monkeypatch):
    monkeypatch.setattr(watch, "LOOK_EVERY_S", 0.0)
    job, seen = make("notice"), []
    train_stage(job, lambda progress: seen.append(points(job)), lambda: len(seen) >= 3)
    assert {tuple(found) for found in seen} - {()} and max(map(len, seen)) == 1  # one point for one notice


def test_a_point_is_written_every_so_many_minutes(make, monkeypatch):
    job = make("minutes")
    job = dataclasses.replace(job, train=job.train.model_copy(update={"checkpoint_minutes": 1e-9}))
    seen = []
    train_stage(job, lambda progress: seen.append(points(job)))
    assert max(map(len, seen)) == 2


def test_rungs_end_with_the_weights_of_the_uninterrupted_stage(make, whole):
    job = make("rungs")
    store = Store(job.store)
    for until, step in ((0.25, 3), (0.5, 5)):
        rung = train_stage(dataclasses.replace(job, until=until))
        assert rung["steps"] == step
        assert store.record(RUNGS, f"rungs-{step}")["steps"] == step
        assert points(job)[0] == step
        assert store.record(KIND, job.key) is None
    straight = make("straight")
    train_stage(dataclasses.replace(straight, until=0.5))
    assert apart(weights(straight, RUNGS, "straight-5"), weights(job, RUNGS, "rungs-5")) == 0
    record = train_stage(job)
    assert apart(weights(job), whole()[1]) == 0
    assert record["tokens"] == whole()[0]["tokens"]


def test_a_rung_that_was_cut_off_before_its_weights_were_written_is_written(make, monkeypatch):
    job = dataclasses.replace(make("half-rung"), until=0.5)
    monkeypatch.setattr(loop, "save", lambda *_: (_ for _ in ()).throw(Cut()))
    with pytest.raises(Cut):
        train_stage(job)
    assert points(job) == [5]
    monkeypatch.undo()
    assert train_stage(job)["loss"] > 0
    assert Store(job.store).record(RUNGS, "half-rung-5")


def test_the_random_generators_go_on_where_they_were(make, monkeypatch):
    import random

    import numpy as np

    def draw(job, at=None):
        drawn = {}

        def report(progress):
            drawn[progress.step] = (torch.rand(1).item(), np.random.rand(), random.random())
            return progress.step == at

        with contextlib.suppress(StageStopped):
            train_stage(job, report)
        return drawn

    random.seed(0), np.random.seed(0)
    undisturbed = draw(make("random"))
    random.seed(0), np.random.seed(0)
    job = make("random-cut")
    draw(job, at=4)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert draw(job)[7] == undisturbed[6]  # who stops does not report its last step, and draws one less


@pytest.fixture
def memory_for(monkeypatch):
    """A device on which a forward pass of more than some rows runs out of memory."""
    from transformers import LlamaForCausalLM

    def limit(rows):
        forward = LlamaForCausalLM.forward

        def limited(self, input_ids, **more):
            if len(input_ids) > rows:
                raise torch.OutOfMemoryError(f"CUDA out of memory: {len(input_ids)} rows")
            return forward(self, input_ids=input_ids, **more)

        monkeypatch.setattr(LlamaForCausalLM, "forward", limited)

    return limit


def test_out_of_memory_goes_on_from_the_last_point_with_half_the_rows(make, whole, memory_for):
    from trainers.config import ResourcesConfig
    from trainers.launch import launch

    job, told = make("memory", packing=False, rows=8, checkpoint_steps=2), []
    stopped(job, 3)
    memory_for(2)
    record = launch(job, ResourcesConfig(workers=0), lambda progress: told.extend(progress.notes))
    assert record["notes"] == told == ["out of memory at step 5 with 4 rows: now 2 at a time", "continued from step 4"]
    assert apart(weights(job), whole()[1]) < 1e-4
    assert not Store(job.store).keys(memory.KIND, job.key)


def test_out_of_memory_with_one_row_fails_with_what_to_do(make, memory_for):
    from trainers.config import ResourcesConfig
    from trainers.launch import launch

    memory_for(0)
    with pytest.raises(NothingFits, match=r"out of memory at step 1 with 1 row of 128 tokens; lower train\.max_length"):
        launch(make("nothing-fits"), ResourcesConfig(workers=0), lambda progress: None)
