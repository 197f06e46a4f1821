"""The base model of the toy world: a LLaMA of about 140k parameters with one token a character, as plain values.

It is written as a Hugging Face folder like any other base (see trainers/base.py) and starts from random weights.
"""

from typing import Any

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
TOKENIZER = "characters"
