"""A generation actor that is killed in the middle loses the chunk it works on and nothing else."""

import asyncio
import os
from contextlib import suppress
from dataclasses import replace

import psutil
import pytest
import yaml

from data.checkpoints import in_store
from data.store import Store
from evaluators.entries import EVALUATIONS, GENERATIONS, evaluate_here
from run_folders import wait_for
from sweeps import lineage
from sweeps.config import SweepConfig

pytestmark = pytest.mark.cluster
ITEMS, BATCH = 80, 4


@pytest.fixture(scope="module")
def slow_to_say(finished, tmp_path_factory):
    """The first trial's order for a benchmark in ten chunks, each of some hundred long answers; in a store of its own."""
    folder, _ = finished
    values = yaml.safe_load((folder.parents[1] / "small.yaml").read_text())
    values["storage"] = str(folder.parent)
    values["evaluate"]["toy_math"] |= {"limit": ITEMS, "max_new_tokens": 200}
    values["evaluate"]["batch_size"] = BATCH
    config = SweepConfig.model_validate(values | {"k": 0})
    [order, _] = lineage.lineage(config, lineage.identities(config)).orders
    assert len(order.chunks) == 10
    return order


@pytest.fixture(scope="module")
def ray():
    import ray

    os.environ["RAY_AUTH_MODE"] = "disabled"
    environment = {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), "OMP_NUM_THREADS": "1"}
    how = {"runtime_env": {"env_vars": environment}, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(address="local", num_cpus=2, num_gpus=1, **how)
    yield ray
    ray.shutdown()
    del os.environ["RAY_AUTH_MODE"]


def actors() -> list[psutil.Process]:
    """The processes of this test's generation actors that are at work."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a zombie is one of these
            if process.cmdline()[:1] == ["ray::Generation.generate"]:
                found.append(process)
    return found


def slots(count: int):
    """A pool with places for so many, whatever the machine has."""
    from sweeps.admission import Admission, Shape, Slots

    return Slots(Admission({"evaluate": Shape({"CPU": 1}, slots=count)}), "evaluate")


async def evaluated(order, kills: int, after: float):
    """The record of an order, and the bill, while actors are killed at work, each after some CPU seconds."""
    from sweeps.budget import Bill
    from sweeps.generators import Generators
    from trainers.config import ResourcesConfig

    generators, bill = Generators(slots(2), ResourcesConfig()), Bill()
    making = asyncio.ensure_future(generators.evaluate(order, False, bill))
    killed: set[int] = set()
    while len(killed) < kills and not making.done():
        await asyncio.sleep(0.05)
        fresh = [p for p in actors() if p.pid not in killed]
        for process in fresh[:1]:
            with suppress(psutil.NoSuchProcess):
                if process.cpu_times().user > after:
                    process.kill()
                    killed.add(process.pid)
    record = await making
    await generators.close()
    return record, bill, killed


def test_only_the_chunk_in_flight_is_lost_and_the_scores_are_those_of_an_undisturbed_evaluation(ray, slow_to_say, tmp_path):
    store = Store(slow_to_say.store)
    checkpoint = in_store(store, "stages", slow_to_say.stage)
    alone = Store(str(tmp_path))
    config = slow_to_say.config.model_copy(update={"toy_chat": None})
    undisturbed = evaluate_here(checkpoint, slow_to_say.stage, config, alone)["toy_math"]
    record, bill, killed = asyncio.run(evaluated(slow_to_say, 1, after=4))  # by then it has loaded what it needs
    assert len(killed) == 1
    assert bill.lost == 1
    assert store.record(GENERATIONS, slow_to_say.generation)["lost"] == 1
    assert record["scores"] == undisturbed["scores"]
    answers = [s.fetch(GENERATIONS, slow_to_say.generation) / "answers.jsonl" for s in (store, alone)]
    assert answers[0].read_text() == answers[1].read_text()
    assert record["device_seconds"] > 0
    wait_for(lambda: not actors(), 30, "the end of the actors")


def test_an_actor_stays_warm_and_gives_its_gpu_to_who_waits(ray, slow_to_say):
    from sweeps.budget import Bill
    from sweeps.generators import Generators
    from trainers.config import ResourcesConfig

    def small(key):
        return replace(slow_to_say, generation=key * 32, evaluation=key * 32, count=BATCH, config=config)

    def busy():
        return ray.cluster_resources()["GPU"] - ray.available_resources().get("GPU", 0)

    toy = slow_to_say.config.toy_math.model_copy(update={"limit": BATCH, "max_new_tokens": 4})
    config = slow_to_say.config.model_copy(update={"toy_math": toy})

    async def watched():
        place = slots(1)
        generators = Generators(place, ResourcesConfig(gpus_per_worker=1))
        bills = [Bill(), Bill()]
        for key, bill in zip("ab", bills, strict=True):
            await generators.evaluate(small(key), False, bill)
        assert bills[1].seconds < bills[0].seconds / 2  # nothing was started or loaded again
        assert busy() == 1
        async with place:  # as a stage that waits for its devices
            await asyncio.to_thread(wait_for, lambda: busy() == 0, 30, "the GPU")
        await generators.close()

    asyncio.run(watched())


def test_a_chunk_that_kills_every_actor_fails_the_evaluation_after_three(ray, slow_to_say):
    from ray.exceptions import RayActorError

    order = replace(slow_to_say, generation="f" * 32, evaluation="e" * 32, count=1)
    with pytest.raises(RayActorError):
        asyncio.run(evaluated(order, 9, after=0))
    assert Store(order.store).record(EVALUATIONS, order.evaluation) is None
