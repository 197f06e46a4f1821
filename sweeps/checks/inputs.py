"""What can be wrong with the model and the sources."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data import sources
from data.fraction import parse_fraction
from sweeps.checks.problem import Problem, Values, entries, is_file, is_model, is_there, stages_of
from sweeps.dotted import mapping_at


def model(values: Values) -> Iterator[Problem]:
    model = mapping_at(values, "model")
    path, fresh = model.get("path"), model.get("init_from_config")
    if not model or bool(path) == bool(fresh):
        yield Problem("model", model or "missing", "give either path (folder, hub id or toy) or init_from_config")
    if isinstance(fresh, Mapping) and not fresh.get("model_type"):
        yield Problem("model.init_from_config", dict(fresh), "add model_type, for example llama")
    if fresh and not model.get("tokenizer"):
        yield Problem("model.tokenizer", "missing", "give bytes, characters, a folder or a hub id with init_from_config")


def model_path(values: Values) -> Iterator[Problem]:
    path = mapping_at(values, "model").get("path")
    if isinstance(path, str) and not is_model(path):
        yield Problem("model.path", path, "no such folder; give one, a hub id (owner/name) or toy")
    searched = mapping_at(values, "search", "space", "model.path").get("values")
    for path in searched if isinstance(searched, list | tuple) else ():
        if not isinstance(path, str) or not is_model(path) or (is_there(path) and not Path(path).is_absolute()):
            remedy = "give the absolute path of a folder that is there, a hub id (owner/name) or toy"
            yield Problem("search.space.model.path", path, remedy)


def source_paths(values: Values) -> Iterator[Problem]:
    for name, source in entries(values, "sources").items():
        path = source.get("path")
        if not isinstance(path, str) or not path:
            continue
        if is_file(path) and sources.reader(Path(path)) is None:
            yield Problem(f"sources.{name}.path", path, "unknown kind of file; use json, jsonl, jsonl.gz, parquet or csv")
        elif not is_there(path) and not sources.exists(path):
            yield Problem(f"sources.{name}.path", path, "no such file or folder; give one, a hub id or toy:math|code|chat")


def weights(values: Values) -> Iterator[Problem]:
    """A budget is divided among the sources that are used; without one there is nothing to divide."""
    sources, total = entries(values, "sources"), mapping_at(values, "data").get("total")
    given = {name: source["weight"] for name, source in sources.items() if source.get("weight") is not None}
    if any(path.startswith("sources.") and path.endswith(".weight") for path in _searched(values)):
        if total is None:
            yield Problem("data.total", None, "is missing: the weights that are searched are shares of it")
        return  # they are checked with the space
    if total is None:
        for name, weight in given.items():
            yield Problem(f"sources.{name}.weight", weight, "needs data.total, which it is a share of")
        return
    used = used_sources(values)
    for name in used - given.keys():
        yield Problem(f"sources.{name}.weight", "missing", "with data.total every source that is used needs one")
    shares = {name: _share(weight) for name, weight in given.items() if name in used}
    if shares and not used - given.keys() and None not in shares.values() and abs(sum(shares.values()) - 1) > 1e-6:
        told = ", ".join(f"sources.{name}.weight" for name in shares)
        yield Problem("data.total", total, f"the weights sum to {sum(shares.values()):g} and not to 1; change {told}")


def _searched(values: Values) -> list[str]:
    """The paths that the search sets."""
    space = entries(values, "search", "space")
    over = {key: parameter.get("over", [key]) for key, parameter in space.items()}
    return [path for paths in over.values() if isinstance(paths, list | tuple) for path in paths if isinstance(path, str)]


def used_sources(values: Values) -> set[str]:
    """The sources that a stage may take rows from."""
    if stages := stages_of(values):
        return {name for stage in stages for name, share in mapping_at(stage, "mixture").items() if share not in (0, "0")}
    given = entries(values, "sources")
    return {name for name, source in given.items() if source.get("fraction", 1) not in (0, "0")}


def _share(weight: Any) -> Any:
    """A weight as a number, None where it is none; the field itself is then reported."""
    try:
        return float(parse_fraction(weight))
    except (TypeError, ValueError):
        return None
