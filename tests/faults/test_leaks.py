"""On a cluster that goes on living, a run leaves no placement group, actor or process, however it ends."""

import os
import signal
import socket
import uuid

import psutil
import pytest
import yaml

from run_folders import events, finished_stages, marked, start, wait_for

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of this test's own, with two CPUs."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_AUTH_MODE"] = "disabled"
    head = {"num_cpus": 2, "include_dashboard": True, "dashboard_port": free_port()}
    ray_cluster = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=ray_cluster.address, log_to_driver=False, logging_level="ERROR")
    yield ray_cluster
    ray.shutdown()
    ray_cluster.shutdown()
    del os.environ["RAY_AUTH_MODE"]


def free_port() -> int:
    """A port that nothing listens on: another cluster on this machine may have taken Ray's own."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def held() -> list:
    """Placement groups and actors that are alive on the cluster, but for Ray's own one per cluster."""
    from ray._private.state import actors
    from ray.util import placement_group_table

    groups = [group for group, about in placement_group_table().items() if about["state"] != "REMOVED"]
    alive = [about["ActorClassName"] for about in actors().values() if about["State"] != "DEAD"]
    return groups + [name for name in alive if name != "_AutoscalingCoordinatorActor"]


@pytest.mark.parametrize("end", ["finished", pytest.param("failed", marks=pytest.mark.slow), "interrupted", "killed"])
def test_nothing_is_left_on_the_cluster(cluster, tmp_path, small, end):
    small["search"]["space"]["k"]["values"] = [0]
    if end in ("interrupted", "killed"):
        small["sources"]["chat"]["limit"] = 20_000
    if end == "failed":
        small["model"] = {"init_from_config": {"model_type": "granite", "logits_scaling": 1e-40, "hidden_size": 32,
            "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2},
            "tokenizer": "characters"}  # fmt: skip
    mark = uuid.uuid4().hex
    small |= {"storage": f"file://{tmp_path}/runs", "resources": {"workers": 1}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(small))
    run = start(tmp_path, mark, "--address", cluster.address)
    folder = tmp_path / "runs" / "small"
    if end in ("interrupted", "killed"):
        wait_for(lambda: [e for e in events(folder) if e["event"] == "stage_started" and e["parent"]], what="stage 2")
        assert held()
        run.send_signal(signal.SIGINT if end == "interrupted" else signal.SIGKILL)
    said, _ = run.communicate(timeout=300)
    assert run.returncode == {"finished": 0, "failed": 1, "interrupted": 130, "killed": -9}[end], said
    assert len(finished_stages(folder)) == {"finished": 2, "failed": 0, "interrupted": 1, "killed": 1}[end]
    wait_for(lambda: not held(), 90, lambda: f"the release of {held()}")
    wait_for(lambda: not marked(mark), 30, "the end of the driver's processes")


@pytest.mark.slow
def test_a_stage_that_was_killed_is_trained_again_on_the_devices_that_it_had_kept(cluster, tmp_path, small):
    """The group of the killed stage holds all CPUs of the cluster until the sweep takes them back."""
    small["search"]["space"]["k"]["values"] = [0]
    small["sources"]["chat"]["limit"] = 2000
    small |= {"storage": f"file://{tmp_path}/runs", "resources": {"workers": 2}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(small))
    run, folder = start(tmp_path, mark := uuid.uuid4().hex, "--address", cluster.address), tmp_path / "runs" / "small"
    wait_for(lambda: [e for e in events(folder) if e["event"] == "stage_progress" and e["step"] > 1], what="training")
    mine = psutil.Process().children(recursive=True)  # other clusters may run on the machine
    stage = next(p for p in mine if p.name().startswith("ray::train_stag"))
    assert stage.environ()["FULCRUM_RUN"]
    stage.kill()
    said, _ = run.communicate(timeout=200)
    assert run.returncode == 0, said
    told = [e for e in events(folder) if e["event"] in ("stage_failed", "leak_removed")]
    assert [e["event"] for e in told] == ["stage_failed", "leak_removed"]
    assert told[1]["what"].startswith("placement group ")
    wait_for(lambda: not held(), 90, lambda: f"the release of {held()}")
    wait_for(lambda: not marked(mark), 30, "the end of the driver's processes")
