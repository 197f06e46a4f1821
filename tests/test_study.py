"""The studies of a search: who proposes, what is not proposed again, and what is shown."""

import optuna
import pytest

from sweeps import samplers, shown, space
from sweeps.config import SearchConfig
from sweeps.shown import ShownStudy, StorageUnusable
from sweeps.study import OBJECTIVES, SweepStudy, Told, ending, planned_trials

K = {"type": "loguniform", "low": "1/256", "high": 1, "include_zero": True}
MIXED = {
    "k": K,
    "train.lr": {"type": "loguniform", "low": 1e-5, "high": 1e-2},
    "train.epochs": {"type": "int", "low": 1, "high": 4},
    "strategy": {"type": "choice", "values": ["dmt", "multi_task"]},
    "shares": {"type": "simplex", "over": ["sources.math.fraction", "sources.chat.fraction"]},
}
SAMPLERS = ["random", "qmc", "tpe", "nsga2", "nsga3", "gp"]


def search(**fields):
    return SearchConfig(**{"sampler": "random", "trials": 12, "space": {"k": K}} | fields)


def study(config, start=()):
    return SweepStudy(config, start)


def on_disk(config, tmp_path, name="s"):
    storage = shown.of(config, tmp_path / "s.db")
    return SweepStudy(config, (), ShownStudy(storage, name, "here", OBJECTIVES))


def scored(params) -> Told:
    k = params.get("k", 0.5)
    return Told("complete", (k, 1 - k * k))


def finish(made, asked):
    for number, params in asked:
        made.tell(number, scored(params))


def test_zero_is_tried_first_and_once():
    made = study(search(trials=40))
    values = [made.ask()[1]["k"] for _ in range(40)]
    assert values[0] == 0
    assert all(1 / 256 <= value <= 1 for value in values[1:])
    assert sum(value < 1 / 16 for value in values) > 10, "drawn on a logarithmic scale"


def test_a_grid_is_every_combination_in_order():
    parameters = search(
        sampler="grid", space={"k": {"type": "grid", "values": [0, "1/2"]}, "train.lr": {"type": "choice", "values": [1, 2]}}
    )
    assert space.grid(parameters.space) == [
        {"k": 0, "train.lr": 1}, {"k": 0, "train.lr": 2}, {"k": 0.5, "train.lr": 1}, {"k": 0.5, "train.lr": 2},
    ]  # fmt: skip
    assert planned_trials(parameters) == 4


@pytest.fixture(scope="module")
def sequence():
    """The values of k of the quasi-random sequence."""
    made = study(search(sampler="qmc"))
    finish(made, [made.ask()])
    return {made.ask()[1]["k"] for _ in range(40)}


def test_every_trial_is_drawn_with_a_seed_of_its_own():
    asked = optuna.create_study(directions=["maximize"] * 2)
    trials = [asked.ask() for _ in range(5)]
    first = [next(samplers.proposals(search(), 0, asked, asked.trials[trial.number]))["k"] for trial in trials]
    assert len(set(first)) == 5


def test_trials_that_failed_teach_a_model_nothing(sequence):
    made = study(search(sampler="tpe"))
    finish(made, [made.ask()])
    for _ in range(10):
        made.tell(made.ask()[0], Told("failed"))
    assert all(made.ask()[1]["k"] in sequence for _ in range(4))


def test_once_it_has_seen_enough_tpe_leaves_every_third_trial_to_the_sequence(sequence):
    made, drawn = study(search(sampler="tpe", trials=30)), {}
    for _ in range(30):
        number, drawn[number] = made.ask()
        finish(made, [(number, drawn[number])])
    assert [number for number in range(12, 30) if drawn[number]["k"] in sequence] == list(range(12, 30, 3))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("searched", [{"k": K}, MIXED], ids=["k", "mixed"])
def test_a_rebuilt_study_proposes_what_the_old_one_would_have(sampler, searched):
    """Two trials run at a time and end in another order than they were asked in; one fails. Rebuilt in the middle."""
    config = search(sampler=sampler, space=searched)
    undisturbed, log, open_trials = study(config), [], []
    trials = 12 if sampler == "gp" else 24  # a proposal of it takes a second
    for i in range(trials):
        open_trials.append(undisturbed.ask())
        log.append(("asked", *open_trials[-1]))
        if len(open_trials) == 2:
            number, params = open_trials.pop(i % 2)
            told = Told("failed", notes={"error": "x"}) if number == 3 else scored(params)
            undisturbed.tell(number, told)
            log.append(("told", number, told))
    rebuilt, asked = study(config), 0
    for what, number, value in log:
        if what == "told":
            rebuilt.tell(number, value)
        elif asked < trials - 3:
            assert rebuilt.put(value) == number
        else:
            assert rebuilt.ask() == (number, value)
        asked += what == "asked"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_another_seed_proposes_other_trials(sampler):
    one, other = (study(search(sampler=sampler, seed=seed)) for seed in (0, 1))
    assert [one.ask() for _ in range(5)] != [other.ask() for _ in range(5)]


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_no_point_is_proposed_twice_and_a_finite_space_is_searched_to_its_end(sampler):
    few = {"train.epochs": {"type": "int", "low": 1, "high": 3}, "strategy": MIXED["strategy"], "k": K}
    few["k"] = {"type": "choice", "values": [0, 0.5]}
    config = search(sampler=sampler, trials=50, space=few)
    assert planned_trials(config) == 3 * (2 + 1), "k exists for one of the strategies"
    made, seen = study(config), []
    for _ in range(planned_trials(config)):
        number, params = made.ask()
        made.tell(number, Told("failed") if number % 2 else scored(params))
        seen.append(params)
    assert len({tuple(sorted(p.items())) for p in seen}) == 9


def test_k_at_its_low_end_is_not_paid_for_again():
    made = study(search(trials=60))
    values = [made.ask()[1]["k"] for _ in range(60)]
    assert values.count(1 / 256) == 1, "an eighth of the draws fall below the smallest value"


def test_what_violates_a_constraint_is_avoided():
    """Both objectives are best at high k, where general is below its floor."""

    def late(floor):
        made = study(search(sampler="tpe", trials=40, constraints={"general": floor}))
        asked = []
        for _ in range(40):
            number, params = made.ask()
            outcome = {"state": "complete", "specialist": params["k"], "general": 0.5 - params["k"] / 4}
            made.tell(number, ending(outcome, search(constraints={"general": floor})))
            asked.append(params["k"])
        return sum(asked[20:]) / 20

    assert late(0.49) < late(0.0) / 2


def test_the_cost_of_a_trial_can_be_a_constraint():
    limited = search(constraints={"device_seconds": 100, "specialist": 0.5})
    outcome = {"state": "complete", "specialist": 0.75, "general": 0, "device_seconds": 100, "saved_device_seconds": 50}
    assert ending(outcome, limited).constraints == {"specialist": -0.25, "device_seconds": 0.5}


def test_the_study_on_disk_holds_plain_values_and_how_trials_ended(tmp_path):
    import optuna

    made = on_disk(search(space=MIXED), tmp_path)
    asked = [made.ask() for _ in range(4)]
    finish(made, asked[:1])
    made.tell(1, Told("complete", (0.1, 0.2), {"general": 0.3}))
    made.tell(2, Told("failed", notes={"error": "out of memory"}))
    made.tell(3, Told("pruned", notes={"rung": 0.25}))
    trials = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path / 's.db'}").trials
    assert [t.params for t in trials] == [params for _, params in asked]
    assert [t.state.name for t in trials] == ["COMPLETE", "COMPLETE", "FAIL", "PRUNED"]
    assert trials[1].constraints == {"general": 0.3}
    assert trials[2].user_attrs == {"error": "out of memory"} and trials[3].user_attrs == {"rung": 0.25}


def test_a_storage_of_ones_own_is_named_by_the_environment_and_a_foreign_study_is_left_alone(tmp_path, monkeypatch):
    import optuna

    monkeypatch.setenv("OUR_DB", f"sqlite:///{tmp_path / 'own.db'}")
    config = search(storage_env="OUR_DB")
    finish(made := on_disk(config, tmp_path), [made.ask()])
    on_disk(config, tmp_path).ask()
    storage = f"sqlite:///{tmp_path / 'own.db'}"
    assert [t.state.name for t in optuna.load_study(study_name="s", storage=storage).trials] == ["RUNNING"], "written anew"
    assert not (tmp_path / "s.db").exists()
    optuna.create_study(study_name="theirs", storage=storage)
    with pytest.raises(StorageUnusable, match="change `name`"):
        on_disk(config, tmp_path, "theirs")
    assert "theirs" in optuna.get_all_study_names(storage)


@pytest.mark.parametrize("url", [None, "nodriver://me:secret@host/db", "postgresql://me:secret@127.0.0.1:1/db"])
def test_a_storage_that_cannot_be_opened_is_refused_without_its_password(tmp_path, monkeypatch, url):
    if url:
        monkeypatch.setenv("OUR_DB", url)
    with pytest.raises(StorageUnusable) as caught:
        on_disk(search(storage_env="OUR_DB"), tmp_path)
    error = caught.value
    assert "OUR_DB" in str(error) and "secret" not in f"{error}{error.__cause__}{error.__context__}"


def test_zero_is_tried_first_beside_other_parameters_too():
    both = {"k": K, "train.lr": {"type": "loguniform", "low": 1e-5, "high": 1e-3}}
    made = study(search(space=both))
    asked = [made.ask()[1] for _ in range(6)]
    assert asked[0] == {"k": 0.0, "train.lr": pytest.approx(1e-4)}
    assert all(params["k"] > 0 for params in asked[1:])


def test_start_points_are_asked_in_order_before_the_sampler():
    made = study(search(sampler="tpe"), start=[{"k": 0.5}, {"k": 0.25}])
    assert [made.ask()[1]["k"] for _ in range(3)] == [0, 0.5, 0.25]


def test_a_score_that_is_not_finite_is_a_failure_and_no_value(small):
    from evaluators.benchmark import EvaluationFailed
    from sweeps.loading import parse
    from sweeps.objectives import objectives

    good = {"value": 0.5, "stderr": 0.1, "scale": "unit", "extras": {}, "judge": None}
    with pytest.raises(EvaluationFailed, match="general objective is nan"):
        objectives(parse(small), {"toy_math": good, "toy_chat": good | {"value": float("nan")}})
