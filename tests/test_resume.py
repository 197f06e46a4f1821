"""A stage that was cut off: it goes on from its last resume point, and ends with the weights of one that was not."""

import dataclasses
import os

import pytest
import torch
from safetensors.torch import load_file

from cut_stages import STEPS, apart, every_step_is_told, make, maker, points, stopped, weights, whole
from data.store import Store
from trainers import watch
from trainers.config import LoraConfig
from trainers.examples import Examples
from trainers.job import KIND, RESUME, RUNGS
from trainers.loop import train_stage

__all__ = ["every_step_is_told", "make", "whole"]


class Cut(Exception):
    """The test cuts a stage off."""


def cut_at(step):
    def report(progress):
        if progress.step == step:
            raise Cut

    return report


def cut(job, step):
    with pytest.raises(Cut):
        train_stage(job, cut_at(step))


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


def test_the_last_two_points_are_kept_and_none_after_the_end(make, monkeypatch):
    job, seen = make("kept", checkpoint_steps=1), []
    torn = Store(job.store).scratch(RESUME, "kept-99", "torn")
    (torn / "half").write_text("written by an attempt that was killed")
    train_stage(job, lambda progress: seen.append(points(job)))
    assert max(map(len, seen)) == 2
    assert all(len(found) < 2 or found[0] == found[1] + 1 for found in seen)
    assert not Store(job.store).keys(RESUME, "kept-")


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


def test_a_point_that_cannot_be_read_is_left_alone_and_the_stage_begins_again(make, whole):
    stopped(make("other-zero", zero=3), 3), stopped(make("other-zero", zero=3), 6)
    job = make("other-zero", zero=2, checkpoint_steps=1)
    seen = []
    record = train_stage(job, lambda progress: seen.append(points(job)))
    unused = [f"the resume point at step {step} is of zero 3, not 2: not used" for step in (7, 4)]
    assert record["notes"] == [*unused, "begins again from its parent"]
    assert any(found and max(found) < 4 for found in seen)  # older points do not crowd out those that can be used
    assert apart(weights(job), whole()[1]) == 0


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_zero_1_and_2_go_on_from_each_other(make, whole, before, after):
    key = f"zero-{before}-{after}"
    stopped(make(key, zero=before), 4)
    assert train_stage(make(key, zero=after))["notes"] == ["continued from step 5"]
    assert apart(weights(make(key)), whole()[1]) < 1e-6


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
        assert store.record(RUNGS, f"rungs@{until}")["steps"] == step
        assert points(job)[0] == step
        assert store.record(KIND, job.key) is None
    straight = make("straight")
    train_stage(dataclasses.replace(straight, until=0.5))
    assert apart(weights(straight, RUNGS, "straight@0.5"), weights(job, RUNGS, "rungs@0.5")) == 0
    record = train_stage(job)
    assert apart(weights(job), whole()[1]) == 0
    assert record["tokens"] == whole()[0]["tokens"]


def test_a_rung_that_was_cut_off_before_its_weights_were_written_is_written(make, monkeypatch):
    job = dataclasses.replace(make("half-rung"), until=0.5)
    monkeypatch.setattr(Store, "writing", lambda *_: (_ for _ in ()).throw(Cut()))
    with pytest.raises(Cut):
        train_stage(job)
    assert points(job) == [5]
    monkeypatch.undo()
    assert train_stage(job)["loss"] > 0
    assert Store(job.store).record(RUNGS, "half-rung@0.5")


def test_the_random_generators_go_on_where_they_were(make, monkeypatch):
    import random

    import numpy as np

    drawn, of_step = {}, Examples.of_step

    def drawing(self, step):
        drawn[step] = (torch.rand(1).item(), np.random.rand(), random.random())
        return of_step(self, step)

    monkeypatch.setattr(Examples, "of_step", drawing)
    random.seed(0), np.random.seed(0)
    train_stage(make("random"))
    undisturbed = dict(drawn)
    random.seed(0), np.random.seed(0)
    assert stopped(make("random-cut"), 4) == 5
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    drawn.clear()
    train_stage(make("random-cut"))
    assert drawn == {step: undisturbed[step] for step in range(5, STEPS)}


def test_a_stage_in_a_bucket_is_cut_off_and_goes_on_the_same(bucket, whole, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    job = maker(f"{bucket}/store")("bucket", checkpoint_steps=2)
    assert stopped(job, 5) == 6
    assert points(job) == [6, 4]
    assert train_stage(job)["notes"] == ["continued from step 6"]
    assert apart(weights(job), whole()[1]) == 0
    assert not Store(job.store).keys(RESUME)
    assert not list(tmp_path.rglob("*optim_states.pt"))  # what was read is not kept


@pytest.mark.parametrize("zero", [2, *(pytest.param(z, marks=pytest.mark.slow) for z in (0, 1, 3))])
def test_an_adapter_that_was_cut_off_goes_on_exactly(make, zero):
    lora = LoraConfig(rank=4, alpha=8, dropout=0.1)
    job, undisturbed = make(f"adapter-{zero}", zero=zero, lora=lora), make(f"whole-adapter-{zero}", zero=zero, lora=lora)
    train_stage(undisturbed)
    point = stopped(job, 4)
    kept = Store(job.store).fetch(RESUME, f"{job.key}-{point}")
    assert sum(file.stat().st_size for file in kept.rglob("*.pt")) < 400_000  # the frozen weights are not in it
    assert train_stage(job)["notes"] == [f"continued from step {point}"]
    files = [Store(job.store).fetch(KIND, key) / "adapter_model.safetensors" for key in (job.key, undisturbed.key)]
    assert apart(*map(load_file, files)) == 0
