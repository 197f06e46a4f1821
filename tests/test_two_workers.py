"""Two workers under torchrun: one is killed, hangs or runs out of memory, and the stage goes on, or with one worker."""

import os
import pickle
import shutil
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from conftest import ROOT
from cut_stages import STEPS, apart, every_step_is_told, make, maker, points, stopped, weights, whole
from data.store import Store
from trainers import resume
from trainers.config import LoraConfig
from trainers.job import KIND, RESUME
from trainers.loop import train_stage

__all__ = ["every_step_is_told", "make", "whole"]

WORKER = """
import os, pickle, signal, sys
import torch
from trainers import engine, loop, watch
watch.REPORT_EVERY_S = 0.0
leave, engine.leave_workers = engine.leave_workers, lambda: None  # torchrun's processes can meet once
jobs, harm, at, rank = pickle.load(open(sys.argv[1], "rb"))
step, taken = loop._step, []

def harmed(engine, rows, train):
    taken.append(train.rows)
    if len(taken) == at and int(os.environ["RANK"]) == rank:
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
leave()
if int(os.environ["RANK"]) == 0:
    pickle.dump((told, taken), open(sys.argv[1] + ".out", "wb"))
"""


def run_two(folder, *jobs, harm="", at=0, rank=1):
    """Run jobs one after the other on two workers under torchrun; one worker comes to harm in its `at`-th step.

    Returns how torchrun ended, by job record and loss at every step, and the rows that each step of the first worker took.
    """
    (folder / "worker.py").write_text(WORKER)
    (folder / "jobs").write_bytes(pickle.dumps((jobs, harm, at, rank)))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    ended = subprocess.run(
        ["timeout", "400", *torchrun, str(folder / "worker.py"), str(folder / "jobs")],
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


def killed_and_undisturbed(make, folder, **train):
    """A stage whose second worker was killed in step 7 and that went on, and one that nobody disturbed."""
    killed, undisturbed = make("killed-of-two", checkpoint_steps=2, **train), make("undisturbed-of-two", **train)
    ended, *_ = run_two(folder, killed, harm="kill", at=7)
    assert ended.returncode and points(killed), ended.stderr[-3000:]
    ended, told, _ = run_two(folder, undisturbed, killed)
    assert ended.returncode == 0, ended.stderr[-3000:]
    record, curve = told[killed.key]
    assert record["notes"] == [f"continued from step {min(curve) - 1}"] and 2 < min(curve) <= 7
    return killed, undisturbed


@pytest.mark.slow
def test_two_workers_go_on_exactly_from_points_in_a_bucket(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    killed, undisturbed = killed_and_undisturbed(maker(f"{bucket}/store"), tmp_path)
    assert apart(weights(killed), weights(undisturbed)) == 0
    assert not Store(killed.store).keys(RESUME)
    assert not list(tmp_path.rglob("*optim_states.pt"))  # what was read is not kept


@pytest.mark.slow
@pytest.mark.parametrize(("zero", "dora"), [(1, False), (2, False), (3, False), (2, True)], ids=str)
def test_two_workers_go_on_exactly_with_an_adapter(tmp_path, zero, dora):
    lora = LoraConfig(rank=4, alpha=8, dropout=0.1, dora=dora)
    stages = killed_and_undisturbed(maker(str(tmp_path / "store")), tmp_path, zero=zero, lora=lora)
    store = Store(stages[0].store)
    assert apart(*(load_file(store.fetch(KIND, stage.key) / "adapter_model.safetensors") for stage in stages)) == 0


@pytest.mark.slow
def test_a_worker_that_does_not_answer_ends_the_attempt(make, tmp_path):
    job = make("hangs", checkpoint_steps=2, collective_timeout=10.0)
    ended, *_ = run_two(tmp_path, job, harm="hang", at=5)
    assert ended.returncode == 1
    assert "imed out" in ended.stderr
    assert 2 in points(job)


@pytest.mark.slow
def test_out_of_memory_on_one_worker_halves_the_rows_of_all(make, whole, tmp_path):
    job = make("memory-two", rows=4, checkpoint_steps=2)
    ended, *_ = run_two(tmp_path, job, harm="memory", at=5)
    assert ended.returncode == 1 and "out of memory at step 5 with 4 rows" in ended.stderr
    ended, told, taken = run_two(tmp_path, job)
    assert ended.returncode == 0, ended.stderr[-3000:]
    first, second = told[job.key][0]["notes"]
    assert first == "out of memory at step 5 with 4 rows: now 2 at a time" and second.startswith("continued from step")
    assert set(taken) == {2}
    assert apart(weights(job), whole()[1]) < 1e-4
