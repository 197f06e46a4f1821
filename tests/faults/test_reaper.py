"""Leaks of placement groups that Ray 2.60 has, made to happen, and removed while the sweep would go on.

Each test first shows that Ray itself leaves the group behind, and would do so when a later version no longer did: then the
reaper can go.
"""

import time

import pytest

from run_folders import wait_for
from sweeps.reaper import Reaper, groups, unowned

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


def reap_until(condition, seconds=60):
    """What a sweep does while it runs, until a condition holds; what was removed."""
    reaper, removed = Reaper(), []

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
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

        limits = FailureConfig(max_failures=2, controller_failure_limit=30)
        trainer = DataParallelTrainer(
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


def test_a_stage_killed_while_it_waits_for_devices_would_take_them_later(ray, clean, tmp_path):
    """ray.md, section 4, path (a)."""

    @ray.remote
    class Taken:  # all CPUs
        def ready(self):
            return True

    taken = Taken.options(num_cpus=total(ray)).remote()
    ray.get(taken.ready.remote())
    stage = train(ray, tmp_path, for_ever())
    wait_for(lambda: states(ray) == ["PENDING"], 120, "a group that waits")
    assert unowned(groups()) == [], "its controller lives"
    ray.cancel(stage, force=True)
    wait_for(lambda: unowned(groups()), 60, "the death of its controller")
    ray.kill(taken)
    wait_for(lambda: states(ray) == ["CREATED"], 60, "the leak: nobody is left, and a CPU is taken")
    assert free(ray) == total(ray) - 1
    assert len(reap_until(lambda: free(ray) == total(ray))) == 1


@pytest.mark.slow
def test_a_stage_killed_in_training_gives_its_devices_back(ray, clean, tmp_path):
    """ray.md, section 1 (d): the group of a stage that was killed by force stays, some times for minutes."""
    stage = train(ray, tmp_path, for_ever())
    wait_for(lambda: states(ray) == ["CREATED"], 120, "the worker group")
    ray.cancel(stage, force=True)
    wait_for(lambda: unowned(groups()) or not groups(), 60, "the death of its controller")
    reap_until(lambda: free(ray) == total(ray), 10)


@pytest.mark.slow
def test_a_worker_group_that_failed_at_its_start_does_not_keep_its_devices(ray, clean, tmp_path):
    """ray.md, section 4, path (b): the run has failed, its controller is gone, and its group holds all CPUs."""
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
        ray.get(stage)
    wait_for(lambda: unowned(groups()), 60, "the end of its controller")
    assert states(ray) == ["CREATED"], "the leak"
    assert free(ray) == 0
    assert len(reap_until(lambda: free(ray) == total(ray))) == 1
