"""Opening and saving a causal language model as a Hugging Face folder."""

import json
import struct
from math import prod
from pathlib import Path
from typing import Any

import torch

from data.tokens import DEFAULT_TEMPLATE
from trainers.config import ModelConfig
from trainers.failures import BrokenModel

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load(path: str, config: ModelConfig) -> Any:
    """The model with all its weights. Raises BrokenModel with their names where some are missing or left over.

    transformers would start missing weights from random values with no more than a warning.
    """
    from transformers import AutoModelForCausalLM

    model, told = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=DTYPES[config.dtype],
        trust_remote_code=config.trust_remote_code,
        use_safetensors=True,
        output_loading_info=True,
    )
    wrong = {kind: sorted(told[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") if told[kind]}
    if wrong:
        raise BrokenModel(f"{path}: weights do not fit the model: {wrong}; repair or download the folder again")
    return model


def save(model: Any, weights: dict[str, torch.Tensor], tokenizer_from: str, config: ModelConfig, folder: Path) -> None:
    """Write model, tokenizer and chat template; the files' headers are read back before anyone relies on them."""
    from transformers import AutoTokenizer

    model.save_pretrained(folder, state_dict=weights)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_from, trust_remote_code=config.trust_remote_code)
    tokenizer.chat_template = tokenizer.chat_template or DEFAULT_TEMPLATE
    tokenizer.save_pretrained(folder)
    _check(model, folder)


def _check(model: Any, folder: Path) -> None:
    shapes = [shape for file in sorted(folder.glob("*.safetensors")) for shape in _shapes(file)]
    # ZeRO-3 leaves parameters empty on each worker and keeps their size beside them.
    expected = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())
    written = sum(prod(shape) for shape in shapes)
    if written != expected or not all(prod(shape) for shape in shapes):
        raise BrokenModel(f"{folder}: {written} parameters were written, the model has {expected}")


def _shapes(file: Path) -> list[list[int]]:
    with file.open("rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(size))
    return [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
