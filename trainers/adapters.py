"""Adapters (LoRA, DoRA, QLoRA) through peft: put on a model, trained on, merged, and saved beside the name of their base."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from data import checkpoints
from trainers.config import LoraConfig, ModelConfig, TrainConfig
from trainers.failures import BrokenModel
from trainers.models import load, save_tokenizer

WEIGHTS = "adapter_model.safetensors"
NOTICEABLE = {"fp32": 1e-6, "bf16": 1e-4}
"""An update of this size must show in the logits, by the precision of the model."""


def put_on(model: Any, train: TrainConfig, config: ModelConfig) -> Any:
    """A model with a fresh adapter, the same for the same seed; until it is trained, it changes nothing."""
    from peft import get_peft_model

    assert train.lora is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(train.seed)
        # The adapter keeps the model's precision: DeepSpeed holds fp32 copies, and ZeRO-3 cannot mix precisions.
        return get_peft_model(model, _settings(train.lora, model, config), autocast_adapter_dtype=False)


def train_on(model: Any, adapter: Path, train: TrainConfig, config: ModelConfig) -> Any:
    """A model with a trained adapter, to be trained on."""
    assert train.lora is not None
    return _with(model, adapter, is_trainable=True, config=_settings(train.lora, model, config), autocast_adapter_dtype=False)


def merged(checkpoint: checkpoints.Checkpoint, config: ModelConfig) -> Any:
    """The base of an adapter with the adapter merged into its weights, in the precision of `config`, never in 4 bits."""
    assert checkpoint.adapter is not None
    model = _with(load(checkpoint.model, config), Path(checkpoint.adapter), autocast_adapter_dtype=False)
    return model.merge_and_unload(safe_merge=True)


def save(
    model: Any, weights: dict[str, torch.Tensor], began: checkpoints.Checkpoint, base: Mapping[str, str], config: ModelConfig,
    folder: Path,
) -> None:  # fmt: skip
    """Write an adapter folder, then open it again as anyone would: on its base, with peft alone.

    `began` is the checkpoint that the stage started from, `base` what the folder says its base is.
    """
    model.peft_config["default"].base_model_name_or_path = began.model
    model.save_pretrained(folder, state_dict=weights, save_embedding_layers=False)
    checkpoints.name_base(folder, base)
    save_tokenizer(began.folder, config, folder)
    named = model.named_parameters(remove_duplicate=False)  # an embedding that is also the head is written twice
    expected = sum(getattr(p, "ds_numel", p.numel()) for _, p in named if p.requires_grad)
    refuse_dead(folder, load(began.model, config), expected, NOTICEABLE[config.dtype])


def refuse_dead(folder: Path, base: Any, expected: int, noticeable: float) -> None:
    """Raises BrokenModel unless the adapter in a folder is whole and does something to its base.

    `expected` is its number of parameters. An adapter that no layer takes up leaves the answers of the base, and no library
    says so. One whose updates are all below `noticeable` has not learned, which is no fault of the folder.
    """
    tensors = load_file(folder / WEIGHTS)
    written = sum(tensor.numel() for tensor in tensors.values())
    if written != expected or not all(tensor.numel() for tensor in tensors.values()):
        raise BrokenModel(f"{folder}: {written} parameters were written, the adapter has {expected}")
    learned = any(tensor.abs().max() > noticeable for name, tensor in tensors.items() if "lora_B" in name)
    probe = torch.arange(1, 5)[None]
    with torch.inference_mode():
        before = base.eval()(input_ids=probe).logits
        after = _with(base, folder, autocast_adapter_dtype=False).eval()(input_ids=probe).logits
    if learned and torch.equal(before, after):
        raise BrokenModel(f"{folder}: the adapter does not change what its base answers")


def refuse_unquantisable() -> None:
    """Raises BrokenModel where 4-bit weights cannot be had."""
    from importlib.util import find_spec

    if find_spec("bitsandbytes") is None:
        raise BrokenModel("train.lora.quantize = 'nf4': bitsandbytes is not installed; install it, or set null")


def _with(model: Any, adapter: Path, **how: Any) -> Any:
    """A model with a saved adapter on it. Raises BrokenModel where a tensor of one has no place in the other."""
    from peft import PeftModel, get_peft_model_state_dict

    wrapped = PeftModel.from_pretrained(model, str(adapter), **how)
    names = get_peft_model_state_dict(wrapped, save_embedding_layers=False).keys()
    wrong = sorted(names ^ load_file(adapter / WEIGHTS).keys())
    if wrong:
        raise BrokenModel(f"{adapter}: its tensors are not those of an adapter of {type(model).__name__}: {wrong}")
    return wrapped


def _settings(lora: LoraConfig, model: Any, config: ModelConfig) -> Any:
    from peft import LoraConfig as Settings

    # New tokens are learned whole, input and output: an adapter beside a frozen embedding would leave them alike.
    whole = _embeddings(model) if config.add_tokens else []
    return Settings(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
        use_dora=lora.dora,
        use_rslora=lora.rslora,
        modules_to_save=whole or None,
        ensure_weight_tying=len(whole) == 1,
    )


def _embeddings(model: Any) -> list[str]:
    """Names of the modules that hold the embeddings and, where it has weights of its own, the head."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    wanted = [inputs] if inputs.weight is outputs.weight else [inputs, outputs]
    return [name.rpartition(".")[2] for name, module in model.named_modules() if any(module is w for w in wanted)]


def read_base(folder: Path) -> dict[str, str]:
    """What an adapter folder says its base is."""
    return dict(json.loads((folder / checkpoints.BASE).read_text()))
