"""The shipped demo for real, through Ray Train workers: forgetting, rescue, conflict, and a kill in the middle."""

import json
import os
import signal
import subprocess

import pytest

from conftest import FULCRUM, ROOT, fulcrum
from run_folders import events, finished_stages, table, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    work = tmp_path_factory.mktemp("demo")
    ended = fulcrum("run", "demo", cwd=work, timeout=1200)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return work / "runs" / "demo"


def by_k(folder):
    return {float(row["k"]): (float(row["specialist"]), float(row["general"])) for row in table(folder)}


def test_without_replay_the_specialist_skill_is_forgotten(demo):
    scores = by_k(demo)
    assert scores[0][0] <= max(s for s, _ in scores.values()) - 0.2


def test_much_replay_hurts_the_general_ability(demo):
    scores = by_k(demo)
    assert scores[max(scores)][1] <= max(g for _, g in scores.values()) - 0.05


def test_the_balance_point_lies_between(demo):
    chosen = json.loads((demo / "balance.json").read_text())
    assert 0 < chosen["params"]["k"] < max(by_k(demo))


def test_the_first_stage_was_trained_once(demo):
    assert [stage["parent"] for stage in finished_stages(demo)].count(None) == 1


def test_killed_in_the_middle_of_stage_two_it_ends_with_the_same_table(demo, tmp_path):
    folder = tmp_path / "runs" / "demo"
    run = subprocess.Popen(
        [*FULCRUM, "run", "demo"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL
    )
    wait_for(
        lambda: len([e for e in events(folder) if e["event"] == "stage_started" and e["parent"]]) >= 3,
        what="a later second stage",
        seconds=900,
    )
    run.send_signal(signal.SIGKILL)
    run.wait()
    before = {stage["key"] for stage in finished_stages(folder)}
    ended = fulcrum("run", "demo", cwd=tmp_path, timeout=1200)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    keys = [stage["key"] for stage in finished_stages(folder)]
    assert before
    assert before < set(keys)
    assert len(keys) == len(set(keys))
    assert table(folder) == table(demo)
