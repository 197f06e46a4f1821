"""The keys and values of a batch whose rows come and go.

All rows end in the same column; shorter ones have padding on their left, which the attention mask hides. A buffer with room
to grow makes a step copy one column, where transformers' own cache copies everything at every step.
"""

from typing import Any

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

    def merged(self, rows: list[int], width: int, other: "Columns | None") -> "Columns":
        """Some rows with their last `width` columns, and all of another batch; the narrower part is padded on its left."""
        parts = [(self, rows, width)] if rows else []
        parts += [(other, list(range(len(other.keys))), other.get_seq_length())] if other is not None else []
        made, end = Columns(), max(columns for _, _, columns in parts)
        shape = (sum(len(chosen) for _, chosen, _ in parts), self.keys.shape[1], end + ROOM, self.keys.shape[3])
        # Zeros, because padding is masked by a weight of 0, and 0 times what happens to lie there may be no number.
        made._keys, made._values = self.keys.new_zeros(shape), self.values.new_zeros((*shape[:3], self.values.shape[3]))
        first = 0
        for layer, chosen, columns in parts:
            place = (slice(first, first + len(chosen)), slice(None), slice(end - columns, end))
            made._keys[place], made._values[place] = layer.keys[chosen, :, -columns:], layer.values[chosen, :, -columns:]
            first += len(chosen)
        made.keys, made.values = made._keys[..., :end, :], made._values[..., :end, :]
        made.is_initialized = True
        return made

    def _grow(self, keys: Any, values: Any, held: int, columns: int) -> None:
        grown = [like.new_empty((*like.shape[:-2], columns, like.shape[-1])) for like in (keys, values)]
        if held:
            grown[0][..., :held, :], grown[1][..., :held, :] = self.keys, self.values
        self._keys, self._values = grown
        self.is_initialized = True


def serves(model: Any) -> bool:
    """Whether a model keeps nothing but keys and values, a column per token. State spaces and the like do not."""
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or KNOWN)
    layers = DynamicCache(config=model.config).layers
    return bool(layers) and kinds <= KNOWN and {type(layer) for layer in layers} <= {DynamicLayer, DynamicSlidingWindowLayer}


def fresh(model: Any) -> Cache:
    """An empty cache. Sliding layers hold all columns too: the mask hides what lies before the window."""
    return Cache(layers=[Columns() for _ in DynamicCache(config=model.config).layers])


def merged(cache: Cache, rows: list[int], width: int, other: Cache | None) -> Cache:
    """Some rows of a cache with their last `width` columns, and all rows of another."""
    others = other.layers if other is not None else [None] * len(cache.layers)
    return Cache(layers=[layer.merged(rows, width, more) for layer, more in zip(cache.layers, others, strict=True)])
