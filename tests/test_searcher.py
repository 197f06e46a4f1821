"""Trials at once follow the room that there is."""

import json

from ray.tune.search import Searcher

from sweeps.searcher import StudySearcher


def searcher(room, trials=9):
    numbers, finished = iter(range(trials)), []

    def ask():
        return next(((number, {"k": number}) for number in numbers), None)

    asked = StudySearcher(ask, lambda number, outcome: finished.append((number, outcome)), lambda: room[0])
    return asked, finished


def test_no_more_trials_than_there_is_room_for_and_more_when_it_grows():
    room = [2]
    asked, _ = searcher(room)
    assert [asked.suggest(name)["trial"] for name in "ab"] == [0, 1]
    assert asked.suggest("c") is None, "full"
    room[0] = 3
    assert asked.suggest("c") == {"trial": 2, "params": {"k": 2}}


def test_a_trial_that_ends_makes_room_for_the_next():
    asked, finished = searcher([1])
    asked.suggest("a")
    assert asked.suggest("b") is None
    asked.on_trial_complete("a", {"outcome": json.dumps({"state": "complete"})})
    assert asked.suggest("b") == {"trial": 1, "params": {"k": 1}}
    assert finished == [(0, {"state": "complete"})]


def test_a_trial_whose_process_died_is_given_again_and_has_failed_when_that_goes_on():
    asked, finished = searcher([1], trials=1)
    for name in "abc":
        assert finished == []
        assert asked.suggest(name) == {"trial": 0, "params": {"k": 0}}
        asked.on_trial_complete(name, None, error=True)
        asked.on_trial_complete(name, None, error=True)  # Tune may tell of it twice
    assert [(number, outcome["state"]) for number, outcome in finished] == [(0, "failed")]
    assert asked.suggest("d") == Searcher.FINISHED


def test_the_search_is_over_when_no_trial_is_left_and_none_runs_that_might_be_given_again():
    asked, _ = searcher([5], trials=1)
    asked.suggest("a")
    assert asked.suggest("b") is None
    asked.on_trial_complete("a", {"outcome": json.dumps({"state": "complete"})})
    assert asked.suggest("b") == Searcher.FINISHED


def test_a_trial_that_died_after_a_rung_is_given_again_and_one_that_was_ended_there_is_pruned():
    rung = {"outcome": json.dumps({"state": "rung", "rung": 0.5, "stages": ["a@0.5"], "evaluations": {"toy_math": "b"}})}
    asked, finished = searcher([2])
    asked.suggest("a")
    asked.suggest("b")
    asked.on_trial_complete("a", rung, error=True)
    asked.on_trial_complete("b", rung)
    assert [(number, outcome["state"], outcome["rung"]) for number, outcome in finished] == [(1, "pruned", 0.5)]
    assert asked.suggest("c") == {"trial": 0, "params": {"k": 0}}
