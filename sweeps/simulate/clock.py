"""An event loop whose time is virtual: where a real loop would sleep, this one sets its clock forward."""

import asyncio
import selectors
from collections.abc import Coroutine
from math import inf, nextafter
from typing import Any


class _NoWaiting(selectors.SelectSelector):
    """Polls, and instead of waiting moves the clock of the loop that it belongs to.

    The clock goes a hair beyond: after half a year a float cannot tell a moment from one a nanosecond later, which the loop
    needs to see that a timer is due.
    """

    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("the simulation waits for something that will never happen")
        if not ready and timeout:
            self.loop.now = nextafter(self.loop.now + timeout, inf)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Starts at a given time, in seconds."""

    def __init__(self, start: float = 0.0) -> None:
        selector = _NoWaiting()
        selector.loop = self
        self.now = start
        super().__init__(selector)

    def time(self) -> float:
        return self.now


def run(work: Coroutine[Any, Any, Any], loop: VirtualLoop) -> Any:
    """The result of some work in virtual time."""
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(work)
