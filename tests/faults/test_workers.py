"""Train's workers: one is killed, another's node is taken away, and the stage goes on from where it stood."""

import os
import signal
import time
from dataclasses import replace

import pytest

from cut_stages import maker, points
from run_folders import wait_for
from sweeps.tasks import environment
from trainers.config import ResourcesConfig
from trainers.launch import launch

pytestmark = pytest.mark.cluster


@pytest.fixture
def ray():
    import ray

    os.environ["RAY_AUTH_MODE"] = "disabled"
    yield ray
    ray.shutdown()
    del os.environ["RAY_AUTH_MODE"]


def joined(ray, address, **more):
    variables = {**environment(1, False), "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    ray.init(address, log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": variables}, **more)


def test_a_worker_of_train_that_is_killed_is_replaced_and_goes_on(ray, tmp_path):
    joined(ray, "local", num_cpus=1)
    job = maker(str(tmp_path / "store"), limit=1000)("killed", checkpoint_steps=10)
    marker, kill = tmp_path / "killed", signal.SIGKILL

    def report(progress):
        if progress.step > 20 and not marker.exists():
            marker.write_text(str(os.getpid()))
            os.kill(os.getpid(), kill)

    record = launch(replace(job, launched=time.time()), ResourcesConfig(workers=1), report)
    assert int(marker.read_text()) != os.getpid()
    assert record["notes"][0].startswith("continued from step ") and record["steps"] == 250
    assert not points(job)


@pytest.mark.slow
def test_a_stage_whose_node_is_taken_away_has_written_a_point_before(ray, tmp_path):
    import subprocess
    import threading

    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": True})
    try:
        leaving = cluster.add_node(num_cpus=1)
        joined(ray, cluster.address)
        job = maker(str(tmp_path / "store"), limit=4000)("preempted", batch_size=4)
        begun, ended = tmp_path / "begun", []

        def report(progress):
            begun.touch()
            time.sleep(0.5)

        resources = ResourcesConfig(workers=1)
        training = threading.Thread(target=lambda: ended.append(launch(replace(job, launched=time.time()), resources, report)))
        training.start()
        wait_for(begun.exists, 120, "the first step")
        node = leaving.node_id
        drain = ["ray", "drain-node", "--address", cluster.address, "--node-id", node, "--reason-message", "spot"]
        drain += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--deadline-remaining-seconds", "60"]
        subprocess.run(drain, check=True, capture_output=True)
        wait_for(lambda: points(job), 60, "a resume point")
        cluster.remove_node(leaving, allow_graceful=False)
        cluster.add_node(num_cpus=1)
        training.join(300)
        assert ended and ended[0]["notes"][0].startswith("continued from step ")
    finally:
        ray.shutdown()
        cluster.shutdown()
