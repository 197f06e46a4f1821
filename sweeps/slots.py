"""Places on the devices of a cluster."""

import asyncio


class Slots(asyncio.Semaphore):
    """A semaphore that knows whether somebody waits, so that who stays warm in a place can leave it.

    `stir` is set when something changes for those who stay: a place is wanted, or there is work.
    """

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count
        self.stir = asyncio.Event()
        self._wanted = 0
        self._leaving = 0

    async def acquire(self) -> bool:  # type: ignore[override]
        """Wait for a place as one who needs it."""
        self._wanted += 1
        self.stir.set()
        try:
            return await self.acquire_quietly()
        finally:
            self._wanted -= 1

    async def acquire_quietly(self) -> bool:
        """Wait for a place, but have nobody leave for it."""
        taken = await super().acquire()
        self._leaving = max(0, self._leaving - 1)
        return taken

    def leave(self) -> bool:
        """Whether somebody waits for whom nobody leaves yet; who is told so must release the place."""
        if self._wanted <= self._leaving:
            return False
        self._leaving += 1
        return True
