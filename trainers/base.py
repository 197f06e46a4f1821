"""Base models: what a first stage starts from, as a Hugging Face folder, and its fingerprint.

`fingerprint` needs no torch, so that `plan` can name every stage in a fraction of a second.
"""

from pathlib import Path
from typing import Any

from data.fingerprint import digest, folder_digest
from data.store import Store
from data.toy import model as toy
from trainers.config import ModelConfig

KIND = "bases"
VERSION = 1  # raise it when a fresh model gets other weights or another tokenizer from the same config
TOKENS_VERSION = 1  # raise it when added tokens get other embeddings


def fingerprint(model: ModelConfig) -> str:
    """Names a base model: its values for a fresh one, its files for a folder, its id for a hub model; and added tokens."""
    if model.add_tokens:
        return digest({"model": fingerprint(_without_tokens(model)), "add": model.add_tokens, "version": TOKENS_VERSION})
    fresh = _fresh(model)
    if fresh:
        tokenizer = Path(str(fresh["tokenizer"]))
        files = folder_digest(tokenizer) if tokenizer.exists() else None
        return digest({"fresh": fresh, "tokenizer": files, "seed": model.seed, "version": VERSION})
    path = Path(str(model.path))
    return digest({"files": folder_digest(path)} if path.exists() else {"hub": model.path})


def location(model: ModelConfig, store: Store) -> str:
    """Folder or hub id to open with transformers. A fresh or extended model is made once and kept in the store."""
    if not _made(model):
        return str(model.path)
    key = fingerprint(model)
    if store.record(KIND, key) is None:
        with store.writing(KIND, key, {"model": model.model_dump()}) as folder:
            if model.add_tokens:
                _write_extended(model, location(_without_tokens(model), store), folder)
            else:
                _write_fresh(model, folder)
    return str(store.fetch(KIND, key))


def named(model: ModelConfig) -> dict[str, str]:
    """How an adapter folder names this base: by its key where the store holds it, else by its path or hub id."""
    return {"kind": KIND, "key": fingerprint(model)} if _made(model) else {"path": str(model.path)}


def open_tokenizer(model: ModelConfig, store: Store) -> Any:
    """The base model's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(location(model, store), trust_remote_code=model.trust_remote_code)


def _made(model: ModelConfig) -> bool:
    """Whether the model is written by us, and so lies in the store."""
    return bool(model.add_tokens) or _fresh(model) is not None


def _without_tokens(model: ModelConfig) -> ModelConfig:
    return model.model_copy(update={"add_tokens": ()})


def _fresh(model: ModelConfig) -> dict[str, Any] | None:
    """Config values and tokenizer of a model that starts from random weights, None for one that is loaded."""
    if model.path == "toy":
        return {"config": toy.CONFIG, "tokenizer": toy.TOKENIZER}
    if model.init_from_config is not None:
        return {"config": model.init_from_config, "tokenizer": model.tokenizer}
    return None


def _write_fresh(model: ModelConfig, folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    fresh = _fresh(model)
    assert fresh is not None
    tokenizer = _tokenizer(str(fresh["tokenizer"]))
    values = {"vocab_size": len(tokenizer)} | fresh["config"]
    values |= {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = AutoConfig.for_model(**values)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_extended(model: ModelConfig, plain: str, folder: Path) -> None:
    """A model with more special tokens. Their embeddings are the mean of all others: no random number, and no surprise.

    A folder whose embeddings are longer than its tokenizer, as padding, keeps their length.
    """
    import torch
    from transformers import AutoTokenizer

    from trainers import models

    tokenizer = AutoTokenizer.from_pretrained(plain, trust_remote_code=model.trust_remote_code)
    before = len(tokenizer)
    tokenizer.add_special_tokens({"extra_special_tokens": list(model.add_tokens)}, replace_extra_special_tokens=False)
    opened = models.load(plain, model)
    if len(tokenizer) > opened.get_input_embeddings().num_embeddings:
        opened.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        for layer in (opened.get_input_embeddings(), opened.get_output_embeddings()):
            layer.weight[before : len(tokenizer)] = layer.weight[:before].float().mean(0).to(layer.weight.dtype)
    opened.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    from data import tokenizers

    embedded = {"characters": tokenizers.characters, "bytes": tokenizers.byte_level}
    return embedded[name]() if name in embedded else AutoTokenizer.from_pretrained(name)
