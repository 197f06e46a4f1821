"""Judgments in the store: what was paid for once is not paid for again, by whichever trial.

A judgment is an entry without files: its record is the judgment, so reading or writing one touches one small file. Callers
of one process that ask for the same judgment at the same time wait for the one who asked first; failures are kept nowhere.
"""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from threading import Lock

from data.store import Record, Store

KIND = "judgments"
_flights: dict[tuple[str, str], "Future[None]"] = {}
_lock = Lock()


class Judgments:
    """The judgments of a store, or none where there is no store."""

    def __init__(self, store: Store | None) -> None:
        self._store = store

    async def once(self, key: str, make: Callable[[], Awaitable[Record]]) -> tuple[Record, bool]:
        """The judgment of a key, and whether it was there already. Raises what `make` raises."""
        if self._store is None:
            return await make(), False
        while (found := await asyncio.to_thread(self._store.record, KIND, key)) is None:
            flight, mine = self._join(key)
            if mine:
                return await self._fly(self._store, key, flight, make)
            await asyncio.wrap_future(flight)  # then it is in the store, or it failed and somebody has to ask again
        return found, True

    async def _fly(
        self, store: Store, key: str, flight: "Future[None]", make: Callable[[], Awaitable[Record]]
    ) -> tuple[Record, bool]:
        try:
            landed = await asyncio.to_thread(store.record, KIND, key)  # between the first look and this flight, another one
            if landed is not None:
                return landed, True
            record = await make()
            await asyncio.to_thread(store.publish, KIND, key, store.attempt(), record, {})
            return record, False
        finally:
            with _lock:
                del _flights[store.root, key]
            flight.set_result(None)

    def _join(self, key: str) -> tuple["Future[None]", bool]:
        assert self._store is not None
        with _lock:
            flight = _flights.get((self._store.root, key))
            if flight is not None:
                return flight, False
            flight = _flights[self._store.root, key] = Future()
            flight.set_running_or_notify_cancel()  # who waits for it may be cancelled; the flight is not
            return flight, True
