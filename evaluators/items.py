"""Reading the items of a benchmark from a JSON-lines file or from the hub. Unlike training rows, every item must be good."""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from data.fingerprint import folder_digest
from data.sources import looks_like_hub_id, read_jsonl
from evaluators.benchmark import ItemsUnusable


def rows(path: str, limit: int | None, fields: Mapping[str, type], split: str = "test") -> list[dict[str, Any]]:
    """The first rows of a file, or of a hub id's split, each an object with these fields.

    Raises ItemsUnusable with the place and the field.
    """
    found: list[dict[str, Any]] = []
    try:
        for place, row in islice(_placed(path, split), limit):
            _check(place, row, fields)
            found.append(row)
    except (OSError, EOFError) as error:
        raise ItemsUnusable(f"{path}: cannot be read ({error})") from error
    if not found:
        raise ItemsUnusable(f"{path}: holds no item")
    return found


def named(path: str) -> str:
    """Names the content of a file by its bytes; a hub id stands for itself."""
    return folder_digest(Path(path)) if Path(path).exists() else f"hub:{path}"


def on_the_hub(path: str) -> bool:
    """Whether a path is no file here, but could be a hub id."""
    return not Path(path).exists() and looks_like_hub_id(path)


def _placed(path: str, split: str) -> Iterator[tuple[str, Any]]:
    if on_the_hub(path):
        return _hub(path, split)
    return ((f"{path}:{line}", row) for line, row in read_jsonl(Path(path)))


def _hub(path: str, split: str) -> Iterator[tuple[str, Any]]:
    import datasets  # slow to import, and only hub ids need it

    try:
        names = datasets.get_dataset_config_names(path)
        loaded = datasets.load_dataset(path, "main" if "main" in names else None, split=split)
    except Exception as error:  # the hub client raises many kinds
        raise ItemsUnusable(f"{path}: no such file, and split {split} is not to be had from the hub: {error}") from error
    return ((f"{path}:{split}:{i}", row) for i, row in enumerate(loaded, 1))


def _check(place: str, row: Any, fields: Mapping[str, type]) -> None:
    if not isinstance(row, dict):
        raise ItemsUnusable(f"{place}: not a JSON object ({row if isinstance(row, ValueError) else type(row).__name__})")
    for name, kind in fields.items():
        if not isinstance(row.get(name), kind):
            raise ItemsUnusable(f"{place}: field {name!r} must be {kind.__name__}, is {row.get(name)!r:.80}")
