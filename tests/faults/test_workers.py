"""Train's workers: one is killed or out of memory, another's node is taken away; the stage goes on from where it stood."""

import json
import os
import shutil
import signal
import time
from dataclasses import replace

import pytest
import yaml

from conftest import fulcrum
from cut_stages import MODEL, maker, points
from data.store import Store
from run_folders import events, finished_stages, wait_for
from sweeps.tasks import environment
from trainers import base
from trainers import launch as launching
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


HUNGRY = """import os
import torch
from transformers import LlamaForCausalLM

class Hungry(LlamaForCausalLM):
    passes = 0

    def forward(self, input_ids=None, position_ids=None, **more):
        self.passes += 1
        if self.passes == 5 and len(input_ids) > 4 and os.environ.get("RANK") == "1":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(input_ids=input_ids, position_ids=position_ids, **more)
"""


@pytest.mark.slow
def test_out_of_memory_on_one_worker_halves_the_rows_of_all_and_the_ledger_says_so(tmp_path, small):
    """The model brings its own code, by which the second worker has no memory for more than 4 rows in its fifth pass."""
    shutil.copytree(base.location(MODEL, Store(str(tmp_path / "bases"))), tmp_path / "hungry")
    (tmp_path / "hungry" / "modeling_hungry.py").write_text(HUNGRY)
    described = tmp_path / "hungry" / "config.json"
    own = {"auto_map": {"AutoModelForCausalLM": "modeling_hungry.Hungry"}}
    described.write_text(json.dumps(json.loads(described.read_text()) | own))
    small |= {"model": {"path": "hungry", "trust_remote_code": True}, "strategy": "multi_task", "search": {}}
    small |= {"resources": {"workers": 2, "retries": 0}}
    small["train"] |= {"packing": False, "rows": 8, "checkpoint_steps": 2}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(small))
    ended = fulcrum("train", "c.yaml", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    folder = tmp_path / "runs" / "small"
    notes = [event["text"] for event in events(folder) if event["event"] == "stage_note"]
    assert notes == ["out of memory at step 5 with 8 rows: now 4 at a time", "continued from step 2"]
    (stage,) = finished_stages(folder)
    assert stage["steps"] == 10  # 160 examples, 16 at a time as before


@pytest.mark.slow
def test_a_stage_whose_node_is_taken_away_has_written_a_point_and_has_not_failed(ray, tmp_path, monkeypatch):
    import subprocess
    import threading

    from ray.cluster_utils import Cluster

    attempts, attempt = [], launching._attempt
    monkeypatch.setattr(launching, "_attempt", lambda *told: attempts.append(told) or attempt(*told))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": True, "dashboard_port": None})
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
        assert len(attempts) == 1, "a failure ends an attempt"
    finally:
        ray.shutdown()
        cluster.shutdown()
