"""The judge: what is asked again, what is given up, what is kept, and where the key never is."""

import asyncio
import io
import json
import logging
import pickle
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_server import KEY, MODEL, JudgeServer, rating_of
from pydantic import ValidationError

from data.store import Store
from evaluators.benchmark import EvaluationFailed
from evaluators.judge.cache import Judgments
from evaluators.judge.client import Endpoint, same_model
from evaluators.judge.config import JudgeConfig
from evaluators.judge.panel import Panel
from evaluators.judge.reply import JudgeUnusable
from evaluators.judge.waits import LONGEST_S, Waits

PRICE = {"prompt": 30, "completion": 60}


class Slept:
    """A clock that only sleeping moves."""

    def __init__(self):
        self.pauses, self.time = [], time.time()

    async def sleep(self, seconds):
        self.pauses.append(seconds)
        self.time += seconds
        await asyncio.sleep(0)

    def waits(self):
        return Waits(self.sleep, lambda: self.time, lambda: 1.0)


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("TEST_JUDGE_KEY", KEY)


def config(server, **fields):
    return JudgeConfig(base_url=server.url, model=MODEL, key_env="TEST_JUDGE_KEY", price=PRICE, **fields)


def prompts(count):
    return [[{"role": "user", "content": f"Rate answer {i}"}] for i in range(count)]


def panel(server, store=None, slept=None, **fields):
    made = config(server, **fields)
    return Panel(made, store, lambda: Endpoint(made, (slept or Slept()).waits()))


def first(*manners):
    """These manners for the first requests with the same messages, then ratings."""
    return lambda n, asked: manners[asked] if asked < len(manners) else "rate"


@pytest.mark.parametrize(
    ("manner", "pauses"),
    [
        ("slow_down", [7.0]), ("broken", [1.0]), ("reset", [1.0]), ("garbage", [1.0]), ("no_choice", [1.0]), ("html", [1.0]),
        ("nothing", []), ("no_rating", []), ("eleven", []),
    ],
)  # fmt: skip
def test_a_passing_fault_is_asked_again_once_after_the_right_pause(manner, pauses):
    slept = Slept()
    with JudgeServer(first(manner)) as server:
        [rating] = panel(server, slept=slept).rate(prompts(1))
    assert rating.value == rating_of(prompts(1)[0])
    assert list(server.asked.values()) == [2]
    assert slept.pauses == pauses


def test_retry_after_may_be_a_date():
    slept = Slept()
    with JudgeServer(first("slow_down_until")) as server:
        panel(server, slept=slept).rate(prompts(1))
    assert 28 < slept.pauses[0] <= 31


def test_a_reply_that_drips_is_given_up_after_the_timeout_and_asked_again():
    with JudgeServer(first("drip")) as server:
        [rating] = panel(server, timeout=0.4).rate(prompts(1))
    assert rating.value == rating_of(prompts(1)[0])
    assert list(server.asked.values()) == [2]
    assert 0.2 < server.times[1] - server.times[0] < 10


def test_of_two_ratings_the_last_counts():
    with JudgeServer(lambda n, asked: "two_ratings") as server:
        assert panel(server).rate(prompts(1))[0].value == 4


@pytest.mark.parametrize("manner", ["no_rating", "eleven", "nothing"])
def test_a_reply_without_a_rating_is_asked_for_again_once_and_then_fails(manner, tmp_path):
    store = Store(str(tmp_path))
    with JudgeServer(lambda n, asked: manner) as server:
        with pytest.raises(EvaluationFailed, match="1 of 1 judgments are missing: no rating from 1 to 10") as failed:
            panel(server, store).rate(prompts(1))
        assert list(server.asked.values()) == [2]
    assert failed.value.cost == {
        "calls": 2, "cached": 0, "prompt_tokens": 200, "completion_tokens": 20, "usd": pytest.approx(0.0072),
    }  # fmt: skip
    assert store.records("judgments") == []


@pytest.mark.parametrize(
    ("manner", "told"),
    [
        ("other_model", "answered as 'another-model'; give judge.model"),
        ("unknown_key", "Error code: 401"),
        ("no_quota", "exceeded your current quota"),
    ],
)
def test_what_no_retry_cures_ends_at_once_and_says_why(manner, told):
    with JudgeServer(lambda n, asked: manner) as server:
        with pytest.raises(EvaluationFailed, match=told) as failed:
            panel(server, concurrency=4).rate(prompts(40))
        assert sum(server.asked.values()) <= 8
    assert KEY not in str(failed.value)


def test_a_call_that_is_refused_for_itself_costs_the_others_nothing_and_them_no_retry(tmp_path):
    store = Store(str(tmp_path))
    refused = json.dumps(prompts(10)[3])
    with JudgeServer() as server:
        server.behave = lambda n, asked: "too_long" if json.dumps(server.bodies[-1]["messages"]) == refused else "rate"
        with pytest.raises(EvaluationFailed, match=r"1 of 10 judgments are missing: Error code: 400 - .*context length"):
            panel(server, store).rate(prompts(10))
        server.behave = lambda n, asked: "rate"
        assert len(panel(server, store).rate(prompts(10))) == 10
        assert set(server.answered.values()) == {1}
        assert server.asked[refused] == 2


def test_an_endpoint_that_is_down_is_given_up_after_the_patience_of_one_call():
    slept = Slept()
    with JudgeServer(lambda n, asked: "broken") as server:
        with pytest.raises(EvaluationFailed, match="is down: Error code: 500 - out of memory, 3 times"):
            panel(server, slept=slept, concurrency=5, retries=2).rate(prompts(100))
        assert sum(server.asked.values()) <= 20
    assert slept.pauses[0] == 1.0
    assert set(slept.pauses) == {1.0, 2.0}


def test_nobody_at_the_address_is_told_as_such():
    with JudgeServer() as server:
        pass
    with pytest.raises(EvaluationFailed, match=r"is down: connection failed \(ConnectError\)"):
        panel(server, retries=1).rate(prompts(2))


def test_the_deadline_fails_the_evaluation_and_keeps_what_was_judged(tmp_path):
    store = Store(str(tmp_path))
    with JudgeServer(lambda n, asked: "rate" if n < 3 else "drip") as server:
        with pytest.raises(EvaluationFailed, match=r"5 of 8 judgments are missing: not there within judge.deadline = 1 s"):
            panel(server, store, deadline=1, concurrency=8).rate(prompts(8))
        server.behave = lambda n, asked: "rate"
        assert len(panel(server, store).rate(prompts(8))) == 8
        assert set(server.answered.values()) == {1}


def test_parameters_that_a_model_refuses_are_left_out_from_then_on():
    with JudgeServer(lambda n, asked: "no_temperature") as server:
        panel(server, concurrency=1).rate(prompts(5))
    assert len(server.bodies) == 7
    assert [sorted(body) for body in server.bodies[2:]] == [["max_completion_tokens", "messages", "model"]] * 5


def test_with_a_fifth_of_faults_all_160_are_judged_and_none_is_asked_more_often_than_needed():
    faults = ("slow_down", "broken", "reset", "garbage", "no_choice", "no_rating", "eleven", "nothing", "html")
    with JudgeServer(lambda n, asked: faults[n // 5 % len(faults)] if n % 5 == 2 and not asked else "rate") as server:
        found = panel(server).rate(prompts(160))
    assert [rating.value for rating in found] == [rating_of(prompt) for prompt in prompts(160)]
    assert set(server.answered.values()) == {1}
    faulty = sum(n - 1 for n in server.asked.values())
    assert 20 < faulty < 45
    assert len(server.bodies) == 160 + faulty


def test_what_was_judged_once_is_not_paid_for_again(tmp_path):
    with JudgeServer() as server:
        first = panel(server, Store(str(tmp_path))).rate(prompts(5))
        again = panel(server, Store(str(tmp_path))).rate(prompts(6))
        assert sum(server.asked.values()) == 6
    assert [r.value for r in again[:5]] == [r.value for r in first]
    assert [r.cost.cached for r in again] == [1] * 5 + [0]
    assert [r.cost.calls for r in again] == [0] * 5 + [1]


def test_a_hundred_trials_that_say_the_same_at_once_pay_once(tmp_path):
    with JudgeServer(latency=0.3) as server, ThreadPoolExecutor(100) as pool:
        together = threading.Barrier(100)

        def trial(_):
            together.wait()
            return panel(server, Store(str(tmp_path))).rate(prompts(2))

        found = list(pool.map(trial, range(100)))
        assert list(server.asked.values()) == [1, 1]
    assert len({tuple(r.value for r in ratings) for ratings in found}) == 1
    assert sum(r.cost.calls for ratings in found for r in ratings) == 2


def test_who_waits_for_another_trial_asks_itself_when_that_one_fails(tmp_path):
    store = Store(str(tmp_path))
    with JudgeServer(lambda n, asked: "drip" if n == 0 else "rate") as server, ThreadPoolExecutor(2) as pool:
        hasty = pool.submit(panel(server, store, deadline=0.5).rate, prompts(1))
        while not server.bodies:
            time.sleep(0.01)
        patient = pool.submit(panel(server, store).rate, prompts(1))
        with pytest.raises(EvaluationFailed, match=r"judge.deadline"):
            hasty.result(20)
        assert patient.result(20)[0].value == rating_of(prompts(1)[0])


@pytest.mark.parametrize("change", [{"temperature": 0.5}, {"max_tokens": 99}, {"fastchat_compat": True}, {"model": "judge-2"}])
def test_another_judge_does_not_take_the_judgments_of_the_first(tmp_path, change):
    with JudgeServer() as server:
        panel(server, Store(str(tmp_path))).rate(prompts(1))
        made = config(server).model_copy(update=change)
        Panel(made, Store(str(tmp_path)), lambda: Endpoint(made, Slept().waits())).rate(prompts(1))
        assert len(server.bodies) == 2


def test_replicates_are_asked_for_one_by_one_and_give_their_median(tmp_path):
    said = iter(["two_ratings", "rate", "rate"])
    with JudgeServer(lambda n, asked: next(said)) as server:
        [rating] = panel(server, Store(str(tmp_path)), replicates=3).rate(prompts(1))
        assert len(server.bodies) == 3
    assert sorted(rating.replicates) == sorted([4, rating_of(prompts(1)[0]), rating_of(prompts(1)[0])])
    assert rating.value == rating_of(prompts(1)[0])
    assert rating.cost.calls == 3


def test_a_judgment_that_lands_between_the_look_and_the_call_is_not_paid_for_again(tmp_path):
    class JustBefore(Store):
        looks = 0

        def record(self, kind, key):
            self.looks += 1
            return super().record(kind, key) if self.looks > 1 else None

    store = JustBefore(str(tmp_path))
    store.publish("judgments", "k", store.attempt(), {"rating": 5}, {})

    async def make():
        raise AssertionError("asked again")

    found, cached = asyncio.run(Judgments(store).once("k", make))
    assert (found["rating"], cached) == (5, True)


def test_a_service_that_moves_to_another_model_in_between_is_refused(tmp_path):
    store = Store(str(tmp_path))
    with JudgeServer() as server:
        panel(server, store).rate(prompts(2))
        server.behave = lambda n, asked: "newer_model"
        with pytest.raises(EvaluationFailed, match="answered as judge-1-0613 and as judge-1-0613-0806; name one of them"):
            panel(server, store).rate(prompts(3))


def test_a_dated_name_is_the_same_model_and_a_longer_one_is_not():
    assert same_model("gpt-4", "gpt-4-0613")
    assert same_model("gpt-4o", "gpt-4o-2024-08-06")
    assert not same_model("gpt-4", "gpt-4-turbo")
    assert not same_model("gpt-4", "gpt-4o")
    assert not same_model("gpt-4-0613", "gpt-4")


def test_the_key_is_sent_and_stands_nowhere_else(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    store, told = Store(str(tmp_path)), []
    manners = ("rate", "echo_the_key", "broken", "reset", "slow_down", "garbage")
    with JudgeServer(lambda n, asked: manners[n % len(manners)]) as server:
        judge = panel(server, store)
        found = judge.rate(prompts(12))
        for manner in ("unknown_key", "other_model", "too_long", "no_rating", "broken", "reset", "garbage"):
            server.behave = lambda n, asked, manner=manner: manner
            try:
                panel(server, store, retries=1).rate([[{"role": "user", "content": manner}]])
            except EvaluationFailed as error:
                out = io.StringIO()
                traceback.print_exception(error, file=out, chain=True)
                kept = traceback.TracebackException.from_exception(error, capture_locals=True)
                chain = [error.__cause__, error.__context__]
                told += [
                    repr(error),
                    out.getvalue(),
                    "".join(kept.format()),
                    repr(pickle.dumps(error)),
                    repr(chain),
                    repr(vars(error)),
                ]
        assert server.keys == {f"Bearer {KEY}"}
    told += [repr(found), repr(config(server)), repr(pickle.dumps(config(server))), caplog.text]
    told += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len([t for t in told if "judge" in t]) > 10
    assert "[key]" in "".join(told)
    assert KEY not in "".join(told)


def test_a_key_that_is_not_there_ends_before_anything_is_asked(monkeypatch):
    monkeypatch.delenv("TEST_JUDGE_KEY")
    with JudgeServer() as server:
        with pytest.raises(JudgeUnusable, match=r"judge.key_env = 'TEST_JUDGE_KEY': no such variable is set"):
            panel(server).rate(prompts(1))
        assert not server.bodies


def test_a_key_for_another_service_is_never_sent(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with JudgeServer() as server:
        made = config(server).model_copy(update={"key_env": None})
        Panel(made, None).rate(prompts(1))
    assert server.keys == {"Bearer none"}


@pytest.mark.parametrize(
    "fields",
    [
        {"base_url": "https://me:secret@host/v1", "model": "m"}, {"base_url": "https://host/v1?key=1", "model": "m"},
        {"base_url": "host", "model": "m"}, {"base_url": "https://host/v1"}, {"model": "m"}, {},
        {"path": "x", "model": "m"}, {"base_url": "https://host/v1", "model": "m", "key_env": "sk-123"},
    ],
)  # fmt: skip
def test_a_judge_without_a_place_or_with_a_secret_in_it_is_refused(fields):
    with pytest.raises(ValidationError):
        JudgeConfig(**fields)


@given(st.integers(0, 30), st.floats(0, 1), st.none() | st.floats(0, 1000))
def test_pauses_grow_to_a_limit_and_are_never_shorter_than_asked_for(attempt, chance, asked):
    pause = Waits(chance=lambda: chance).pause(attempt, asked)
    assert min(LONGEST_S, 2**attempt) / 2 <= max(pause, LONGEST_S / 2 if attempt > 6 else 0)
    assert (asked or 0) <= pause <= max(LONGEST_S, asked or 0)


@pytest.mark.parametrize("text", ["", "soon", "Wed, 99 Nov 2026 00:00:00 GMT", "nan nan"])
def test_a_retry_after_that_cannot_be_read_is_none(text):
    assert Waits().retry_after({"retry-after": text}) is None
