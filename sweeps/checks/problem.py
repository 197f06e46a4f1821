"""What is wrong with a configuration, and reading raw values, in which anything may stand."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data import sources
from sweeps.dotted import mapping_at

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Problem:
    """One error: field, value and remedy."""

    field: str
    value: Any
    remedy: str

    def __str__(self) -> str:
        shown = {"": "", "missing": " is missing"}.get(self.value) if isinstance(self.value, str) else None
        return f"{self.field}{f' = {self.value!r}' if shown is None else shown}: {self.remedy}"


def entries(values: Values, *path: str) -> dict[str, dict[str, Any]]:
    """The mappings in the mapping at a path, by name."""
    return {str(name): dict(v) for name, v in mapping_at(values, *path).items() if isinstance(v, Mapping)}


def stages_of(values: Values) -> list[Any]:
    """The stages that are written out, [] where none can be read."""
    stages = values.get("stages")
    return list(stages) if isinstance(stages, list | tuple) else []


def is_file(path: str) -> bool:
    """Whether a file can be there: false, too, for what no file can be called."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def is_there(path: str) -> bool:
    """Whether a file or folder is there."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def is_model(path: str) -> bool:
    """Whether a base model can be there."""
    return path == "toy" or is_there(path) or sources.looks_like_hub_id(path)
