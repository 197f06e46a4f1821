"""What Ray 2.60 leaves behind when a stage is killed, made to happen, and removed while the sweep would go on.

A leak is first shown to be one: Ray keeps the group for as long as the job lives, or would take devices for it later. Were
that to change in a later version, these tests would say so, and the reaper could go.
"""

import os
import signal
import subprocess
import sys
import time
import uuid

import psutil
import pytest

from run_folders import wait_for
from sweeps.reaper import MARK, Reaper, groups, orphans, unowned

pytestmark = pytest.mark.cluster


@pytest.fixture
def clean(ray):
    """Nothing is held before and after."""
    yield
    reap_until(lambda: not groups())
    wait_for(lambda: free(ray) == total(ray), 60, "free CPUs")


def free(ray):
    return ray.available_resources().get("CPU", 0.0)


def total(ray):
    return ray.cluster_resources()["CPU"]


def reap_until(condition, seconds=60, mark=""):
    """What a sweep does while it runs, until a condition holds; what was removed."""
    reaper, removed = Reaper(mark), []
    if mark:
        reaper.search()

    def look():
        removed.extend(reaper.reap())
        return condition()

    wait_for(look, seconds, "the reaper")
    return removed


def train(ray, storage, loop, workers=1, **more):
    """A task that trains as a stage does: it holds nothing and runs the `fit()` of a Train run."""
    from sweeps.tasks import HOLDS_NOTHING, plainly

    def fitted():
        from ray.train import FailureConfig, RunConfig, ScalingConfig

        from trainers.worker_group import StageTrainer

        limits = FailureConfig(max_failures=2, controller_failure_limit=3)
        trainer = StageTrainer(
            loop,
            scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(name=f"t{time.time()}", storage_path=str(storage), failure_config=limits),
            **more,
        )
        return trainer.fit().return_value

    @ray.remote(max_retries=0)
    def stage():
        return plainly(fitted)

    return stage.options(**HOLDS_NOTHING).remote()


def for_ever():
    """A loop without an end; a closure, because a worker cannot import this module."""

    def loop():
        while True:
            time.sleep(1)

    return loop


def states(ray):
    from ray.util import placement_group_table

    mine = {group.id for group in groups()}
    return [about["state"] for name, about in placement_group_table().items() if name in mine]


def actors(ray):
    """The classes of all actors that live, but for Ray's own one per cluster."""
    from ray._private.state import actors

    names = [about["ActorClassName"].rpartition(".")[2] for about in actors().values() if about["State"] != "DEAD"]
    return [name for name in names if name != "_AutoscalingCoordinatorActor"]


@pytest.fixture
def taken(ray):
    """An actor that holds all CPUs."""

    @ray.remote
    class Taken:
        def ready(self):
            return True

    actor = Taken.options(num_cpus=total(ray)).remote()
    ray.get(actor.ready.remote())
    yield actor
    ray.kill(actor)


def test_a_stage_killed_while_it_waits_for_devices_would_take_them_later(ray, clean, taken, tmp_path):
    """ray.md, section 4, path (a)."""
    stage = train(ray, tmp_path, for_ever())
    wait_for(lambda: states(ray) == ["PENDING"], 120, "a group that waits")
    assert unowned(groups()) == [], "its owner lives"
    ray.cancel(stage, force=True)
    wait_for(lambda: unowned(groups()), 60, "the death of its owner")
    ray.kill(taken)
    wait_for(lambda: states(ray) == ["CREATED"], 60, "the leak: nobody is left, and a CPU is taken")
    assert free(ray) == total(ray) - 1
    assert len(reap_until(lambda: free(ray) == total(ray))) == 1


def test_a_stage_killed_in_training_keeps_its_devices_until_they_are_taken_back(ray, clean, tmp_path):
    """ray.md, section 1 (d)."""
    stage = train(ray, tmp_path, for_ever())
    wait_for(lambda: "RayTrainWorker" in actors(ray), 120, "its workers")
    assert unowned(groups()) == [], "its owner lives"
    ray.cancel(stage, force=True)
    wait_for(lambda: not actors(ray), 60, "the end of its actors, which go with their owner")
    assert states(ray) == ["CREATED"], "the leak"
    assert free(ray) == total(ray) - 1
    assert len(reap_until(lambda: free(ray) == total(ray))) == 1


@pytest.mark.parametrize("when", ["in training", "waiting"])
def test_a_stage_that_is_cancelled_gives_its_devices_back_by_itself(ray, clean, tmp_path, request, when):
    if when == "waiting":
        request.getfixturevalue("taken")
    stage = train(ray, tmp_path, for_ever())
    wait_for(lambda: states(ray) == ["PENDING"] if when == "waiting" else "RayTrainWorker" in actors(ray), 120, when)
    ray.cancel(stage)
    others = ["Taken"] if when == "waiting" else []
    wait_for(lambda: not groups() and actors(ray) == others, 20, lambda: f"the end of {actors(ray)} and {states(ray)}")


def test_a_worker_group_that_failed_at_its_start_does_not_keep_its_devices(ray, clean, tmp_path):
    """ray.md, section 4, path (b): Train takes no such group down, and tries again with what is left of the devices."""
    from ray.train.backend import Backend, BackendConfig

    class Fails(Backend):
        def on_start(self, worker_group, backend_config):
            raise OSError("address already in use")

    class Config(BackendConfig):
        @property
        def backend_cls(self):
            return Fails

    stage = train(ray, tmp_path, lambda: None, workers=int(total(ray)), backend_config=Config())
    with pytest.raises(ray.exceptions.RayTaskError, match="address already in use"):
        ray.get(stage, timeout=120)
    wait_for(lambda: not groups() and not actors(ray) and free(ray) == total(ray), 10, "its devices")


def test_a_process_that_outlived_its_worker_is_ended_and_no_other_is(ray):
    mark = uuid.uuid4().hex

    @ray.remote(num_cpus=0, runtime_env={"env_vars": {MARK: mark}})
    class Parent:
        def child(self, session):
            return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=session).pid

        def pid(self):
            return os.getpid()

    living, dying = Parent.remote(), Parent.remote()
    kept, left = ray.get(living.child.remote(True)), ray.get(dying.child.remote(True))
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={**os.environ, MARK: "another"})
    try:
        assert orphans(mark) == []
        os.kill(ray.get(dying.pid.remote()), signal.SIGKILL)
        wait_for(lambda: [process.pid for process in orphans(mark)] == [left], 30, "the leak")
        told = reap_until(lambda: not orphans(mark), mark=mark)
        wait_for(lambda: not psutil.pid_exists(left) or psutil.Process(left).status() == psutil.STATUS_ZOMBIE, 10)
        assert psutil.pid_exists(kept) and stranger.poll() is None
        assert all(f"process {left} " in what for what in told)
    finally:
        stranger.kill()
        ray.kill(living)
