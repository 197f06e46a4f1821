"""What the test items say of a choice, and what they do not."""

import pytest

from sweeps.balance import Point
from sweeps.config import Floor, Knee
from sweeps.confirmation import ANCHOR, CONFIRMATION, confirmation, failed


def measured(trial, specialist, general, seeds=3, asked="a", state="complete", error=None):
    about = {"event": CONFIRMATION, "trial": trial, "params": {}, "seeds": seeds, "asked": {"gsm8k": asked}, "state": state}
    told = {"specialist": specialist, "general": general, "specialist_stderr": 0.01, "general_stderr": 0.01}
    return about | told | {"scores": {}, "stderr": {}, "error": error}


SEARCHED = [Point(i, {}, {}, o, (0.01, 0.01)) for i, o in enumerate([(0.1, 0.9), (0.8, 0.8), (0.9, 0.1)])]
ENDS = [measured(0, 0.1, 0.9), measured(2, 0.9, 0.1)]


def say(*events, rule=None, chosen=1):
    return confirmation(events, rule or Knee(), SEARCHED, chosen)


def test_the_winner_on_the_test_items_is_told_and_whether_it_is_another():
    same, other = say(*ENDS, measured(1, 0.7, 0.7)), say(measured(1, 0.2, 0.2), measured(0, 0.8, 0.8))
    assert (same["winner"], same["changed"]) == (1, False)
    assert (other["winner"], other["changed"]) == (0, True)
    assert [t["dev"]["specialist"] for t in same["trials"]] == [0.1, 0.9, 0.8]


def test_nothing_was_confirmed_where_the_choice_was_not_measured():
    assert say() is None
    found = say(*ENDS, measured(1, 0.0, 0.0, state="failed"))
    assert (found["winner"], found["changed"]) == (None, False)


def test_one_candidate_wins_against_nobody():
    assert say(measured(1, 0.0, 0.0))["winner"] is None


def test_other_seeds_or_items_are_another_measurement():
    old = [measured(0, 0.9, 0.9, seeds=2), measured(2, 0.9, 0.9, asked="b")]
    assert [t["trial"] for t in say(*old, measured(1, 0.5, 0.5))["trials"]] == [1]
    again = [measured(1, 0.5, 0.5), measured(0, 0.4, 0.4), measured(1, 0.6, 0.6)]
    assert [t["test"]["specialist"] for t in say(*again)["trials"]] == [0.4, 0.6], "the last of each"


def test_no_winner_where_no_candidate_satisfies_the_rule():
    assert say(*ENDS, measured(1, 0.7, 0.7), rule=Floor(rule="floor", general=0.95))["winner"] is None


def test_what_could_not_be_measured_is_told_until_it_is():
    anchor = {"event": ANCHOR, "anchor": "base", "state": "failed", "error": "no room"}
    events = [anchor, measured(1, 0, 0, state="failed", error="loss nan")]
    assert failed(events) == ["The anchor base failed: no room", "The confirmation of trial 1 failed: loss nan"]
    assert failed([*events, measured(1, 0.5, 0.5)]) == ["The anchor base failed: no room"]


@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_the_choice_itself_is_never_told_as_a_change(chosen):
    table = {0: (0.1, 0.9), 1: (0.5, 0.5), 2: (0.9, 0.1)} | {chosen: (0.95, 0.95)}
    found = say(*(measured(trial, *scores) for trial, scores in table.items()), chosen=chosen)
    assert (found["winner"], found["changed"]) == (chosen, False)
