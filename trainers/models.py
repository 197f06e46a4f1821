"""Opening and saving a causal language model as a Hugging Face folder."""

import json
import os
import struct
from math import prod
from pathlib import Path
from typing import Any

import torch

from data.tokens import DEFAULT_TEMPLATE
from trainers.config import ModelConfig
from trainers.failures import BrokenModel

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load(path: str, config: ModelConfig, quantize: bool = False) -> Any:
    """The model with all its weights, from safetensors; with `quantize` in 4 bits on this worker's device.

    Raises BrokenModel with their names where weights are missing or left over: transformers would start missing ones from
    random values with no more than a warning.
    """
    from transformers import AutoModelForCausalLM

    model, told = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=DTYPES[config.dtype],
        attn_implementation=config.attention,
        trust_remote_code=config.trust_remote_code,
        use_safetensors=True,
        output_loading_info=True,
        **(_four_bits(DTYPES[config.dtype]) if quantize else {}),
    )
    wrong = {kind: sorted(told[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") if told[kind]}
    if wrong:
        raise BrokenModel(f"{path}: weights do not fit the model: {wrong}; repair or download the folder again")
    return model


def save(model: Any, weights: dict[str, torch.Tensor], tokenizer_from: str, config: ModelConfig, folder: Path) -> None:
    """Write model, tokenizer and chat template; the files' headers are read back before anyone relies on them."""
    model.save_pretrained(folder, state_dict=weights)
    save_tokenizer(tokenizer_from, config, folder)
    _check(model, folder)


def save_tokenizer(tokenizer_from: str, config: ModelConfig, folder: Path) -> None:
    """Write the tokenizer and its chat template into a folder."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_from, trust_remote_code=config.trust_remote_code)
    tokenizer.chat_template = tokenizer.chat_template or DEFAULT_TEMPLATE
    tokenizer.save_pretrained(folder)


def keep_fewer_activations(model: Any, reentrant: bool) -> None:
    """Gradient checkpointing. `reentrant` is torch's older way, the only one that ZeRO-3 bears with frozen weights."""
    if reentrant:
        model.enable_input_require_grads()  # frozen embeddings would end the gradient before the first layer
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": reentrant})


def _four_bits(dtype: torch.dtype) -> dict[str, Any]:
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    return {"quantization_config": settings, "device_map": {"": device}}


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
