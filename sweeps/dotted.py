"""Dotted paths into nested mappings: `train.lr` is the `lr` of `train`."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any


def with_value(values: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of nested mappings with one value set at a dotted path."""
    changed = deepcopy(dict(values))
    place = changed
    *parents, last = key.split(".")
    for name in parents:
        if not isinstance(place.get(name), dict):
            place[name] = {}
        place = place[name]
    place[last] = value
    return changed


def flat(values: Any, path: str = "") -> dict[str, Any]:
    """The values of nested mappings by their dotted paths."""
    if isinstance(values, Mapping) and values:
        return {k: v for name, value in values.items() for k, v in flat(value, f"{path}.{name}" if path else name).items()}
    return {path: values}
