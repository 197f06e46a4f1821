"""What a sweep will cost, before it starts."""

from dataclasses import replace

import pytest

from data.store import Store
from run_folders import Quiet
from sweeps import costs, lineage, plan
from sweeps.inputs import prepare_sources
from sweeps.loading import parse, with_params
from trainers.job import KIND, RUNGS


@pytest.fixture
def planned(tmp_path, small):
    """From changes of the small sweep to its plan, with its sources prepared."""

    def make(prepared=True, **changes):
        config = parse(small | {"storage": str(tmp_path)} | changes)
        if prepared:
            prepare_sources(config, Quiet())
        return config, plan.plan(config)

    return make


def test_a_stage_is_planned_from_its_tokens_and_what_the_user_says_of_the_pool(planned):
    resources = {"workers": 4, "price": {"A100": 2.0, "cpu": 9.0}}
    resources["pools"] = {"train": {"tokens_per_second": 100, "gpus_per_worker": 1, "accelerator": "A100"}}
    _, made = planned(resources=resources)
    tokens = sum(stage.tokens for stage in made.stages)
    assert tokens > 0
    assert made.device_hours == pytest.approx(tokens / 100 * 4 / 3600)
    assert made.cost == pytest.approx(made.device_hours * 2)
    assert made.head_mib > planned(resources={"workers": 0})[1].head_mib, "Train's processes lie on the head"


def test_what_was_measured_on_the_same_devices_at_the_same_length_is_believed_and_cached_stages_are_free(planned):
    config, before = planned()
    assert before.device_hours is None
    store, base = Store(lineage.store_root(config)), lineage.identities(config).base
    first = before.stages[0].key
    for key, pool, length in ((first, "cpu", 128), ("x", "A100", 128), ("y", "cpu", 4096)):
        seconds = 5.0 if key == first else 1e6
        with store.writing(
            KIND, key, {"base": base, "pool": pool, "max_length": length, "tokens": 100, "device_seconds": seconds}
        ):
            pass
    _, made = planned()
    assert [stage.cached for stage in made.stages] == [True, False, False, False]
    assert made.device_hours == pytest.approx(sum(s.tokens for s in made.stages[1:]) * 0.05 / 3600)


def test_without_prepared_sources_the_cost_is_unknown(planned):
    _, made = planned(prepared=False, resources={"pools": {"train": {"tokens_per_second": 100}}})
    assert made.device_hours is None and made.cost is None


def test_shared_stages_are_counted_once_and_a_sampler_is_planned_at_the_middle_of_its_space(planned):
    _, made = planned(prepared=False)
    assert (made.trials, len(made.stages), made.unshared_stages, made.exact) == (3, 4, 6, True)
    space = {"k": {"type": "loguniform", "low": "1/256", "high": 1, "include_zero": True}}
    _, made = planned(prepared=False, search={"sampler": "tpe", "trials": 5, "space": space})
    assert (made.trials, len(made.stages), made.exact) == (5, 3, False)
    assert made.stages[-1].trials == 4 and made.stages[-1].mixture["math"] == pytest.approx(1 / 16)


def test_what_is_left_of_a_stage_counts_from_its_last_rung(tmp_path, small):
    config = parse(small | {"storage": str(tmp_path)})
    prepare_sources(config, Quiet())
    store, known = Store(lineage.store_root(config)), lineage.identities(config)
    job = lineage.lineage(with_params(config, {"k": 0.5}), known).jobs[-1]
    whole = costs.stage_tokens(job, store)
    assert costs.tokens_left(job, store) == whole
    assert costs.tokens_left(replace(job, until=0.25), store) == pytest.approx(whole / 4, abs=1)
    with store.writing(RUNGS, replace(job, until=0.25).end, {}):
        pass
    assert costs.tokens_left(job, store) == pytest.approx(whole * 3 / 4, abs=1)
    assert costs.tokens_left(replace(job, until=0.5), store) == pytest.approx(whole / 4, abs=1)
