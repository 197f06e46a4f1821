"""Who may hold devices: a queue in front of each pool. Pure bookkeeping, no Ray.

A pool admits as many tasks as its nodes have room for, or as many as its `slots` say, for a cluster that grows on demand.
Pools draw on the same nodes, so that what all of them hold must fit as well. First come, first served: who waits for
devices holds up those behind, so that a large stage is not starved by small evaluations.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import floor

from trainers.config import PoolName, ResourcesConfig

Resources = Mapping[str, float]
LOOK_EVERY_S = 1.0


class NoRoom(RuntimeError):
    """The cluster had no node for a task for as long as the user wanted to wait."""


@dataclass(frozen=True)
class Shape:
    """What one task of a pool holds: a number of equal bundles, each on one node. `slots` overrides what the nodes hold."""

    bundle: Resources
    bundles: int = 1
    slots: int | None = None

    def fits(self, nodes: Sequence[Resources]) -> int:
        """How many tasks of this shape the nodes hold, when nothing else runs there."""
        return sum(self._on(node) for node in nodes) // self.bundles

    def capacity(self, nodes: Sequence[Resources]) -> int:
        """How many tasks may run at once."""
        return self.fits(nodes) if self.slots is None else self.slots

    def _on(self, node: Resources) -> int:
        asked = [(name, amount) for name, amount in self.bundle.items() if amount]
        return min((floor(node.get(name, 0.0) / amount + 1e-9) for name, amount in asked), default=0)


def shape(resources: ResourcesConfig, name: PoolName) -> Shape:
    """What a task of a pool holds: all workers of a stage, one worker's devices for an evaluation."""
    pool = resources.pool(name)
    bundle = {"CPU": pool.cpus_per_worker, "GPU": pool.gpus_per_worker}
    if pool.accelerator:
        bundle[f"accelerator_type:{pool.accelerator}"] = 0.001
    slots = resources.pools[name].slots if name in resources.pools else None
    return Shape(bundle, max(1, pool.workers) if name == "train" else 1, slots)


@dataclass
class Waiting:
    """A place in the queue. One that is `quiet` waits for work to come, and nobody need leave a slot for it."""

    pool: str
    quiet: bool = False
    turn: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Admission:
    """Admits tasks to pools. Lives in one event loop. `stir` is set when somebody waits, for those who hold a slot idly."""

    def __init__(self, shapes: Mapping[str, Shape], nodes: Sequence[Resources] = ()) -> None:
        self._shapes = shapes
        self._nodes = nodes
        self._queue: list[Waiting] = []
        self._running = dict.fromkeys(shapes, 0)
        self.stir = asyncio.Event()

    async def acquire(self, pool: str, patience_s: float | None = None, quiet: bool = False) -> None:
        """Wait for a slot of a pool. Raises NoRoom when for so long not one task of the pool fits the nodes."""
        place = Waiting(pool, quiet)
        self._queue.append(place)
        self._admit()
        if place in self._queue and not quiet:
            self.stir.set()
        try:
            await self._turn(place, patience_s)
        except BaseException:
            if place not in self._queue:
                self._running[pool] -= 1
            else:
                self._queue.remove(place)
            self._admit()
            raise

    def release(self, pool: str) -> None:
        """Give a slot back."""
        self._running[pool] -= 1
        self._admit()

    @asynccontextmanager
    async def slot(self, pool: str, patience_s: float | None = None) -> AsyncIterator[None]:
        """A slot of a pool while the block runs; see `acquire`."""
        await self.acquire(pool, patience_s)
        try:
            yield
        finally:
            self.release(pool)

    def wanted(self) -> bool:
        """Whether somebody waits for whom an idle holder of a slot should leave it."""
        return any(not place.quiet for place in self._queue)

    def resize(self, nodes: Sequence[Resources]) -> None:
        """Nodes have come or gone."""
        self._nodes = nodes
        self._admit()

    def lacking(self) -> dict[str, str]:
        """Why tasks wait where the nodes have no room for a single one, by pool."""
        return {
            pool: f"{self.waiting(pool)} wait for {shape.bundles} x {dict(shape.bundle)}, and the cluster has no such nodes"
            for pool, shape in self._shapes.items()
            if self.waiting(pool) and not self.capacity(pool)
        }

    def capacity(self, pool: str) -> int:
        """How many tasks of a pool may run at once."""
        return self._shapes[pool].capacity(self._nodes)

    def running(self, pool: str) -> int:
        return self._running[pool]

    def waiting(self, pool: str) -> int:
        return sum(place.pool == pool for place in self._queue)

    async def _turn(self, place: Waiting, patience_s: float | None) -> None:
        lacking_since: float | None = None
        while not (await asyncio.wait([place.turn], timeout=LOOK_EVERY_S))[0]:
            if self.capacity(place.pool):
                lacking_since = None
                continue
            lacking_since = lacking_since or asyncio.get_running_loop().time()
            if patience_s is not None and asyncio.get_running_loop().time() - lacking_since >= patience_s:
                raise NoRoom(f"{self.lacking()[place.pool]}; resources.wait_minutes is over")

    def _admit(self) -> None:
        for place in list(self._queue):
            if self._running[place.pool] >= self.capacity(place.pool):
                continue  # waits for its own kind, and holds up nobody else
            if not self._room(place.pool):
                return
            self._queue.remove(place)
            self._running[place.pool] += 1
            place.turn.set_result(None)

    def _room(self, pool: str) -> bool:
        """Whether a task more fits beside those that run, by the sums over all nodes."""
        shape = self._shapes[pool]
        if shape.slots is not None:
            return True
        for name, amount in shape.bundle.items():
            held = sum(n * self._shapes[p].bundle.get(name, 0.0) * self._shapes[p].bundles for p, n in self._running.items())
            if held + amount * shape.bundles > sum(node.get(name, 0.0) for node in self._nodes) + 1e-9:
                return False
        return True


class Slots:
    """The slots of one pool, for those who stay in one between two tasks."""

    def __init__(self, room: Admission, pool: str, patience_s: float | None = None) -> None:
        """Who waits for a slot longer than `patience_s`, on a cluster without a place for one, gets NoRoom."""
        self._room = room
        self._pool = pool
        self._patience_s = patience_s
        self._leaving = False
        self.stir = room.stir

    @property
    def count(self) -> int:
        """How many there are; one where there are none yet, so that somebody waits for it."""
        return max(1, self._room.capacity(self._pool))

    async def acquire_quietly(self) -> None:
        """Wait for a slot, but have nobody leave one for it."""
        await self._room.acquire(self._pool, self._patience_s, quiet=True)

    def release(self) -> None:
        self._room.release(self._pool)
        self._leaving = False
        if self._room.wanted():
            self.stir.set()

    def leave(self) -> bool:
        """Whether somebody waits for whom nobody leaves yet; who is told so must release the slot. One leaves after the other,
        because who waits may need any number of them."""
        leave = not self._leaving and self._room.wanted()
        self._leaving = self._leaving or leave
        return leave

    async def __aenter__(self) -> None:
        await self._room.acquire(self._pool, self._patience_s)

    async def __aexit__(self, *_: object) -> None:
        self.release()
