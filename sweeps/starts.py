"""Start points of a search: parameters, the paper's values of k, and the trials of earlier runs."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data.fraction import parse_fraction
from sweeps import scales, space
from sweeps.config import SearchConfig
from sweeps.scales import Params
from sweeps.space import Space

PAPER = "paper"


class StartUnusable(ValueError):
    """An entry of `search.start` that names no point of the space."""


def points(search: SearchConfig) -> list[Params]:
    """The points that `search.start` names, in order. Raises StartUnusable."""
    return [point for entry in search.start for point in _points(search.space, entry)]


def _points(searched: Space, entry: Mapping[str, Any] | str) -> list[Params]:
    if not isinstance(entry, str):
        wrong = space.misfits(searched, entry)
        if wrong:
            raise StartUnusable(f"{dict(entry)}: {', '.join(wrong)} must be in search.space, with a value that it allows")
        return [dict(entry)]
    if entry == PAPER:
        return _paper(searched)
    return _of_a_run(searched, entry)


def _paper(searched: Space) -> list[Params]:
    if "k" not in searched:
        raise StartUnusable("paper names values of k, and k is not in search.space")
    return [{"k": k} for k in space.PAPER_K if scales.fits(searched["k"], [k])]


def _of_a_run(searched: Space, entry: str) -> list[Params]:
    path = Path(entry) / "trials.csv" if Path(entry).is_dir() else Path(entry)
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, ValueError) as error:
        raise StartUnusable(f"{entry} is no folder of a run and no trials.csv ({type(error).__name__}); paper is") from error
    complete = [row for row in rows if row.get("state", "complete") == "complete"]
    found = [point for row in complete if (point := _point(searched, row)) and not space.misfits(searched, point)]
    if not found:
        raise StartUnusable(
            f"{path} has no complete trial inside search.space; it needs columns {list(space.columns(searched))}"
        )
    return found


def _point(searched: Space, row: Mapping[str, str]) -> Params:
    """The values of a row of text. A cell may be empty where the trial does not have the parameter."""
    cells = {path: row[path] for path in space.columns(searched) if row.get(path)}
    return {path: _value(searched, path, text) for path, text in cells.items()}


def _value(searched: Space, path: str, text: str) -> Any:
    """The value that a cell stands for: of several readings the one that the parameter takes, else the text."""
    parameter = space.columns(searched)[path]
    if path not in searched:
        return float(text)
    return next((value for value in _readings(text) if scales.fits(parameter, [value])), text)


def _readings(text: str) -> Iterator[Any]:
    yield text
    if text in ("true", "false"):
        yield text == "true"
    for kind in (int, float):
        try:
            yield kind(parse_fraction(text))
        except ValueError:
            continue
