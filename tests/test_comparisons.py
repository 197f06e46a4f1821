"""Which trials can be told apart, and which may stand beside each other at all."""

import json

import numpy as np
import pytest

from data.files import Folder
from sweeps import judging, report, results
from sweeps.accounts import Accounts
from sweeps.comparisons import alike, compare, detectable
from sweeps.loading import parse
from sweeps.trial import objectives


@pytest.fixture
def config(small):
    return parse(small)


def lines(scores):
    return "".join(
        json.dumps({"id": str(i), "score": float(s), "answered": True, "group": "", "weight": 1.0}) + "\n"
        for i, s in enumerate(scores)
    )


def finished(folder, config, tables, **more):
    """The ledger of finished trials whose items scored as in the tables, (toy_math, toy_chat) each; their items on disk."""
    events = []
    for trial, (math, chat) in enumerate(tables):
        place = folder / "trials" / f"{trial:04d}"
        place.mkdir(parents=True)
        scores = {}
        for name, values, scale in (("toy_math", math, "unit"), ("toy_chat", chat, "ten")):
            (place / f"{name}.jsonl").write_text(lines(values))
            error = float(np.std(values, ddof=1) / len(values) ** 0.5)
            about = {"value": float(np.mean(values)), "stderr": error, "scale": scale, "judge": None, "extras": {}}
            scores[name] = about | {"items": f"{name} {len(values)}"} | more.get(name, {})
        told = {"event": "trial_finished", "trial": trial, "params": {"k": trial / 4}, "state": "complete", "error": None}
        events.append(told | objectives(config, scores) | {"stages": [], "cost": None})
    return events


def tables():
    """Trial 1 answers nearly as trial 0 does; trial 2 is better by three points, all on items that both others miss."""
    random = np.random.default_rng(1)
    math = (random.random(1319) < 0.5).astype(float)
    chat = random.integers(1, 10, 200).astype(float)
    better = math.copy()
    better[np.flatnonzero(math == 0)[:40]] = 1
    swapped = math.copy()
    swapped[[int(np.flatnonzero(math == 0)[0]), int(np.flatnonzero(math == 1)[0])]] = [1, 0]
    return [(math, chat), (swapped, chat), (better, chat)]


def test_three_points_are_told_apart_where_the_errors_of_the_scores_overlap(tmp_path, config):
    events = finished(tmp_path, config, tables())
    points = results.points(events)
    gap, errors = points[2].objectives[0] - points[0].objectives[0], [p.stderr[0] for p in points]
    assert gap == pytest.approx(40 / 1319)
    assert gap < 1.96 * (errors[0] ** 2 + errors[2] ** 2) ** 0.5
    found = compare(Folder(tmp_path), config, points, 2)
    apart = {c.trials for c in found if c.told_apart}
    assert apart == {(0, 2), (1, 2)}
    assert {c.objective for c in found if c.told_apart} == {"specialist"}


def test_trials_that_answer_alike_are_named_in_the_balance_point_and_in_the_report(tmp_path, config):
    events = finished(tmp_path, config, [tables()[0], tables()[1]])
    chosen, compared = results.write(Folder(tmp_path), events, config)
    assert chosen.alike == (1 - chosen.trial,)
    assert json.loads((tmp_path / "balance.json").read_text())["alike"] == [1 - chosen.trial]
    report.write(Folder(tmp_path), events, config, chosen, compared)
    page = (tmp_path / "report.html").read_text()
    assert f"Trial {1 - chosen.trial} cannot be told apart from it on these items." in page
    assert "Trial 0 cannot be told apart from 1." in page
    assert f"A difference in specialist below {detectable(compared, 'specialist'):.3f} is missed" in page


def test_a_difference_on_ten_enters_an_objective_on_one(tmp_path, config):
    chat = np.random.default_rng(2).integers(1, 9, 50).astype(float)
    math = np.zeros(50)
    math[:10] = 1
    events = finished(tmp_path, config, [(math, chat), (math, chat + np.arange(50) % 2)])
    [general] = [c for c in compare(Folder(tmp_path), config, results.points(events), 0) if c.objective == "general"]
    assert general.difference.value == pytest.approx(0.5 / 9)
    assert general.told_apart


def test_pairs_by_chance_are_not_told_apart_however_many_there_are(tmp_path, config):
    random = np.random.default_rng(3)
    noise = [((random.random(200) < 0.5).astype(float), random.normal(5, 1, 200)) for _ in range(12)]
    found = compare(Folder(tmp_path), config, results.points(finished(tmp_path, config, noise)), 0)
    assert len(found) >= 22
    assert not any(c.told_apart for c in found)
    assert len(alike(found)) == len(found) / 2


def test_a_trial_whose_items_are_gone_is_left_out(tmp_path, config):
    events = finished(tmp_path, config, tables())
    (tmp_path / "trials" / "0001" / "toy_chat.jsonl").unlink()
    assert {c.trials for c in compare(Folder(tmp_path), config, results.points(events), 2)} == {(0, 2)}
    assert compare(Folder(tmp_path), config, results.points(events)[1:2], 1) == []


JUDGED = {"judge": "m at http://j/v1", "extras": {"judge": {"model": "m-0613"}}}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"judge": "n at http://j/v1"}, "measured by n at http://j/v1 answering as m-0613"),
        ({"extras": {"judge": {"model": "m-0806"}}}, "answering as m-0806"),
        ({"items": "the first 100"}, "on items the firs"),
        ({}, None),
    ],
)
def test_a_trial_of_another_judge_or_other_items_does_not_stand_beside_the_earlier_ones(tmp_path, config, change, told):
    [earlier] = finished(tmp_path / "a", config, tables()[:1], toy_chat=JUDGED)
    [later] = finished(tmp_path / "b", config, tables()[:1], toy_chat=JUDGED | change)
    refused = judging.refusal(earlier, later | {"trial": 1})
    assert refused is None if told is None else told in refused and "never mixed" in refused


def test_the_report_says_who_rated_and_what_to_think_of_it(tmp_path, config):
    about = {
        "model": "m-0613",
        "local": False,
        "own_words": True,
        "injections": ["81"],
        "wrong_references": [104],
        "dropped": 2,
    }
    events = finished(tmp_path, config, tables()[:2], toy_chat={"judge": "m at http://j/v1", "extras": {"judge": about}})
    told = " ".join(judging.warnings(events))
    for part in (
        "m at http://j/v1; it answered as m-0613",
        "in our own words",
        "2 answers hold a rating",
        "104",
        "4 judgments",
    ):
        assert part in told
    offline = finished(tmp_path / "o", config, tables()[:1], toy_chat={"judge": "offline-rules"})
    assert judging.warnings(offline) == [
        "The column toy_chat was rated by 'offline-rules', which looks at form only: it is no MT-Bench score."
    ]


def test_a_trial_is_charged_what_its_evaluations_paid_failed_ones_too():
    cost = {"calls": 6, "cached": 1, "prompt_tokens": 600, "completion_tokens": 60, "usd": 0.5}
    events = [
        {"event": "rung_failed", "trial": 0, "device_seconds": 1.0, "cost": cost},
        {"event": "rung_finished", "trial": 0, "device_seconds": 1.0, "cost": cost | {"usd": 0.25}},
        {"event": "rung_finished", "trial": 1, "device_seconds": 1.0},
        {"event": "trial_finished", "trial": 0},
        {"event": "trial_finished", "trial": 1},
    ]
    accounts = Accounts(events)
    assert accounts.judges(0) == {
        "calls": 12, "cached": 2, "prompt_tokens": 1200, "completion_tokens": 120, "usd": 0.75,
    }  # fmt: skip
    assert accounts.judges(1) is None
    assert judging.bill(events) == (
        "The judge replied 12 times (1200 + 120 tokens, 0.75 US dollars); 2 judgments were there already."
    )


def test_trials_with_repeats_are_compared_by_the_means_of_their_items(tmp_path, config):
    """Two trials whose first repeats are alike; the second repeat of one answers 100 items that the others miss."""
    config = config.model_copy(update={"search": config.search.model_copy(update={"repeats": 2})})
    math, chat = (np.arange(400) < 200).astype(float), np.full(400, 5.0)
    events = finished(tmp_path, config, [(math, chat), (math, chat)])
    more = (np.arange(400) < 300).astype(float)
    for trial, second in ((0, math), (1, more)):
        place = tmp_path / f"trials/{trial:04d}/repeat-1"
        place.mkdir()
        (place / "toy_math.jsonl").write_text(lines(second))
        (place / "toy_chat.jsonl").write_text(lines(chat))
    found = {c.objective: c for c in compare(Folder(tmp_path), config, results.points(events), 0)}
    assert found["specialist"].difference.value == pytest.approx(100 / 400 / 2)
    assert found["specialist"].told_apart
    (tmp_path / "trials/0001/repeat-1/toy_math.jsonl").unlink()
    assert compare(Folder(tmp_path), config, results.points(events), 0) == [], "a repeat is gone"
