"""Recipes and stage keys: what is shared, what is not."""

import copy

import pytest

from data.config import SourceConfig, Total
from evaluators import evaluate
from sweeps.lineage import Identities, stages
from sweeps.loading import ConfigError, parse, with_params
from trainers.config import StageConfig, TrainConfig
from trainers.recipe import recipe

SOURCES = {
    name: SourceConfig(path=f"toy:{name}", format="messages", role=role, fraction=fraction)
    for name, role, fraction in [("math", "specialist", 0.5), ("code", "specialist", 1), ("chat", "general", 1)]
}
KNOWN = Identities("base", {"math": "m", "code": "c", "chat": "g"}, "items")


def mixtures(strategy, k=None, **more):
    return [dict(stage.mixture) for stage in recipe(strategy, SOURCES, TrainConfig(), k, **more)]


def test_the_strategies_of_the_paper():
    both, general = {"math": 0.5, "code": 1}, {"chat": 1}
    assert mixtures("multi_task") == [both | general]
    assert mixtures("sequential") == [{"code": 1}, {"math": 0.5}, general]
    assert mixtures("mixed_sequential") == [both, general]
    assert mixtures("dmt", 0.25) == [both, {"chat": 1, "math": 0.125, "code": 0.25}]


def test_dmt_without_replay_is_mixed_sequential():
    assert mixtures("dmt", 0) == mixtures("mixed_sequential")


def test_dmt_without_k_is_refused():
    with pytest.raises(ValueError, match="needs k"):
        mixtures("dmt")


def test_explicit_stages_take_the_fields_of_train_that_they_do_not_set():
    written = [StageConfig(mixture={"math": "1/4"}), StageConfig(mixture={"chat": 1}, train={"lr": 1e-3})]
    first, second = recipe("explicit", SOURCES, TrainConfig(epochs=7), stages=written)
    assert (first.mixture, first.train.epochs, second.train) == ({"math": 0.25}, 7, TrainConfig(epochs=7, lr=1e-3))


WEIGHTS = {"math": 0.5, "code": 0.25, "chat": 0.25}


def budgeted(strategy, total, k=None):
    """What each stage of a recipe takes of each source: fraction x budget, in the unit of the total."""
    sources = {name: source.model_copy(update={"weight": WEIGHTS[name], "fraction": 1.0}) for name, source in SOURCES.items()}
    stages = recipe(strategy, sources, TrainConfig(), k, total=total)
    return [{name: share * stage.draws[name].budget for name, share in stage.mixture.items()} for stage in stages]


def test_a_budget_is_spent_once_by_weight_and_replay_comes_on_top():
    total = Total(examples=1000)
    assert budgeted("multi_task", total) == [{"math": 500, "code": 250, "chat": 250}]
    assert budgeted("mixed_sequential", total) == [{"math": 500, "code": 250}, {"chat": 250}]
    assert budgeted("dmt", total, 1 / 4) == [{"math": 500, "code": 250}, {"chat": 250, "math": 125, "code": 62.5}]
    assert budgeted("dmt", Total(tokens=10_000), 0)[1] == {"chat": 2500}


def with_weights(small, total=1000, **weights):
    for name, weight in (WEIGHTS | weights).items():
        small["sources"][name]["weight"] = weight
    return small | {"data": {"total": total}}


def test_total_weight_and_sampling_are_in_the_key_of_a_stage(small):
    plain = keys(small)
    ways = [
        with_weights(copy.deepcopy(small)),
        with_weights(copy.deepcopy(small), 2000),
        with_weights(copy.deepcopy(small), {"tokens": 1000}),
        with_weights(copy.deepcopy(small), math=0.25, code=0.5),
        copy.deepcopy(small),
    ]
    ways[-1]["sources"]["math"]["sampling"] = "question"
    firsts = {plain[0], *(keys(values)[0] for values in ways)}
    assert len(firsts) == len(ways) + 1


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        ({"math": 0.6}, "data.total", "weights sum to 1.1 and not to 1; change sources.math.weight, sources.code.weight"),
        ({"math": None}, "sources.math.weight", "every source that is used needs one"),
        ({"math": "1/3"}, "data.total", "sum to 0.833333"),
    ],
)
def test_weights_that_do_not_sum_to_one_are_named(small, change, field, said):
    with pytest.raises(ConfigError) as caught:
        parse(with_weights(small, **change))
    (problem,) = caught.value.problems
    assert problem.field == field and said in str(problem)


def test_a_weight_without_a_total_and_a_total_of_two_kinds_are_refused(small):
    small["sources"]["math"]["weight"] = 1
    with pytest.raises(ConfigError, match=r"sources.math.weight = 1: needs data.total"):
        parse(small)
    with pytest.raises(ConfigError, match="either examples or tokens"):
        parse(with_weights(small, {"examples": 3, "tokens": 4}))


def test_a_source_that_no_stage_uses_has_no_part_in_the_total(small):
    small["sources"]["code"]["fraction"] = 0
    assert parse(with_weights(small, math=0.75, code=None)).data.total.examples == 1000


def keys(small, **params):
    return [stage.key for stage in stages(with_params(parse(small), {"k": 0.25} | params), KNOWN)]


def test_trials_share_their_first_stage_and_not_their_second(small):
    one, other = keys(small, k=0.25), keys(small, k=0.5)
    assert one[0] == other[0]
    assert one[1] != other[1]


@pytest.mark.parametrize(
    "params",
    [
        {"train.lr": 1e-4},
        {"train.seed": 1},
        {"train.batch_size": 8},
        {"train.epochs": 2},
        {"train.schedule": "linear"},
        {"train.max_length": 64},
        {"model.dtype": "bf16"},
        {"sources.math.fraction": 0.5},
    ],
    ids=str,
)
def test_what_changes_the_maths_changes_every_key(small, params):
    assert not set(keys(small)) & set(keys(small, **params))


@pytest.mark.parametrize(
    "params",
    [{"resources.workers": 4}, {"train.rows": 2}, {"train.packing": False}, {"train.deepspeed.zero": 3}, {"name": "other"}],
    ids=str,
)
def test_how_it_is_computed_changes_no_key(small, params):
    assert keys(small) == keys(small, **params)


def test_other_data_under_the_same_name_is_another_stage(small):
    other = Identities("base", {"math": "new", "code": "c", "chat": "g"}, "items")
    config = with_params(parse(small), {"k": 0.0})
    assert stages(config, KNOWN)[0].key != stages(config, other)[0].key


def test_the_order_in_which_sources_are_written_changes_nothing(small):
    from sweeps.lineage import lineage

    known = Identities("base", {"math": "m", "code": "c", "chat": "g"}, evaluate.identities(parse(small).evaluate))
    swapped = small | {"sources": dict(reversed(small["sources"].items()))}
    one, other = (lineage(with_params(parse(values), {"k": 0.5}), known).jobs for values in (small, swapped))
    assert one == other
