"""Reading the items of a benchmark from a JSON-lines file. Unlike training rows, every item must be good."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.sources import read_jsonl
from evaluators.benchmark import ItemsUnusable


def rows(path: str, limit: int | None, fields: Mapping[str, type]) -> list[dict[str, Any]]:
    """The first rows of a file, each an object with these fields. Raises ItemsUnusable with the place and the field."""
    found: list[dict[str, Any]] = []
    try:
        for line, row in read_jsonl(Path(path)):
            if len(found) == limit:
                break
            _check(f"{path}:{line}", row, fields)
            found.append(row)
    except (OSError, EOFError) as error:
        raise ItemsUnusable(f"{path}: cannot be read ({error})") from error
    if not found:
        raise ItemsUnusable(f"{path}: holds no item")
    return found


def _check(place: str, row: Any, fields: Mapping[str, type]) -> None:
    if not isinstance(row, dict):
        raise ItemsUnusable(f"{place}: not a JSON object ({row if isinstance(row, ValueError) else type(row).__name__})")
    for name, kind in fields.items():
        if not isinstance(row.get(name), kind):
            raise ItemsUnusable(f"{place}: field {name!r} must be {kind.__name__}, is {row.get(name)!r:.80}")
