"""Admission to pools: a waiting stage is a queue entry, and nobody starves."""

import asyncio

import pytest

from sweeps.admission import Admission, NoRoom, Shape, Slots
from sweeps.simulate import clock

GPU8 = {"CPU": 64.0, "GPU": 8.0}
TRAIN, EVALUATE = Shape({"CPU": 1, "GPU": 1}, bundles=4), Shape({"CPU": 1, "GPU": 1})


def test_bundles_are_counted_by_node():
    shape = Shape({"GPU": 3}, bundles=2)
    assert shape.fits([GPU8]) == 1
    assert shape.fits([{"GPU": 5}, {"GPU": 5}]) == 1, "one bundle on each"
    assert shape.fits([{"GPU": 5}]) == 0
    assert Shape({"GPU": 0.2}).fits([{"GPU": 1}]) == 5


def log(room, order, name, pool, hold):
    async def task():
        async with room.slot(pool):
            order.append(name)
            await hold.wait()

    return asyncio.ensure_future(task())


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


def test_what_all_pools_hold_fits_and_the_first_who_waits_is_not_overtaken():
    async def scene():
        room, order, holds = Admission({"train": TRAIN, "evaluate": EVALUATE}, [GPU8]), [], [asyncio.Event() for _ in range(4)]
        tasks = [log(room, order, "a", "train", holds[0]), log(room, order, "e", "evaluate", holds[1])]
        tasks += [log(room, order, "b", "train", holds[2]), log(room, order, "f", "evaluate", holds[3])]
        await settle()
        assert order == ["a", "e"], "b lacks one GPU, and f may not take one before it"
        assert (room.waiting("train"), room.waiting("evaluate")) == (1, 1)
        holds[1].set()
        await settle()
        assert order == ["a", "e", "b"]
        holds[0].set()
        await settle()
        assert order == ["a", "e", "b", "f"]
        for hold in holds:
            hold.set()
        await asyncio.gather(*tasks)
        assert (room.running("train"), room.running("evaluate")) == (0, 0)

    asyncio.run(scene())


def test_a_full_pool_does_not_hold_up_another():
    async def scene():
        shapes = {"train": Shape({"GPU": 1}, slots=1), "evaluate": Shape({"CPU": 1})}
        room, order, hold = Admission(shapes, [{"CPU": 2.0}]), [], asyncio.Event()
        tasks = [log(room, order, n, p, hold) for n, p in (("a", "train"), ("b", "train"), ("e", "evaluate"))]
        await settle()
        assert order == ["a", "e"], "with slots the nodes may still be to come"
        hold.set()
        await asyncio.gather(*tasks)

    asyncio.run(scene())


def test_nodes_that_come_later_admit_who_waits():
    async def scene():
        room, order, hold = Admission({"train": TRAIN}), [], asyncio.Event()
        task = log(room, order, "a", "train", hold)
        await settle()
        assert order == [] and room.capacity("train") == 0
        room.resize([GPU8])
        await settle()
        assert order == ["a"]
        hold.set()
        await task

    asyncio.run(scene())


@pytest.mark.parametrize("when", ["waiting", "running"])
def test_who_is_cancelled_leaves_its_place(when):
    async def scene():
        room, order, hold = Admission({"train": Shape({"CPU": 1})}, [{"CPU": 1.0}]), [], asyncio.Event()
        first, second = log(room, order, "a", "train", hold), log(room, order, "b", "train", hold)
        await settle()
        (second if when == "waiting" else first).cancel()
        await settle()
        assert order == (["a"] if when == "waiting" else ["a", "b"])
        hold.set()
        await asyncio.gather(first, second, return_exceptions=True)
        assert room.running("train") == room.waiting("train") == 0

    asyncio.run(scene())


def test_who_is_cancelled_in_the_moment_of_its_admission_gives_the_slot_back():
    async def scene():
        room = Admission({"train": Shape({"CPU": 1})}, [{"CPU": 1.0}])
        await room.acquire("train")
        task = asyncio.ensure_future(room.acquire("train"))
        await settle()
        room.release("train")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert room.running("train") == 0

    asyncio.run(scene())


def test_those_behind_a_large_stage_are_admitted_when_it_is_cancelled():
    async def scene():
        room, order, hold = Admission({"train": TRAIN, "evaluate": EVALUATE}, [GPU8]), [], asyncio.Event()
        tasks = [
            log(room, order, n, p, hold) for n, p in (("e", "evaluate"), ("a", "train"), ("b", "train"), ("f", "evaluate"))
        ]
        await settle()
        assert order == ["e", "a"]
        tasks[2].cancel()
        await settle()
        assert order == ["e", "a", "f"]
        hold.set()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(scene())


def test_who_holds_a_slot_idly_is_told_that_it_is_wanted():
    async def scene():
        room = Admission({"train": Shape({"GPU": 1}), "evaluate": Shape({"GPU": 1})}, [{"GPU": 1.0}])
        await room.acquire("evaluate", quiet=True)
        another = asyncio.ensure_future(room.acquire("evaluate", quiet=True))
        await settle()
        assert not room.wanted() and not room.stir.is_set()
        stage = asyncio.ensure_future(room.acquire("train"))
        await settle()
        assert room.wanted() and room.stir.is_set()
        another.cancel()
        await settle()
        room.release("evaluate")
        await stage
        assert not room.wanted()

    asyncio.run(scene())


def test_idle_holders_leave_one_after_the_other_until_who_waits_is_served():
    async def scene():
        room = Admission({"train": Shape({"GPU": 1}, bundles=2), "evaluate": Shape({"GPU": 1})}, [{"GPU": 3.0}])
        slots = Slots(room, "evaluate")
        for _ in range(3):
            await slots.acquire_quietly()
        assert not slots.leave()
        stage = asyncio.ensure_future(room.acquire("train"))
        await settle()
        assert [slots.leave(), slots.leave()] == [True, False]
        room.stir.clear()
        slots.release()
        assert room.stir.is_set(), "the stage waits for a second one"
        assert slots.leave()
        slots.release()
        await stage
        assert not slots.leave()

    asyncio.run(scene())


def test_a_wait_for_nodes_that_do_not_come_ends_when_that_was_asked_for():
    async def scene():
        room = Admission({"train": TRAIN}, [{"CPU": 64.0}])
        with pytest.raises(NoRoom, match=r"1 wait for 4 x \{'CPU': 1, 'GPU': 1\}, and the cluster has no such nodes"):
            await room.acquire("train", patience_s=0)
        assert room.waiting("train") == 0

    asyncio.run(scene())


def test_the_wait_for_nodes_begins_again_when_there_were_some():
    async def scene():
        room, began = Admission({"train": Shape({"CPU": 1})}, [{"CPU": 1.0}]), asyncio.get_running_loop().time()
        await room.acquire("train")
        waits = asyncio.ensure_future(room.acquire("train", patience_s=10))
        for nodes in ([], [{"CPU": 1.0}], []):
            room.resize(nodes)
            await asyncio.sleep(6)
        with pytest.raises(NoRoom):
            await waits
        assert 22 <= asyncio.get_running_loop().time() - began <= 24

    clock.run(scene(), clock.VirtualLoop())
