"""Pruning on Ray: rungs of real stages, evaluated on a share of the items, and trials that end there."""

import csv
import json

import pytest
import yaml

from conftest import fulcrum
from run_folders import events, table
from sweeps.pruner import EVENT

pytestmark = pytest.mark.cluster

PRUNED = {"pruner": {"rungs": ["1/2", 1], "keep": "1/4", "least": 1}, "concurrency": 1}


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """A pruned sweep of the toy world: its folder, and how the command ended."""
    import copy

    from conftest import SMALL

    work = tmp_path_factory.mktemp("pruned")
    values = copy.deepcopy(SMALL)
    values["search"] = {"sampler": "grid", "space": {"k": {"type": "grid", "values": ["1/8", "1/4", "1/2", 1]}}} | PRUNED
    (work / "c.yaml").write_text(yaml.safe_dump(values))
    return work / "runs" / "small", fulcrum("run", "c.yaml", cwd=work)


def decided(folder):
    return {e["trial"]: e["goes_on"] for e in events(folder) if e["event"] == EVENT}


def test_a_trial_that_does_not_go_on_at_a_rung_is_pruned_there(pruned):
    folder, ended = pruned
    assert ended.returncode == 0, ended.stdout + ended.stderr
    goes_on = decided(folder)
    assert sorted(goes_on) == [0, 1, 2, 3], "every trial reached the rung"
    assert goes_on[0], "there was nobody to lose against"
    assert not all(goes_on.values()), "a quarter of four goes on, and at most one per earlier size"
    rows = list(csv.DictReader((folder / "trials.csv").open()))
    assert {int(row["trial"]): row["state"] == "complete" for row in rows} == goes_on
    assert all((row["toy_math"] == "") == (row["state"] == "pruned") for row in rows), "scores of a rung are no scores"


def test_a_pruned_trial_trains_its_last_stage_up_to_the_rung_and_no_further(pruned):
    folder, _ = pruned
    goes_on = decided(folder)
    trained = {}
    for event in events(folder):
        if event["event"] == "stage_finished" and event["parent"] is not None:
            trained.setdefault(event["trial"], []).append(event["key"].partition("@")[2])
    assert trained == {trial: ["0.5", ""] if on else ["0.5"] for trial, on in goes_on.items()}
    fractions = {trial: [] for trial in goes_on}
    for event in events(folder):
        if event["event"] == "rung_finished":
            fractions[event["trial"]].append(event["fraction"])
    assert fractions == {trial: [0.5, 1.0] if on else [0.5] for trial, on in goes_on.items()}


def test_a_rung_is_scored_on_its_share_of_the_items_of_the_whole(pruned):
    folder, _ = pruned
    goes_on = decided(folder)
    asked = {trial: _ids(folder / f"trials/{trial:04d}/toy_math.jsonl") for trial in goes_on}
    whole, part = asked[0], next(asked[trial] for trial, on in goes_on.items() if not on)
    assert (len(whole), len(part)) == (8, 4)
    assert part < whole
    assert all(asked[trial] == part for trial, on in goes_on.items() if not on), "the same for all: scores are paired"


def test_a_pruned_run_whose_ledger_lost_its_end_is_continued_to_the_same_table(pruned, tmp_path):
    """Cut after the last trial's decision: what was decided is not asked again, nothing is trained twice."""
    import shutil

    folder, _ = pruned
    shutil.copytree(folder.parents[1], tmp_path / "copy")
    again = tmp_path / "copy" / "runs" / "small"
    lines = (again / "ledger.jsonl").read_text().splitlines()
    last = max(i for i, line in enumerate(lines) if json.loads(line)["event"] == EVENT)
    (again / "ledger.jsonl").write_text("\n".join(lines[: last + 1]) + "\n")
    ended = fulcrum("run", "c.yaml", cwd=tmp_path / "copy")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert table(again) == table(folder)
    assert decided(again) == decided(folder)
    trained = [e["key"] for e in events(again) if e["event"] == "stage_finished"]
    assert len(trained) == len(set(trained))


def _ids(path):
    return {json.loads(line)["id"] for line in path.read_text().splitlines()}
