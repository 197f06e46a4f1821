"""A function over many tasks in several processes: results in the order of the tasks, few of them held at a time."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def in_order(function: Callable[[Task], Result], tasks: Iterable[Task], processes: int) -> Iterator[Result]:
    """Results of `function` for each task, in order. Tasks and results must be picklable. One process is this very one.

    The processes are forks: they share what the function holds, a tokenizer say, with this one, and need no import of the
    program that they belong to. So the function may use nothing that threads of this process have locked: no torch, no Ray.
    """
    if processes <= 1:
        yield from map(function, tasks)
        return
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), _begin, (function,))
    running: deque[Future[Any]] = deque()
    try:
        for task in tasks:
            running.append(pool.submit(_apply, task))
            if len(running) >= 2 * processes:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


_function: Callable[[Any], Any]


def _begin(function: Callable[[Any], Any]) -> None:
    global _function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that people started
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there are as many processes as cores, and no threads after a fork
    _function = function


def _apply(task: Any) -> Any:
    return _function(task)
