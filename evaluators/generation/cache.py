"""The keys and values of a batch whose rows come and go.

All rows end in the same column; shorter ones have padding on their left, which the attention mask hides. A buffer with room
to grow makes a step copy one column, where transformers' own cache copies everything at every step.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

ROOM = 64
"""Columns by which a buffer grows."""
KNOWN = {"full_attention", "sliding_attention"}


class Columns(DynamicLayer):
    """One layer's keys and values, each (rows, heads, columns, head size)."""

    _keys: Any
    _values: Any

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Append columns; all that is held, the new ones included."""
        held = self.get_seq_length()
        end = held + key_states.shape[-2]
        if not held or end > self._keys.shape[-2]:
            self._grow(key_states, value_states, held, end + ROOM)
        self._keys[..., held:end, :], self._values[..., held:end, :] = key_states, value_states
        self.keys, self.values = self._keys[..., :end, :], self._values[..., :end, :]
        return self.keys, self.values

    def keep(self, rows: Any, width: int) -> None:
        """Keep some rows and the last `width` columns."""
        self._set(self.keys[rows, :, -width:], self.values[rows, :, -width:])

    def join(self, other: "Columns") -> None:
        """Add the rows of another batch; the narrower of the two is padded on its left."""
        width = max(self.get_seq_length(), other.get_seq_length())
        both = zip(_widened(self, width), _widened(other, width), strict=True)
        keys, values = (torch.cat(pair) for pair in both)
        self._set(keys, values)

    def _set(self, keys: Any, values: Any) -> None:
        self._keys, self._values = self.keys, self.values = keys, values

    def _grow(self, keys: Any, values: Any, held: int, columns: int) -> None:
        grown = [like.new_empty((*like.shape[:-2], columns, like.shape[-1])) for like in (keys, values)]
        if held:
            grown[0][..., :held, :], grown[1][..., :held, :] = self.keys, self.values
        self._keys, self._values = grown
        self.is_initialized = True


def _widened(layer: Columns, width: int) -> tuple[Any, Any]:
    missing = width - layer.get_seq_length()
    keys, values = (torch.nn.functional.pad(held, (0, 0, missing, 0)) for held in (layer.keys, layer.values))
    return keys, values


def serves(model: Any) -> bool:
    """Whether a model keeps nothing but keys and values, a column per token. State spaces and the like do not."""
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or KNOWN)
    layers = DynamicCache(config=model.config).layers
    return bool(layers) and kinds <= KNOWN and {type(layer) for layer in layers} <= {DynamicLayer, DynamicSlidingWindowLayer}


def fresh(model: Any) -> Cache:
    """An empty cache. Sliding layers hold all columns too: the mask hides what lies before the window."""
    return Cache(layers=[Columns() for _ in DynamicCache(config=model.config).layers])


def keep(cache: Cache, rows: Sequence[int], width: int) -> None:
    """Keep some rows of every layer and the last `width` columns."""
    for layer in cache.layers:
        layer.keep(list(rows), width)


def join(cache: Cache, other: Cache) -> None:
    """Add another batch's rows to every layer."""
    for layer, more in zip(cache.layers, other.layers, strict=True):
        layer.join(more)
