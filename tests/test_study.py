"""The search space and its studies."""

import pytest

from sweeps import space
from sweeps.config import SearchConfig
from sweeps.study import SweepStudy, planned_trials

K = {"type": "loguniform", "low": "1/256", "high": 1, "include_zero": True}


def search(**fields):
    return SearchConfig(**{"sampler": "random", "trials": 12, "space": {"k": K}} | fields)


def study(config, tmp_path, name="s"):
    return SweepStudy(config, tmp_path / f"{name}.db", name)


def finish(asked, tell):
    for number, params in asked:
        tell(number, (params["k"], 1 - params["k"]))


def test_zero_is_tried_first_and_once(tmp_path):
    made = study(search(trials=40), tmp_path)
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


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_rebuilt_study_proposes_what_the_old_one_would_have(tmp_path, sampler):
    config = search(sampler=sampler)
    undisturbed = study(config, tmp_path, "a")
    first = []
    for _ in range(12):
        first.append(undisturbed.ask())
        finish(first[-1:], undisturbed.tell)
    rebuilt = study(config, tmp_path, "b")
    for number, params in first[:7]:
        assert rebuilt.put(params) == number
        finish([(number, params)], rebuilt.tell)
    assert [rebuilt.ask() for _ in range(1)] == first[7:8]


def test_another_seed_proposes_other_trials(tmp_path):
    one, other = study(search(), tmp_path, "a"), study(search(seed=1), tmp_path, "b")
    assert [one.ask() for _ in range(3)] != [other.ask() for _ in range(3)]


def test_the_study_on_disk_holds_plain_values_and_failures_with_their_reason(tmp_path):
    import optuna

    made = study(search(), tmp_path)
    asked = [made.ask() for _ in range(3)]
    finish(asked[:2], made.tell)
    made.tell(2, None, "out of memory")
    trials = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path / 's.db'}").trials
    assert [t.params for t in trials] == [params for _, params in asked]
    assert [t.state.name for t in trials] == ["COMPLETE", "COMPLETE", "FAIL"]
    assert trials[2].user_attrs["error"] == "out of memory"


@pytest.mark.parametrize(
    "parameter",
    [
        {"type": "uniform", "low": 0, "high": 1},
        {"type": "loguniform", "low": 1e-3, "high": 1},
        {"type": "int", "low": 1, "high": 5},
        {"type": "choice", "values": ["a", "b", "c"]},
        K,
    ],
    ids=lambda p: p["type"],
)
def test_every_kind_of_parameter_can_be_searched(tmp_path, parameter):
    made = study(search(sampler="tpe", space={"x": parameter}), tmp_path)
    for i in range(14):
        number, params = made.ask()
        made.tell(number, (i / 14, 1.0))
        assert params.keys() == {"x"}


def test_zero_is_tried_first_beside_other_parameters_too(tmp_path):
    both = {"k": K, "train.lr": {"type": "loguniform", "low": 1e-5, "high": 1e-3}}
    made = study(search(space=both), tmp_path)
    asked = [made.ask()[1] for _ in range(6)]
    assert asked[0] == {"k": 0.0, "train.lr": pytest.approx(1e-4)}
    assert all(params["k"] > 0 for params in asked[1:])
