"""Small talk among the workers of a stage: every worker has to take part in each."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

Made = TypeVar("Made")


def from_first(make: Callable[[], Made]) -> Made:
    """What the first worker makes, on all workers."""
    made: list[Any] = [make() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(made, src=0)
    return made[0]


def told_by_all(mine: Made) -> list[Made]:
    """What each worker says, in the order of the workers."""
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, mine)
    return told


def first_of_machine() -> bool:
    """Whether this worker does what is done once on a machine. Launchers number the workers of each one."""
    return beside()[0] == 0


def beside() -> tuple[int, int]:
    """This worker's number on its machine, and how many there are."""
    return int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
