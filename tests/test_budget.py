"""The budget's bookkeeping: what was spent, what is promised, and what a stage will cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import SMALL
from sweeps.budget import Bill, Budget, Job, Rates, Spent, spent, uncounted
from sweeps.config import BudgetConfig
from sweeps.loading import parse

HOUR = 3600.0


def event(name, seconds, **more):
    return {"event": name, "device_seconds": seconds, **more}


def test_everything_that_held_devices_counts_and_so_does_a_judge():
    events = [
        event("stage_finished", HOUR, price=2.0),
        event("stage_failed", HOUR / 2, price=2.0),
        event("stage_stopped", HOUR / 2, price=2.0),
        event("rung_finished", HOUR, price=1.0, cost={"usd": 0.25}),
        event("rung_failed", HOUR / 2, price=1.0),
        event("rung_stopped", HOUR / 2, price=1.0),
        event("stage_reused", 100 * HOUR),
        {"event": "trial_finished", "device_seconds": 100 * HOUR},
    ]
    assert spent(events) == Spent(4 * HOUR, 6.25)


@pytest.mark.parametrize(("planned", "starts"), [(HOUR, True), (1.1 * HOUR, False), (None, True)])
def test_no_stage_starts_whose_planned_cost_does_not_fit(planned, starts):
    budget = Budget(BudgetConfig(device_hours=3), Spent(HOUR))
    budget.running["other"] = Job(devices=1, price=0, planned=HOUR, started=0)
    assert (budget.refuses(Job(1, 0, planned, 0), now=10) is None) == starts


def test_what_runs_longer_than_it_was_planned_counts_as_long_as_it_runs():
    budget = Budget(BudgetConfig(device_hours=3))
    budget.running["late"] = Job(devices=1, price=0, planned=HOUR, started=0)
    assert budget.refuses(Job(1, 0, HOUR, 0), now=HOUR) is None
    assert budget.refuses(Job(1, 0, HOUR, 0), now=2.5 * HOUR)


def test_where_nothing_is_left_not_even_a_stage_of_unknown_cost_starts():
    assert Budget(BudgetConfig(device_hours=1), Spent(HOUR)).refuses(Job(1, 0, None, 0), now=0)
    assert Budget(BudgetConfig(device_hours=1), Spent(HOUR - 1)).refuses(Job(1, 0, None, 0), now=0) is None


def test_the_refusal_names_the_limit_what_is_used_and_what_is_needed():
    budget = Budget(BudgetConfig(usd=10), Spent(0, 9))
    said = budget.refuses(Job(devices=8, price=3, planned=HOUR, started=0), now=0)
    assert said == "budget.usd = 10: 9 are spent or promised, and the next stage needs about 3"


def test_what_has_no_price_is_told_with_the_field_that_gives_it_one(tmp_path):
    judge = {"base_url": "https://host/v1", "model": "m"}
    questions = tmp_path / "questions.jsonl"
    questions.touch()
    mt_bench = {"role": "general", "path": str(questions), "judge": judge}
    told = {
        "evaluate": SMALL["evaluate"] | {"mt_bench": mt_bench},
        "resources": {"accelerator": "A100", "gpus_per_worker": 1, "price": {"H100": 3}},
    }

    def fields(**more):
        return [said.split()[0] for said in uncounted(parse(SMALL | told | more))]

    both = ["resources.price.A100", "evaluate.mt_bench.judge.price"]
    assert fields() == []
    assert fields(budget={"usd": 5}) == both
    assert fields(budget={"usd": 5}, resources=told["resources"] | {"price": {"gpu": 2}}) == both[1:]
    judge["price"] = {"prompt": 1, "completion": 2}
    assert fields(budget={"usd": 5}) == both[:1]


def test_money_and_hours_are_limits_of_their_own():
    job = Job(devices=1, price=10, planned=HOUR, started=0)
    assert Budget(BudgetConfig(device_hours=2, usd=5)).refuses(job, 0).startswith("budget.usd")
    assert Budget(BudgetConfig(device_hours=0.5, usd=50)).refuses(job, 0).startswith("budget.device_hours")
    assert Budget(BudgetConfig()).refuses(job, 0) is None


def test_a_stage_of_unknown_cost_reaches_the_limit_while_it_runs():
    budget = Budget(BudgetConfig(device_hours=1))
    budget.running["a"] = Job(devices=4, price=0, planned=None, started=0)
    assert budget.reached(HOUR / 4 - 1) is None
    assert budget.reached(HOUR / 4 + 1).startswith("budget.device_hours = 1")


def test_an_evaluation_costs_what_stands_on_its_bills_also_while_it_runs():
    budget, bills = Budget(BudgetConfig(usd=3)), [Bill(), Bill()]
    job = budget.running["rung"] = Job(devices=0, price=2, planned=None, started=0, bills=bills)
    assert job.judging() is None
    bills[0].seconds = bills[1].seconds = HOUR / 4
    assert job.so_far(now=100 * HOUR) == Spent(HOUR / 2, 1.0)
    assert budget.reached(100 * HOUR) is None
    bills[1].judging.append({"calls": 1, "cached": 0, "prompt_tokens": 5, "completion_tokens": 5, "usd": 2.5})
    assert job.so_far(0) == Spent(HOUR / 2, 3.5)
    assert job.judging()["usd"] == 2.5
    assert budget.reached(0).startswith("budget.usd")


@given(st.lists(st.floats(1, 1e5), min_size=1, max_size=8), st.floats(1, 1e5))
def test_stages_that_were_admitted_by_their_plan_never_cost_more_than_the_limit(plans, limit):
    budget = Budget(BudgetConfig(device_hours=limit / HOUR))
    for number, planned in enumerate(plans):
        job = Job(1, 0, planned, started=0)
        if budget.refuses(job, now=0) is None:
            budget.running[str(number)] = job
    assert sum(job.planned for job in budget.running.values()) <= limit * (1 + 1e-9)


def test_a_rate_is_that_of_the_same_devices_and_length():
    rates = Rates([{"base": "b", "tokens": 100, "device_seconds": s, "pool": "A100", "max_length": 2048} for s in (1, 2, 30)])
    assert rates.device_seconds(1000, "b", "A100", 2048, devices=4) == pytest.approx(20)
    assert rates.device_seconds(1000, "b", "A100", 4096, devices=4) is None
    assert rates.device_seconds(1000, "b", "H100", 2048, devices=4) is None
    assert rates.device_seconds(None, "b", "A100", 2048, devices=4) is None


def test_what_was_measured_goes_before_what_was_written():
    rates = Rates([], written=50)
    assert rates.device_seconds(1000, "b", "gpu", 2048, devices=4) == pytest.approx(80)
    rates.learn({"base": "b", "tokens": 100, "device_seconds": 1, "pool": "gpu", "max_length": 2048})
    assert rates.device_seconds(1000, "b", "gpu", 2048, devices=4) == pytest.approx(10)
