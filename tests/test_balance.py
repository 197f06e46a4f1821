"""The front and the point on it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.balance import Point, candidates, choose, front
from sweeps.config import Floor, Knee, Weights

unit = st.floats(0, 1)


def points(*objectives, stderr=0.0):
    return [
        Point(i, {"k": i / 10}, {"specialist": s, "general": g}, (s, g), (stderr, stderr))
        for i, (s, g) in enumerate(objectives)
    ]


BENT = points((0, 0.9), (0.5, 0.88), (0.8, 0.8), (0.9, 0.3), (1, 0))


@given(st.lists(st.tuples(unit, unit), min_size=1, max_size=20))
def test_the_front_is_what_no_other_point_dominates(objectives):
    table = np.array(objectives)
    dominated = {i for i, a in enumerate(table) for b in table if (b >= a).all() and (b > a).any()}
    assert front(table) == [i for i in range(len(table)) if i not in dominated]


@settings(deadline=None)  # 2,000 tables are drawn for each
@given(
    st.lists(st.tuples(unit, unit), min_size=1, max_size=12),
    st.sampled_from([Knee(), Weights(rule="weights", specialist=1, general=1)]),
)
def test_a_choice_is_never_dominated(objectives, rule):
    chosen = choose(points(*objectives), rule)
    assert chosen.trial in front(np.array(objectives))


def test_the_knee_is_where_the_front_bends():
    assert choose(BENT, Knee()).trial == 2


def test_a_floor_below_zero_is_counted_from_the_best():
    assert choose(BENT, Floor(rule="floor", general=-0.05)).trial == 1
    assert choose(BENT, Floor(rule="floor", general=0.2)).trial == 3
    with pytest.raises(ValueError, match=r"lower balance\.general"):
        choose(BENT, Floor(rule="floor", general=0.95))


def test_weights_move_the_choice():
    assert choose(BENT, Weights(rule="weights", specialist=1, general=0.01)).trial == 4
    assert choose(BENT, Weights(rule="weights", specialist=0.01, general=1)).trial == 0


def test_certain_scores_give_full_confidence_and_noise_takes_it_away():
    assert choose(BENT, Knee()).confidence == 1.0
    noisy = choose([Point(p.trial, p.params, p.scores, p.objectives, (0.3, 0.3)) for p in BENT], Knee())
    assert noisy.confidence < 0.9
    low, high = noisy.interval["k"]
    assert low < noisy.params["k"] < high


def test_without_a_completed_trial_there_is_no_point():
    with pytest.raises(ValueError, match="no trial was completed"):
        choose([], Knee())


def test_candidates_begin_with_the_balance_point_and_go_on_with_what_is_chosen_when_scores_are_redrawn():
    table = [(0.1, 0.9), (0.5, 0.6), (0.52, 0.58), (0.9, 0.1), (0.05, 0.05)]
    points = [Point(i, {}, {}, o, (0.02, 0.02)) for i, o in enumerate(table)]
    found = [p.trial for p in candidates(points, Knee(), 3)]
    assert found[0] == choose(points, Knee()).trial
    assert set(found[:2]) == {1, 2}, "these two are the same within their errors"
    assert 4 not in [p.trial for p in candidates(points, Knee(), 5)], "it is on no front"


def test_there_are_no_candidates_where_nothing_satisfies_the_rule():
    points = [Point(0, {}, {}, (0.5, 0.5), (0.0, 0.0))]
    assert candidates(points, Floor(rule="floor", general=0.9), 3) == []
    assert candidates([], Knee(), 3) == []
