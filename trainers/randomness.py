"""The state of a worker's random generators, in types that torch loads without running code."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch


def save(path: Path) -> None:
    """Write the state of Python's, numpy's and torch's generators."""
    kind, keys, *rest = np.random.get_state()
    version, internal, following = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": [version, list(internal), following],
    }
    torch.save(state, path)


def load(path: Path) -> None:
    """Set the generators to a state that was saved."""
    state: dict[str, Any] = torch.load(path, weights_only=True)
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    version, internal, following = state["python"]
    random.setstate((version, tuple(internal), following))
