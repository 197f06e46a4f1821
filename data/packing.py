"""Best-fit packing of examples into rows of bounded length."""

from bisect import bisect_left, insort
from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Positions of the examples that share a row; best fit, longest first, so that few slots stay empty.

    Every example must fit: a length above `capacity` raises ValueError. Equal input gives equal rows on every rank.
    """
    if lengths and max(lengths) > capacity:
        raise ValueError(f"an example of {max(lengths)} tokens does not fit into rows of {capacity}")
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free slots, row), sorted: the tightest row that fits is the first not below
    for position in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        found = bisect_left(room, (lengths[position], -1))
        free, row = room.pop(found) if found < len(room) else (capacity, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(position)
        insort(room, (free - lengths[position], row))
    return rows
