"""The search space: scales, conditions, the simplex, start points, and what is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from scipy import stats

from conftest import SMALL
from sweeps import scales, space, starts
from sweeps.config import Parameter, SearchConfig
from sweeps.loading import ConfigError, parse, with_params

K = {"type": "loguniform", "low": "1/256", "high": 1, "include_zero": True}
SHARES = {"type": "simplex", "over": ["sources.math.fraction", "sources.code.fraction", "sources.chat.fraction"]}
EVERY = {
    "k": K,
    "train.lr": {"type": "loguniform", "low": 1e-5, "high": 1e-2},
    "train.warmup": {"type": "uniform", "low": 0, "high": 0.5},
    "train.epochs": {"type": "int", "low": 1, "high": 4},
    "strategy": {"type": "choice", "values": ["dmt", "multi_task"]},
    "shares": SHARES,
}


def read(**parameters):
    return TypeAdapter(dict[str, Parameter]).validate_python(parameters)


def problems(search, **more) -> dict[str, str]:
    """What is wrong with the small sweep when it searches so, by field."""
    try:
        parse(SMALL | {"search": search} | more)
    except ConfigError as error:
        return {problem.field: str(problem) for problem in error.problems}
    return {}


@pytest.mark.parametrize("key", EVERY)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_coordinates_and_values_stand_for_each_other(key, data):
    parameter = read(**{key: EVERY[key]})[key]
    drawn = {}
    for name, d in scales.coordinates(key, parameter).items():
        choices = getattr(d, "choices", None)
        drawn[name] = data.draw(
            st.sampled_from(choices) if choices
            else st.integers(d.low, d.high) if isinstance(d.low, int)
            else st.floats(d.low, d.high)
        )  # fmt: skip
    values = scales.at(key, parameter, drawn)
    assert scales.fits(parameter, list(values.values()))
    again = scales.at(key, parameter, scales.position(key, parameter, values))
    assert again == pytest.approx(values, rel=1e-6, abs=1e-9) if key != "strategy" else again == values


def test_a_simplex_is_drawn_evenly():
    """Each weight of a uniform point of the simplex of n is Beta(1, n - 1), whichever of the weights it is."""
    import numpy as np

    parameter = read(shares=SHARES)["shares"]
    random = np.random.default_rng(0)
    points = [scales.at("shares", parameter, {"shares.0": u, "shares.1": v}) for u, v in random.random((4000, 2))]
    assert all(sum(point.values()) == pytest.approx(1) and min(point.values()) >= 0 for point in points)
    for path in SHARES["over"]:
        assert stats.kstest([point[path] for point in points], stats.beta(1, 2).cdf).pvalue > 0.01


def test_the_weights_of_a_simplex_reach_the_fields_they_name():
    parsed = parse(SMALL | {"search": {"space": {"k": K, "shares": SHARES}}})
    point = space.drawn(parsed.search.space, lambda name, d: d.low + 0.3 * (d.high - d.low))
    config = with_params(parsed, point)
    assert list(point) == ["k", *SHARES["over"]]
    assert sum(config.sources[name].fraction for name in ("math", "code", "chat")) == pytest.approx(1)


def test_k_is_searched_only_where_the_strategy_is_dmt():
    searched = read(k=K, strategy={"type": "choice", "values": ["multi_task", "dmt"]})
    assert list(space.drawn(searched, lambda name, d: "multi_task" if name == "strategy" else d.low)) == ["strategy"]
    assert list(space.drawn(searched, lambda name, d: "dmt" if name == "strategy" else d.low)) == ["k", "strategy"]


def test_a_condition_on_a_conditional_parameter_holds_only_where_that_exists():
    searched = read(
        **{
            "train.lr": {"type": "choice", "values": [1e-3, 1e-4], "when": {"train.epochs": [1, 2]}},
            "train.epochs": {"type": "int", "low": 1, "high": 3, "when": {"strategy": "dmt"}},
            "strategy": {"type": "choice", "values": ["multi_task", "dmt"]},
        }
    )
    assert len(space.grid(searched)) == 1 + 2 * 2 + 1
    assert {tuple(point) for point in space.grid(searched)} == {
        ("strategy",),
        ("train.epochs", "strategy"),
        ("train.lr", "train.epochs", "strategy"),
    }


def test_a_point_is_completed_so_that_what_is_given_exists():
    searched = read(k=K, strategy={"type": "choice", "values": ["dmt", "multi_task"]}, shares=SHARES)
    assert space.complete(searched, {})["strategy"] == "multi_task"
    assert space.complete(searched, {"k": 0.25}) == {"k": 0.25, "strategy": "dmt"} | dict.fromkeys(SHARES["over"], 1 / 3)


def test_start_points_begin_with_zero_and_hold_none_twice():
    search = SearchConfig(start=["paper", {"k": 0.25}, {"k": "1/32"}], space=read(k=K))
    assert [p["k"] for p in space.start_points(search.space, starts.points(search))] == [
        0, 1 / 256, 1 / 64, 1 / 16, 1 / 4, 1, 1 / 32,
    ]  # fmt: skip


def test_a_part_of_a_simplex_and_weights_below_zero_are_no_point_of_it():
    searched = read(shares=SHARES)
    whole = dict(zip(SHARES["over"], (0.5, 0.25, 0.25), strict=True))
    assert space.misfits(searched, whole) == []
    part = dict(list(whole.items())[:2])
    assert space.misfits(searched, part) == list(part)
    assert space.misfits(searched, dict(zip(whole, (1.5, -0.5, 0.0), strict=True))) == list(whole)


def test_start_points_can_be_the_trials_of_an_earlier_run(tmp_path):
    (tmp_path / "trials.csv").write_text(
        "trial,state,k,strategy,train.epochs,specialist\n"
        "0,complete,0.5,dmt,2,0.1\n1,failed,0.25,dmt,2,\n2,complete,7,dmt,2,0.2\n3,complete,,multi_task,3,0.3\n"
    )
    searched = read(k=K, **{"strategy": EVERY["strategy"], "train.epochs": EVERY["train.epochs"]})
    found = starts.points(SearchConfig(start=[str(tmp_path)], space=searched))
    assert found == [
        {"k": 0.5, "strategy": "dmt", "train.epochs": 2},
        {"strategy": "multi_task", "train.epochs": 3},
    ], "the failed one and the one outside the space are left out"


@pytest.mark.parametrize(
    ("search", "field", "said"),
    [
        ({"space": {"a": SHARES | {"over": ["sources.math.fraction", "name"]}}}, "search.space.a", "name'"),
        ({"space": {"a": SHARES | {"over": ["sources.math.fraction"]}}}, "search.space.a.over", "at least 2"),
        (
            {"space": {"a": SHARES, "sources.math.fraction": {"type": "uniform", "low": 0, "high": 1}}},
            "search.space.sources.math.fraction",
            "more than one parameter",
        ),
        ({"space": {"k": K | {"when": {"train.lr": 1}}}}, "search.space.k.when.train.lr", "is not searched"),
        (
            {"space": {"k": K | {"when": {"strategy": "sft"}}, "strategy": EVERY["strategy"]}},
            "search.space.k.when.strategy",
            "can take",
        ),
        (
            {
                "space": {
                    "train.lr": {"type": "choice", "values": [1e-3, 1e-4], "when": {"train.epochs": 1}},
                    "train.epochs": {"type": "choice", "values": [1, 2], "when": {"train.lr": 1e-3}},
                }
            },
            "search.space",
            "depend on each other",
        ),
        (
            {"space": {"k": K, "strategy": {"type": "choice", "values": ["dmt", "explicit"]}}},
            "search.space.strategy",
            "explicit",
        ),
        ({"space": {"train.lr": EVERY["train.lr"] | {"include_zero": True}}}, "search.space.train.lr", "greater than 0"),
        ({"space": {"k": K | {"low": 1}}}, "search.space.k.low", "must be below high"),
        ({"space": {"stages.0.train.lr": EVERY["train.lr"]}}, "search.space.stages.0.train.lr", "search one of"),
        ({"space": {"k": K}, "start": [{"k": 2}]}, "search.start", "k must be in search.space"),
        ({"space": {"k": K}, "start": ["nowhere"]}, "search.start", "no folder of a run"),
        ({"space": {"train.epochs": EVERY["train.epochs"]}, "start": ["paper"]}, "search.start", "k is not in"),
        ({"space": {"k": K}, "storage_env": "postgres://u:p@h/d"}, "search.storage_env", "Name of the environment variable"),
    ],
)
def test_what_is_wrong_with_a_search_is_named_before_anything_starts(search, field, said):
    assert said in problems({"sampler": "tpe", **search})[field]


def test_fields_of_single_stages_can_be_searched():
    stages = [{"mixture": {"math": 1, "chat": "1/2"}}, {"mixture": {"chat": 1}, "train": {"lr": 1e-4}}]
    search = {
        "sampler": "random",
        "space": {
            "stages.1.train.lr": EVERY["train.lr"],
            "stages.0.mixture.math": {"type": "uniform", "low": 0, "high": 1},
        },
    }
    values = SMALL | {"strategy": "explicit", "stages": stages, "search": search}
    trial = with_params(parse(values), {"stages.1.train.lr": 1e-3, "stages.0.mixture.math": 0.25})
    assert trial.stages[0].mixture == {"math": 0.25, "chat": 0.5} and trial.stages[1].train == {"lr": 1e-3}
    search["space"]["stages.1.train.lr"] = {"type": "uniform", "low": 0.5, "high": 5}
    with pytest.raises(ConfigError, match="less than or equal to 1"):
        parse(values)


WEIGHED = {"type": "simplex", "over": ["sources.math.weight", "sources.code.weight", "sources.chat.weight"]}


def test_the_weights_of_a_budget_are_searched_as_one_simplex():
    values = SMALL | {"data": {"total": 100}, "search": {"sampler": "random", "space": {"shares": WEIGHED, "k": K}}}
    searched = parse(values)
    point = space.drawn(searched.search.space, lambda name, d: d.low + 0.4 * (d.high - d.low))
    trial = with_params(searched, point)
    assert sum(source.weight for source in trial.sources.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("searched", "total", "field"),
    [
        ({"shares": WEIGHED}, None, "data.total"),
        ({"shares": WEIGHED | {"over": WEIGHED["over"][:2]}}, 100, "search.space.shares"),
        ({"sources.math.weight": {"type": "uniform", "low": 0, "high": 1}}, 100, "search.space.sources.math.weight"),
        ({"shares": WEIGHED | {"over": [*WEIGHED["over"], "sources.chat.fraction"]}}, 100, "search.space.shares"),
    ],
)
def test_weights_that_would_not_sum_to_one_are_refused(searched, total, field):
    found = problems({"sampler": "random", "space": searched}, data={"total": total})
    assert "weights" in found[field]


def test_a_searched_model_is_one_that_can_be_opened_from_everywhere(tmp_path):
    def searched(*values):
        return problems({"sampler": "random", "space": {"k": K, "model.path": {"type": "choice", "values": values}}})

    (tmp_path / "model").mkdir()
    assert not searched("toy", "owner/name", str(tmp_path / "model"))
    assert "absolute" in searched("toy", str(tmp_path / "other"))["search.space.model.path"]
    assert "absolute" in searched("toy", "tests")["search.space.model.path"]


def test_each_searched_model_has_stages_and_prepared_rows_of_its_own(tmp_path):
    from data.prepare import KIND as PREPARED
    from data.store import Store
    from run_folders import Quiet
    from sweeps import lineage
    from sweeps.inputs import prepare_sources
    from trainers import base

    toy = parse(SMALL)
    other = {"init_from_config": {"model_type": "llama", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
             "num_attention_heads": 2, "num_key_value_heads": 2}, "tokenizer": "bytes"}  # fmt: skip
    made = base.location(toy.model.model_validate(other), Store(str(tmp_path / "elsewhere")))
    space_of_two = {"k": K, "model.path": {"type": "choice", "values": ["toy", made]}}
    config = parse(SMALL | {"storage": str(tmp_path / "runs"), "search": {"sampler": "random", "space": space_of_two}})
    known = lineage.identities(config)
    prepare_sources(config, Quiet())
    paths = [lineage.lineage(with_params(config, {"k": 0.5, "model.path": path}), known) for path in ("toy", made)]
    plain = lineage.lineage(with_params(toy.model_copy(update={"storage": config.storage}), {"k": 0.5}), known)
    assert paths[0].keys == plain.keys
    assert not set(paths[0].keys) & set(paths[1].keys)
    store = Store(lineage.store_root(config))
    assert all(store.record(PREPARED, share.prepared) for path in paths for job in path.jobs for share in job.shares)
