"""Dotted paths into nested mappings and lists: `train.lr` is the `lr` of `train`, `stages.0.train` that of the first stage."""

from collections.abc import Mapping, Sequence
from typing import Any


def with_value(values: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of nested mappings with one value set at a dotted path."""
    return _with(values, key.split("."), value)


def _with(values: Any, path: Sequence[str], value: Any) -> Any:
    if not path:
        return value
    name, *rest = path
    if isinstance(values, list | tuple) and name.isdigit() and int(name) < len(values):
        return [_with(inner, rest, value) if i == int(name) else inner for i, inner in enumerate(values)]
    inside = values if isinstance(values, Mapping) else {}
    return {**inside, name: _with(inside.get(name), rest, value)}


def mapping_at(values: Mapping[str, Any], *path: str) -> dict[str, Any]:
    """The mapping at a path, {} where there is none."""
    for name in path:
        values = values.get(name) if isinstance(values, Mapping) else {}  # type: ignore[assignment]
    return dict(values) if isinstance(values, Mapping) else {}


def flat(values: Any, path: str = "") -> dict[str, Any]:
    """The values of nested mappings by their dotted paths."""
    if isinstance(values, Mapping) and values:
        return {k: v for name, value in values.items() for k, v in flat(value, f"{path}.{name}" if path else name).items()}
    return {path: values}
