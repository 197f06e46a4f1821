"""How long to wait before a failed call is tried again."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

FIRST_S = 1.0
LONGEST_S = 60.0


@dataclass(frozen=True)
class Waits:
    """Pauses between attempts, with the clock and the chance that they depend on."""

    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    now: Callable[[], float] = time.time
    chance: Callable[[], float] = random.random

    def pause(self, attempt: int, asked: float | None) -> float:
        """Seconds after the given attempt, from 0: twice as long each time, between half and all of it, so that calls which
        failed together do not come back together. Never less than the service asked for."""
        grown = min(LONGEST_S, FIRST_S * 2**attempt) * (0.5 + 0.5 * self.chance())
        return max(grown, asked or 0.0)

    def retry_after(self, headers: Mapping[str, str]) -> float | None:
        """Seconds that a `Retry-After` header asks for, as a number or as an HTTP date; None without a readable one."""
        text = headers.get("retry-after", "").strip()
        try:
            return max(0.0, float(text))
        except ValueError:
            pass
        try:
            return max(0.0, parsedate_to_datetime(text).timestamp() - self.now())
        except (ValueError, TypeError, OverflowError):
            return None
