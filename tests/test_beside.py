"""Repeats by seed, anchors, and the confirmation on test items, through the command line."""

import csv
import json
import shutil

import pytest
import yaml

from conftest import SMALL, fulcrum
from data.store import Store
from run_folders import events, finished_stages, table

pytestmark = pytest.mark.cluster

ANCHORS = ["base", "general", "specialist", "k0", "multi_task"]
SEARCH = {
    "sampler": "grid",
    "space": {"k": {"type": "grid", "values": [0, "1/4"]}},
    "repeats": 2,
    "anchors": ANCHORS,
    "confirm": {"top": 1, "seeds": 2},
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run with everything that is measured beside the search: its folder, and how the command ended."""
    work = tmp_path_factory.mktemp("measured")
    (work / "c.yaml").write_text(yaml.safe_dump(SMALL | {"search": SEARCH}))
    return work / "runs" / "small", fulcrum("run", "c.yaml", cwd=work)


def balance(folder):
    return json.loads((folder / "balance.json").read_text())


def test_repeats_of_a_trial_are_one_row_with_the_mean_and_an_error_that_holds_the_scatter(measured):
    folder, ended = measured
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = list(csv.DictReader((folder / "trials.csv").open()))
    assert [row["trial"] for row in rows] == ["0", "1"]
    for row in rows:
        trial = folder / f"trials/{int(row['trial']):04d}"
        means = [_mean(trial / name / "toy_chat.jsonl") for name in (".", "repeat-1")]
        assert float(row["toy_chat"]) == pytest.approx(sum(means) / 2)
        assert float(row["toy_chat_stderr"]) ** 2 >= (means[0] - means[1]) ** 2 / 4 - 1e-12, "half the variance of two"


def test_repeats_share_their_stages_with_the_trials_of_the_same_seed(measured):
    folder, _ = measured
    searched = [e for e in finished_stages(folder) if e["trial"] is not None and e["strategy"] == "dmt"]
    ended = min(e["time"] for e in events(folder) if e["event"].endswith("_measured"))
    first = [e for e in searched if e["parent"] is None and e["time"] < ended]
    assert len(first) == 2, "one for each seed, whatever the number of trials"
    assert len([e for e in searched if e["time"] < ended]) == 2 + 2 * 2


def test_every_anchor_is_measured_on_the_items_of_the_search(measured):
    folder, _ = measured
    found = {a["anchor"]: a for a in balance(folder)["anchors"]}
    assert sorted(found) == sorted(ANCHORS)
    assert {name: a["seeds"] for name, a in found.items()} == {name: 1 if name == "base" else 2 for name in ANCHORS}
    assert all(0 <= a["specialist"] <= 1 and a["general_stderr"] >= 0 for a in found.values())
    row = next(csv.DictReader((folder / "trials.csv").open()))
    assert found["k0"]["general"] == pytest.approx(float(row["general"])), "k0 is the trial with k = 0, and the same stages"


def test_an_anchor_is_trained_on_its_sources_and_charged_to_no_trial(measured):
    folder, _ = measured
    mixtures = [sorted(e["mixture"]) for e in finished_stages(folder) if e["trial"] is None]
    shared = "the specialist anchor is the first stage of all trials, k0 is one of them, and the base model has no stage"
    assert sorted(mixtures) == sorted(2 * [["chat"], ["chat", "code", "math"]]), shared


def test_the_confirmation_has_fresh_seeds_and_test_items_and_is_told_beside_the_search(measured):
    folder, ended = measured
    told = balance(folder)["confirmation"]
    assert told["winner"] is None and not told["changed"], "there is nobody to win against"
    assert [(t["trial"], t["seeds"]) for t in told["trials"]] == [(balance(folder)["trial"], 2)]
    assert "there was no other candidate" in ended.stdout
    page = (folder / "report.html").read_text()
    assert "Confirmation on test items" in page and "Anchors" in page
    event = next(e for e in events(folder) if e["event"] == "confirmation_measured")
    searched = {key for e in events(folder) if e["event"] == "trial_finished" for key in e["stages"]}
    assert not searched & set(event["stages"]), "no trial had these seeds"
    store = Store(folder.parent / "store")
    asked = _prompts(store.fetch("evaluations", event["measured"][0]["toy_math"]) / "toy_math.jsonl")
    assert len(asked) == 8 and not asked & _prompts(folder / "trials/0000/toy_math.jsonl")


def test_the_sum_over_trials_and_anchors_is_what_the_ledger_holds(measured):
    folder, _ = measured
    charged = [e for e in events(folder) if e["event"] in ("stage_finished", "rung_finished")]
    rows = list(csv.DictReader((folder / "trials.csv").open()))
    anchors = sum(e["device_seconds"] for e in charged if e["trial"] is None)
    assert sum(float(row["device_seconds"]) for row in rows) + anchors == pytest.approx(
        sum(e["device_seconds"] for e in charged)
    )


@pytest.mark.slow
def test_a_finished_run_measures_nothing_again_and_more_candidates_when_asked(measured, tmp_path):
    folder, _ = measured
    shutil.copytree(folder.parents[1], tmp_path / "copy")
    again = tmp_path / "copy" / "runs" / "small"
    before = len([e for e in events(again) if e["event"].endswith("_measured")])
    assert before == len(ANCHORS) + 1
    assert fulcrum("run", "c.yaml", cwd=tmp_path / "copy").returncode == 0
    assert len([e for e in events(again) if e["event"].endswith("_measured")]) == before
    ended = fulcrum("run", "c.yaml", "search.confirm.top=2", cwd=tmp_path / "copy")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    added = [e for e in events(again) if e["event"].endswith("_measured")][before:]
    assert [(e["event"], e["trial"]) for e in added] == [("confirmation_measured", 1 - balance(again)["trial"])]
    told = balance(again)["confirmation"]
    assert len(told["trials"]) == 2
    assert told["winner"] in (0, 1) and told["changed"] == (told["winner"] != balance(again)["trial"])
    assert ("WINNER CHANGED" if told["changed"] else "Confirmed") in ended.stdout
    assert table(again) == table(folder)


def _prompts(path):
    return {str(json.loads(line)["turns"]) for line in path.read_text().splitlines()}


def _mean(path):
    scores = [json.loads(line)["score"] for line in path.read_text().splitlines()]
    return sum(scores) / len(scores)
