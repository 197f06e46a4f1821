"""A cluster whose nodes come and go, with a head that has no CPU."""

import os
import uuid

import pytest
import yaml

from conftest import fulcrum
from run_folders import events, finished_stages, start, table, wait_for
from sweeps import budget

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture
def cluster():
    """A head without CPUs, and no other node yet."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_AUTH_MODE"] = "disabled"
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield made
    ray.shutdown()
    made.shutdown()
    del os.environ["RAY_AUTH_MODE"]


def open_stages(folder):
    """Keys of the stages that have begun and not ended."""
    found = set()
    for event in events(folder):
        if event["event"] == "stage_started":
            found.add(event["key"])
        elif event["event"] in ("stage_finished", "stage_failed"):
            found.discard(event["key"])
    return found


def test_trials_follow_the_nodes_and_a_lost_node_is_no_failure(cluster, tmp_path, small):
    small["sources"]["chat"]["limit"] = 2000
    small |= {"storage": f"file://{tmp_path}/runs", "resources": {"workers": 0, "retries": 0, "wait_minutes": 5}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(small))
    folder = tmp_path / "runs" / "small"
    run = start(tmp_path, uuid.uuid4().hex, "--address", cluster.address)
    wait_for(lambda: [e for e in events(folder) if e["event"] == "trial_started"], what="a trial that waits for nodes")
    first = cluster.add_node(num_cpus=1)
    wait_for(lambda: finished_stages(folder), what="the first stage, on a node that came late")
    assert len([e for e in events(folder) if e["event"] == "trial_started"]) <= 2
    cluster.add_node(num_cpus=1)
    wait_for(lambda: len(open_stages(folder)) == 2, what="two stages at once on two nodes")
    cluster.remove_node(first, allow_graceful=False)
    said, _ = run.communicate(timeout=500)
    assert run.returncode == 0, said
    failed = [e["error"] for e in events(folder) if e["event"] == "stage_failed"]
    assert failed and all("node" in error for error in failed), "the node took a stage with it, and retries are 0"
    assert [row["state"] for row in table(folder)] == ["complete"] * 3
    keys = [e["key"] for e in finished_stages(folder)]
    assert len(keys) == len(set(keys)) == 4


def test_a_wait_for_devices_that_do_not_come_ends_with_the_reason_and_can_be_continued(tmp_path, small):
    small["resources"], small["train"]["batch_size"] = {"workers": 64, "wait_minutes": 0.05}, 64
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(small))
    ended = fulcrum("run", "c.yaml", cwd=tmp_path)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "64 x {'CPU': 1" in ended.stdout
    assert "the cluster has no such nodes" in ended.stdout
    assert "stopped with 3 trials left" in ended.stdout
    ended = fulcrum("run", "c.yaml", "resources.workers=0", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_run_that_reaches_its_budget_reports_what_is_finished_and_goes_on_with_more(tmp_path, small):
    small["sources"]["chat"]["limit"] = 1000
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(small))
    folder = tmp_path / "runs" / "small"
    ended = fulcrum("run", "c.yaml", "search.concurrency=1", "budget.device_hours=0.008", cwd=tmp_path)
    spent = budget.spent(events(folder)).device_seconds
    assert "budget.device_hours = 0.008" in ended.stdout, ended.stdout + ended.stderr
    assert spent < 0.008 * 3600 + 10
    before = finished_stages(folder)
    ended = fulcrum("run", "c.yaml", "budget.device_hours=5", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert finished_stages(folder)[: len(before)] == before
    assert [row["state"] for row in table(folder)] == ["complete"] * 3
