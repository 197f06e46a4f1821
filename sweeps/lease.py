"""Leases on stages: two sweeps on one storage do not train the same stage at the same time.

Only an optimisation. A lease that was lost, or that two took at once, costs a training and never a result: an entry of the
store is published whole, whoever makes it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from data.store import Record, Store
from sweeps import holder
from sweeps.holder import Beat

FOLDER = ".leases"
LOOK_EVERY_S = 2.0


@contextmanager
def leased(store: Store, kind: str, key: str, owner: str) -> Iterator[bool]:
    """A lease while the block runs; false where another live run holds it. `owner` names the run that asks.

    Its own leases a run takes over at once: what held them is gone when it asks again.
    """
    name = f"{FOLDER}/{kind}-{key}.json"
    current = holder.read(store.folder, name)
    if current and current.owner != owner and not (holder.here(current) and not holder.alive(current)):
        yield False
        return
    beat = Beat(store.folder, name, owner)
    if beat.take():  # another was faster
        yield False
        return
    try:
        yield True
    finally:
        beat.release()


def outcome(store: Store, kind: str, key: str, made: Callable[[], Record | None]) -> Record | None:
    """The record of what another run is making, once `made` finds it; None when its lease is dead, and then removed."""
    name = f"{FOLDER}/{kind}-{key}.json"
    while True:
        current = holder.read(store.folder, name)
        record = made()
        if record or current is None:
            return record
        if holder.here(current) and not holder.alive(current):
            store.folder.remove(name)
            return None
        if not holder.here(current) and holder.watch(store.folder, name, current) is None:
            store.folder.remove(name)
            return made()
        time.sleep(LOOK_EVERY_S)
