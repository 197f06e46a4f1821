"""What a published checkpoint is: a Hugging Face folder, or an adapter folder that names the base it belongs to.

An adapter folder holds peft's files, the tokenizer and `base.json`: `{"kind": "stages" | "bases", "key": ...}` for a base in
the same store, `{"path": ...}` for a folder or hub id outside. Paths differ between machines and store keys do not.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.store import Store

BASE = "base.json"
ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Checkpoint:
    """Where to open a model with transformers (`model`), and the adapter to put on it with peft, None for full weights.

    The tokenizer lies in `folder`, the published one.
    """

    folder: str
    model: str
    adapter: str | None = None


def in_store(store: Store, kind: str, key: str) -> Checkpoint:
    """The checkpoint of a store entry. Raises KeyError where it or its base is not in the store."""
    return in_folder(store.fetch(kind, key), store)


def in_folder(folder: Path, store: Store | None = None) -> Checkpoint:
    """The checkpoint in a folder; an adapter without `base.json` (another tool's) names its base in its own config."""
    if not (folder / ADAPTER).is_file():
        return Checkpoint(str(folder), str(folder))
    return Checkpoint(str(folder), _base(folder, store), str(folder))


def name_base(folder: Path, base: Mapping[str, str]) -> None:
    """Write into an adapter folder which base it belongs to."""
    (folder / BASE).write_text(json.dumps(dict(base)), encoding="utf-8")


def _base(folder: Path, store: Store | None) -> str:
    if not (folder / BASE).is_file():
        return str(json.loads((folder / ADAPTER).read_text())["base_model_name_or_path"])
    named: dict[str, Any] = json.loads((folder / BASE).read_text())
    if "path" in named:
        return str(named["path"])
    if store is None:
        raise KeyError(f"{folder}: its base is {named['kind']}/{named['key']} of a store; open it through that store")
    return str(store.fetch(named["kind"], named["key"]))
