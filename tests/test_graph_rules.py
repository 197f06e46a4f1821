"""The rules of the stage graph, in virtual time, on machines that fail, hang and do not hear as they are told to.

What these rules come to on Ray is tested in test_graph.py.
"""

import asyncio
from dataclasses import dataclass, field

import pytest

from conftest import SMALL
from data.store import Damaged
from sweeps import graph as graphs
from sweeps import lineage
from sweeps.budget import Spent, spent
from sweeps.config import BudgetConfig
from sweeps.failures import Failed
from sweeps.graph import Graph
from sweeps.loading import parse, with_params
from sweeps.simulate import clock
from sweeps.terms import Known, Stopped, Terms

STAGE_S = 100.0
NODES = [{"CPU": 2.0}]
NOTHING_SPENT = Spent()
GOES_WRONG = Failed("went wrong", again=True)
IS_WRONG = Failed("is wrong", again=False)
NODE_LOST = Failed("the node has died", again=True, lost=True)


@dataclass
class Machines:
    """The outside of a graph. Every stage takes 100 s on one device, if nothing else is said."""

    ends: dict = field(default_factory=dict)
    """How the tries of a stage end, by key: an error, or seconds; those that are not named end well."""
    hears: str = "request"
    """What ends a stage before its time: `request`, `interrupt`, or only `kill`."""
    graph: Graph = None
    begun: list = field(default_factory=list)
    cancelled: list = field(default_factory=list)
    judging: int = 0

    def train(self, job, pool):
        self.begun.append(job.end)
        return asyncio.ensure_future(self._train(job))

    async def _train(self, job):
        end = self.ends[job.end].pop(0) if self.ends.get(job.end) else STAGE_S
        for second in range(int(STAGE_S if isinstance(end, Exception) else end)):
            asked = await self.graph.progress(job.end, {"step": second, "steps": 100})
            if asked and self.hears == "request":
                return {"stopped": second}
            await asyncio.sleep(1)
        if isinstance(end, Exception):
            raise end
        return {"device_seconds": float(end), "tokens": 1000, "base": job.base, "pool": "cpu", "max_length": 128}

    async def trained(self, running):
        try:
            return dict(await asyncio.shield(running))
        except asyncio.CancelledError:
            if running.cancelled():
                return {"stopped": None}
            raise

    async def evaluate(self, order, generated, bill):
        await asyncio.sleep(10)
        bill.seconds += 10
        return {"scores": {order.name: {"value": 0.5}}, "device_seconds": 10.0}

    def cancel(self, running, force):
        self.cancelled.append((asyncio.get_running_loop().time(), force))
        if self.hears == "interrupt" or force:
            running.cancel()

    def failure(self, error):
        return error


async def follow(graph, nodes, before, ledger):
    """What a driver does while a sweep runs: it writes down what is new, and tells what that has cost."""
    life = ""
    while True:
        news = await graph.news(life, len(ledger), nodes, before + spent(ledger))
        life = news.life
        ledger += news.events
        await asyncio.sleep(1)


def scene(play, machines=None, *, before=NOTHING_SPENT, nodes=NODES, driven=True, **terms):
    """Play a scene with a graph in virtual time; what happened."""
    config = parse(SMALL | {"resources": {"workers": 0, "retries": 2} | terms.pop("resources", {})})
    machines = machines or Machines()

    async def played():
        told = Terms("small", config.resources, terms.pop("budget", BudgetConfig()), **terms)
        machines.graph = graph = Graph(told, nodes, before, lambda slots: machines)
        driver = asyncio.ensure_future(follow(graph, nodes, before, []) if driven else asyncio.sleep(0))
        await play(graph, lambda k: lineage.lineage(with_params(config, {"k": k}), lineage.identities(config)))
        driver.cancel()
        return (await graph.news("", 0, nodes, before)).events

    return clock.run(played(), clock.VirtualLoop()), machines


def of(events, *names):
    return [event["event"] for event in events if event["event"] in names]


def key_of(k, number):
    config = parse(SMALL)
    return lineage.lineage(with_params(config, {"k": k}), lineage.identities(config)).keys[number]


FIRST = key_of(0, 0)
NOTHING = Known({}, {})


def wanted(graph, path, trial=0):
    return asyncio.ensure_future(graph.want_stages(trial, path, NOTHING))


async def all_of(graph, paths):
    return await asyncio.gather(*(wanted(graph, path, trial) for trial, path in enumerate(paths)), return_exceptions=True)


def test_each_stage_is_trained_once_and_charged_to_the_first_who_asked():
    async def play(graph, path):
        await all_of(graph, [path(0), path(0.5), path(0.5)])

    events, machines = scene(play)
    assert sorted(machines.begun) == sorted({key_of(0, 0), key_of(0, 1), key_of(0.5, 1)})
    assert [e["trial"] for e in events if e["event"] == "stage_finished" and e["key"] == FIRST] == [0]


@pytest.mark.parametrize(("end", "tries"), [(GOES_WRONG, 3), (IS_WRONG, 1)], ids=["by chance", "for good"])
def test_a_stage_is_tried_as_often_as_retries_say_and_then_never_again(end, tries):
    async def play(graph, path):
        for trial, k in enumerate((0, 0.5)):
            with pytest.raises(Failed, match="wrong"):
                await wanted(graph, path(k), trial)

    events, machines = scene(play, Machines({FIRST: [end] * 9}))
    assert machines.begun == [FIRST] * tries
    charged = [e["device_seconds"] for e in events if e["event"] == "stage_failed"]
    assert charged == pytest.approx([STAGE_S] * tries)


def test_lost_nodes_are_no_failures_up_to_a_limit():
    async def play(graph, path):
        await wanted(graph, path(0))

    _, machines = scene(play, Machines({FIRST: [NODE_LOST] * graphs.NODES_LOST}), resources={"retries": 0})
    assert machines.begun.count(FIRST) == graphs.NODES_LOST + 1

    async def too_often(graph, path):
        with pytest.raises(Failed, match="node has died"):
            await wanted(graph, path(0))

    scene(too_often, Machines({FIRST: [NODE_LOST] * (graphs.NODES_LOST + 1)}), resources={"retries": 0})


def test_a_parent_that_is_damaged_is_made_again_for_who_asks_again():
    async def play(graph, path):
        with pytest.raises(Damaged):
            await wanted(graph, path(0))
        await wanted(graph, path(0))

    _, machines = scene(play, Machines({key_of(0, 1): [Damaged("stages", FIRST, "altered")]}))
    assert machines.begun == [FIRST, key_of(0, 1), FIRST, key_of(0, 1)]


GRACE_S = 20.0
HEARD = {"request": [], "interrupt": [(70.0, False)], "kill": [(70.0, False), (90.0, True)]}


@pytest.mark.parametrize("hears", HEARD)
def test_what_no_trial_needs_is_asked_to_stop_then_interrupted_then_killed(hears):
    async def play(graph, path):
        both = wanted(graph, path(0)), wanted(graph, path(0), 1)
        await asyncio.sleep(40)
        await graph.leave(0)
        await asyncio.sleep(10)
        assert graph._running, "trial 1 needs it"
        await graph.leave(1)
        await asyncio.sleep(GRACE_S * 3)
        assert not graph._running
        await asyncio.gather(*both, return_exceptions=True)

    events, machines = scene(play, Machines({FIRST: [500]}, hears), grace_s=GRACE_S)
    assert [(round(at, 6), force) for at, force in machines.cancelled] == HEARD[hears]
    assert of(events, "stage_started", "stage_stopped", "stage_finished") == ["stage_started", "stage_stopped"]


def test_a_stage_that_waits_for_a_slot_is_forgotten_when_nobody_needs_it():
    async def play(graph, path):
        first = wanted(graph, path(0))
        await asyncio.sleep(STAGE_S + 1)  # all further stages wait for the one device
        second = wanted(graph, path(0.5), 1)
        await asyncio.sleep(1)
        await graph.leave(1)
        await asyncio.gather(first, second, return_exceptions=True)

    _, machines = scene(play, nodes=[{"CPU": 1.0}])
    assert machines.begun == [key_of(0, 0), key_of(0, 1)]


def test_who_comes_while_a_stage_is_being_stopped_has_it_made_again():
    async def play(graph, path):
        first = wanted(graph, path(0))
        await asyncio.sleep(40)
        await graph.leave(0)
        await wanted(graph, path(0), 1)
        await asyncio.gather(first, return_exceptions=True)

    _, machines = scene(play)
    assert machines.begun == [FIRST, FIRST, key_of(0, 1)]


def test_at_its_limit_a_running_stage_stops_and_nothing_begins():
    async def play(graph, path):
        ended = await all_of(graph, [path(0), path(0.5)])
        assert all(isinstance(error, Stopped) and "budget.device_hours" in str(error) for error in ended)

    events, machines = scene(play, budget=BudgetConfig(device_hours=(STAGE_S + 30) / 3600))
    assert machines.begun[0] == FIRST and of(events, "stage_finished") == ["stage_finished"]
    assert STAGE_S + 30 <= spent(events).device_seconds <= STAGE_S + 33


def test_what_was_spent_before_counts_and_what_the_ledger_tells_is_not_counted_twice():
    async def play(graph, path):
        with pytest.raises(Stopped):
            await wanted(graph, path(0))

    events, _ = scene(play, budget=BudgetConfig(device_hours=1), before=Spent(3600.0 - 50))
    assert of(events, "stage_started", "stage_stopped") == ["stage_started", "stage_stopped"]

    async def more(graph, path):
        await all_of(graph, [path(0), path(0.5)])

    events, _ = scene(more, budget=BudgetConfig(device_hours=3.5 * STAGE_S / 3600))
    assert of(events, "stage_finished") == ["stage_finished"] * 3


def test_a_stage_whose_plan_does_not_fit_is_not_begun():
    async def play(graph, path):
        with pytest.raises(Stopped, match="the next stage needs about"):
            await graph.want_stages(0, path(0), Known({}, {FIRST: 1000}))

    measured = [
        {
            "base": lineage.identities(parse(SMALL)).base,
            "tokens": 1000,
            "device_seconds": 200.0,
            "pool": "cpu",
            "max_length": 128,
        }
    ]
    events, machines = scene(play, budget=BudgetConfig(device_hours=150 / 3600), measured=measured)
    assert machines.begun == [] and events == []


def test_what_the_sweep_has_measured_itself_is_what_it_plans_with():
    async def play(graph, path):
        with pytest.raises(Stopped, match="the next stage needs about"):
            await graph.want_stages(0, path(0), Known({}, {FIRST: 1000, key_of(0, 1): 2000}))

    _, machines = scene(play, budget=BudgetConfig(device_hours=250 / 3600))
    assert machines.begun == [FIRST]


def test_money_is_spent_at_the_price_of_the_devices():
    async def play(graph, path):
        with pytest.raises(Stopped, match=r"budget\.usd"):
            await wanted(graph, path(0))

    events, _ = scene(play, budget=BudgetConfig(usd=1.3), resources={"workers": 0, "price": {"cpu": 36.0}})
    assert 1.3 <= spent(events).usd < 1.35


def test_a_stage_at_its_limit_is_given_its_grace_once():
    async def play(graph, path):
        with pytest.raises(Stopped):
            await wanted(graph, path(0))

    budget = BudgetConfig(device_hours=30 / 3600)
    _, machines = scene(play, Machines({FIRST: [500]}, "kill"), budget=budget, grace_s=GRACE_S)
    assert [force for _, force in machines.cancelled] == [False, True]


def test_a_trial_that_dies_takes_nothing_from_the_others():
    async def play(graph, path):
        first, second = wanted(graph, path(0)), wanted(graph, path(0), 1)
        await asyncio.sleep(40)
        first.cancel()
        await second

    _, machines = scene(play)
    assert machines.begun == [FIRST, key_of(0, 1)]


def test_nodes_that_the_driver_tells_of_are_used():
    async def play(graph, path):
        trial = wanted(graph, path(0))
        await asyncio.sleep(50)
        assert not graph._running
        await graph.news("", 0, NODES, NOTHING_SPENT)
        await asyncio.sleep(1)
        assert graph._running
        await graph.leave(0)
        await asyncio.gather(trial, return_exceptions=True)

    scene(play, nodes=[])


@pytest.mark.parametrize("looks", [True, False], ids=["seen", "not seen"])
def test_what_the_driver_has_not_yet_written_down_is_spent_all_the_same(looks):
    async def play(graph, path):
        await wanted(graph, path(0))
        if looks:
            await graph.news("", 0, NODES, NOTHING_SPENT)
        with pytest.raises(Stopped):
            await wanted(graph, path(0.5), 1)

    _, machines = scene(play, driven=False, budget=BudgetConfig(device_hours=2 * STAGE_S / 3600))
    assert machines.begun == [FIRST, key_of(0, 1)]
