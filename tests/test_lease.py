"""Leases on stages: another run's training is waited for as long as that run lives, and no longer."""

import json
import threading
import time
from dataclasses import asdict, replace

import pytest

from data.store import Store
from sweeps import holder, lease
from sweeps.holder import myself
from sweeps.lease import leased, outcome

FILE = f"{lease.FOLDER}/stages-k.json"


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(holder, "PATIENCE_S", 1.0)
    return Store(str(tmp_path))


def held_by(store, **other):
    """Another holder's lease on the stage `k`."""
    store.folder.write(FILE, json.dumps(asdict(replace(myself("theirs"), **other))).encode())


def publish(store):
    with store.writing("stages", "k", {"tokens": 7}):
        pass


def asked(store, owner="mine"):
    with leased(store, "stages", "k", owner) as mine:
        return mine


def test_a_lease_is_there_while_the_block_runs_whatever_ends_it(store):
    with pytest.raises(RuntimeError, match="failed"), leased(store, "stages", "k", "mine") as mine:
        assert mine and holder.read(store.folder, FILE).owner == "mine"
        assert not asked(store, "theirs")
        assert holder.read(store.folder, FILE).owner == "mine", "who was refused took nothing away"
        raise RuntimeError("failed")
    assert holder.read(store.folder, FILE) is None


def test_another_key_is_free(store):
    held_by(store)
    with leased(store, "stages", "other", "mine") as mine:
        assert mine


@pytest.mark.parametrize(
    ("theirs", "free"),
    [({}, False), ({"owner": "mine"}, True), ({"started": 1.0}, True), ({"host": "elsewhere"}, False)],
    ids=["alive", "of the same run", "dead", "elsewhere"],
)
def test_who_may_take_a_lease_that_is_there(store, theirs, free):
    held_by(store, **theirs)
    assert asked(store) == free


def test_of_two_that_ask_at_once_one_gets_it(store):
    got, start = [], threading.Barrier(2)

    def ask(owner):
        start.wait()
        with leased(store, "stages", "k", owner) as mine:
            got.append(mine)
            time.sleep(1)

    both = [threading.Thread(target=ask, args=(owner,)) for owner in ("one", "other")]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert sorted(got) == [False, True]


def test_what_another_run_publishes_is_waited_for(store):
    held_by(store)
    threading.Timer(0.3, publish, (store,)).start()
    assert outcome(store, "stages", "k", lambda: store.record("stages", "k"))["tokens"] == 7


def test_what_another_run_gave_back_unfinished_is_nobodys(store):
    held_by(store)
    threading.Timer(0.3, store.folder.remove, (FILE,)).start()
    assert outcome(store, "stages", "k", lambda: store.record("stages", "k")) is None


@pytest.mark.parametrize("theirs", [{"started": 1.0}, {"host": "elsewhere"}], ids=["dead", "at rest elsewhere"])
def test_a_lease_that_nobody_keeps_is_removed(store, theirs):
    held_by(store, **theirs)
    assert outcome(store, "stages", "k", lambda: store.record("stages", "k")) is None
    assert asked(store), "nothing is in the way any more"


def test_a_lease_elsewhere_that_moves_is_waited_for(store):
    held_by(store, host="elsewhere")
    began, over = time.monotonic(), threading.Event()

    def beat():
        while not over.wait(0.1):
            held_by(store, host="elsewhere", counter=int(time.monotonic() * 1000))
            if time.monotonic() - began > 2.5:
                return publish(store)

    threading.Thread(target=beat).start()
    try:
        assert outcome(store, "stages", "k", lambda: store.record("stages", "k"))["tokens"] == 7
    finally:
        over.set()
