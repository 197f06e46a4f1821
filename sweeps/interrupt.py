"""Ctrl-C and SIGTERM: the first ends what runs in order, the second kills."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

KILLED = 130
_asked = False


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and Ctrl-C raise KeyboardInterrupt in the block, and end the process at once when they come again.

    Where a shell told this process to ignore Ctrl-C, it is ignored.
    """
    global _asked
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if before[signal.SIGTERM] is not _interrupt:
        _asked = False
    for number, handler in before.items():
        if handler is not signal.SIG_IGN or number == signal.SIGTERM:
            signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: Any) -> None:
    global _asked
    if _asked:
        os.write(2, b"\nkilled; what is left of a Ray started here ends by itself in a moment\n")
        os._exit(KILLED)
    _asked = True
    raise KeyboardInterrupt
