"""Kill a run, or interrupt it: nothing is left behind, and the same command finishes it with the same table."""

import signal
import uuid

import psutil
import pytest
import yaml

from conftest import fulcrum
from run_folders import events, finished_stages, marked, start, table, wait_for

pytestmark = pytest.mark.cluster


@pytest.fixture
def slow_second_stage(small):
    """Stage 2 takes some seconds, so that there is a middle to be killed in."""
    small["sources"]["chat"]["limit"] = 2000
    small["search"]["space"]["k"]["values"] = [0, "1/2"]
    return small


def in_second_stage(folder):
    """A stage with a parent has begun and not ended."""
    begun = {e["key"] for e in events(folder) if e["event"] == "stage_started" and e["parent"]}
    return begun - {e["key"] for e in finished_stages(folder)}


def gone(mark):
    wait_for(lambda: not marked(mark), 60, lambda: f"the end of {[p.cmdline()[:3] for p in marked(mark)]}")


def test_a_killed_run_is_finished_by_the_same_command(tmp_path, slow_second_stage):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(slow_second_stage))
    folder, mark = tmp_path / "runs" / "small", uuid.uuid4().hex
    run = start(tmp_path, mark)
    wait_for(lambda: in_second_stage(folder), what="the second stage")
    run.send_signal(signal.SIGKILL)
    run.communicate()
    before = {e["key"] for e in finished_stages(folder)}
    ended = fulcrum("run", "c.yaml", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    stages = [e["key"] for e in finished_stages(folder)]
    assert before <= set(stages)
    assert len(stages) == len(set(stages)) == 3
    assert [e["parent"] for e in finished_stages(folder)].count(None) == 1
    undisturbed = fulcrum("run", "c.yaml", "storage=elsewhere", cwd=tmp_path)
    assert undisturbed.returncode == 0
    assert table(folder) == table(tmp_path / "elsewhere" / "small")
    gone(mark)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_how_to_continue_and_leaves_no_process(tmp_path, slow_second_stage, number):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(slow_second_stage))
    folder, mark = tmp_path / "runs" / "small", uuid.uuid4().hex
    run = start(tmp_path, mark)
    wait_for(lambda: in_second_stage(folder), what="the second stage")
    run.send_signal(number)
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 130, said
    assert "interrupted; continue with: fulcrum run c.yaml" in said
    assert not (folder / "holder.json").exists()
    gone(mark)


def test_a_second_run_of_the_same_name_is_refused_while_the_first_lives(tmp_path, slow_second_stage):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(slow_second_stage))
    folder, mark = tmp_path / "runs" / "small", uuid.uuid4().hex
    run = start(tmp_path, mark)
    wait_for(lambda: (folder / "holder.json").exists(), what="the holder")
    ended = fulcrum("run", "c.yaml", cwd=tmp_path)
    assert ended.returncode == 2
    assert f"held by process {run.pid}" in ended.stderr
    wait_for(lambda: psutil.Process(run.pid).children(recursive=True), what="Ray")
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=60)
    gone(mark)
