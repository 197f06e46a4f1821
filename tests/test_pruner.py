"""Successive halving of trials with two objectives: who goes on, and that nothing but the ledger decides it."""

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_simulate import config, folder, killed_after, run

from run_folders import events, table
from sweeps.balance import front
from sweeps.config import PrunerConfig
from sweeps.pruner import EVENT, Pruner, ranked, survives

RUNGS = {"rungs": ["1/4", "1/2", 1], "keep": "1/2", "least": 1}
points = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=15)


@given(points)
def test_no_point_ranks_before_one_that_dominates_it(objectives):
    table = np.array(objectives, float)
    place = {position: i for i, position in enumerate(ranked(table))}
    assert sorted(place) == list(range(len(table)))
    for i, a in enumerate(table):
        for j, b in enumerate(table):
            if (b >= a).all() and (b > a).any():
                assert place[j] < place[i]


def test_in_a_front_its_ends_come_first_and_then_the_loneliest():
    table = np.array([(0, 10), (4, 8), (5, 7), (6, 6), (10, 0)], float)
    assert ranked(table)[:2] == [0, 4]
    assert ranked(table)[2] == 3, "the widest gap is beside it"


@given(points, st.sampled_from([0.25, 0.5, 0.75]))
def test_a_point_of_the_first_front_goes_on_if_the_front_is_no_larger_than_what_is_kept(objectives, keep):
    table = np.array(objectives, float)
    best = front(table)
    if len(best) <= keep * len(table):
        assert survives(table, keep) or len(table) - 1 not in best
    if len(table) == 1:
        assert survives(table, keep), "nobody to lose against"


@given(points, st.sampled_from([0.25, 0.5]), st.integers(1, 6))
def test_the_best_few_go_on_however_few_there_are(objectives, keep, least):
    table = np.array(objectives, float)
    assert survives(table, keep, least) == (ranked(table).index(len(table) - 1) < least) or survives(table, keep)
    assert survives(table, keep, least) or len(table) > least


def test_a_pruner_that_is_rebuilt_from_the_ledger_decides_the_same():
    made = PrunerConfig.model_validate(RUNGS)
    random = np.random.default_rng(0)
    first, ledger, decided = Pruner(made), [], []
    for trial in range(30):
        s, g = map(float, random.random(2))
        decided.append(first.goes_on(trial, 0.25, (s, g)))
        ledger.append({"event": EVENT, "trial": trial, "rung": 0.25, "specialist": s, "general": g, "goes_on": decided[-1]})
    again = Pruner(made, ledger[:20])
    assert [again.decided(trial, 0.25) for trial in range(21)] == [*decided[:20], None]
    assert [again.goes_on(e["trial"], 0.25, (e["specialist"], e["general"])) for e in ledger[20:]] == decided[20:]
    assert 0 < sum(decided) < 30


@pytest.mark.parametrize("rungs", [[1], ["1/2", "1/4", 1], ["1/4", "1/2"], [0, 1], ["1/3", 0.33333334, 1], [0.9999999, 1]])
def test_rungs_that_do_not_rise_to_one_are_refused(rungs):
    with pytest.raises(ValueError, match="rungs"):
        PrunerConfig(rungs=rungs)


def test_pruning_saves_time_and_is_shown(tmp_path):
    import optuna

    whole, pruned = (config(tmp_path / name, trials=24, pruner=p) for name, p in (("whole", None), ("pruned", RUNGS)))
    run(whole)
    run(pruned)
    seconds = [
        sum(float(row["device_seconds"]) for row in csv.DictReader((folder(made) / "trials.csv").open()))
        for made in (whole, pruned)
    ]
    assert seconds[1] < 0.8 * seconds[0]
    rows = table(folder(pruned))
    states = [row["state"] for row in rows]
    assert states.count("pruned") > 6 and states.count("complete") > 3
    assert all((row["gsm8k"] == "") == (row["state"] == "pruned") for row in rows), "scores of a rung are no scores"
    at_rungs = {e["trial"]: e["rung"] for e in events(folder(pruned)) if e["event"] == EVENT and not e["goes_on"]}
    study = optuna.load_study(study_name="sim", storage=f"sqlite:///{folder(pruned)}/study.db")
    told = {t.number: t.user_attrs["rung"] for t in study.trials if t.state.name == "PRUNED"}
    assert told == at_rungs
    shares = {e["fraction"] for e in events(folder(pruned)) if e["event"] == "rung_finished"}
    assert shares == {0.25, 0.5, 1.0}


def test_a_trial_that_is_not_pruned_costs_what_it_would_have_cost(tmp_path):
    made = config(tmp_path, trials=1, pruner=RUNGS, sampler="grid", space={"k": {"type": "grid", "values": [0.25]}})
    run(made)
    other = config(tmp_path / "other", trials=1, sampler="grid", space={"k": {"type": "grid", "values": [0.25]}})
    run(other)
    stages = [[e["device_seconds"] for e in events(folder(c)) if e["event"] == "stage_finished"] for c in (made, other)]
    assert len(stages[0]) == 4 and sum(stages[0]) == pytest.approx(sum(stages[1]))


def test_killed_and_continued_it_prunes_the_same(tmp_path):
    made = config(tmp_path, trials=30, pruner=RUNGS, sampler="tpe")
    again = made.model_copy(update={"storage": str(tmp_path / "again")})
    run(again)
    for lines in (9, 23, 41, 60):
        killed_after(lines, made)
    run(made)
    assert table(folder(made)) == table(folder(again))
