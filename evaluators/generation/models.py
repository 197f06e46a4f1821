"""Checkpoints as models in memory: full weights, or a base model with an adapter on it.

An adapter that a loader ignores is the quietest of all errors: every trial scores like the base model. So each one is tried:
on four fixed prompts it must answer otherwise than its base, unless its file holds nothing but zeros.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging

from data.checkpoints import Checkpoint
from evaluators.benchmark import EvaluationFailed

CANARIES = ("The capital of France is", "2 + 2 =", "def add(a, b):", "Tell me a story.")


class Models:
    """Holds one checkpoint, and its base model while adapters of the same base follow each other."""

    def __init__(self, trust_remote_code: bool = False) -> None:
        self._trust = trust_remote_code
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._base: Any = None
        self._adapted: Any = None
        self.opened: Checkpoint | None = None

    def open(self, checkpoint: Checkpoint) -> tuple[Any, Any]:
        """The model, ready to answer, and its tokenizer. Raises EvaluationFailed where the files do not make the model."""
        before, self.opened = self.opened, None
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=self._trust, padding_side="left")
        if before is None or before.model != checkpoint.model or not self._bare():
            self.close()
            self._base = self._loaded(checkpoint.model)
        if checkpoint.adapter is not None:
            self._adapt(checkpoint.adapter, tokenizer)
        self.opened = checkpoint
        return self._base, tokenizer

    def close(self) -> None:
        """Forget everything and give the device's memory back."""
        self._base = self._adapted = self.opened = None
        if self._device == "cuda":
            torch.cuda.empty_cache()

    def _loaded(self, path: str) -> Any:
        logging.disable_progress_bar()
        model, told = AutoModelForCausalLM.from_pretrained(
            path, dtype="auto", trust_remote_code=self._trust, use_safetensors=True, output_loading_info=True
        )
        lacking = {kind: sorted(told[kind]) for kind in ("missing_keys", "mismatched_keys") if told[kind]}
        if lacking:
            raise EvaluationFailed(f"{path}: the weights do not make the model: {lacking}; random ones would stand for them")
        ends = model.generation_config.eos_token_id if model.generation_config else None
        # Only its ends are kept: a temperature or a repetition penalty of the model's maker is not part of the protocol.
        model.generation_config = GenerationConfig(eos_token_id=ends)
        return model.to(self._device).eval()

    def _adapt(self, folder: str, tokenizer: Any) -> None:
        from peft import PeftModel

        before = _first_scores(self._base, tokenizer)
        self._adapted = PeftModel.from_pretrained(self._base, folder).eval()  # puts its layers into the base in place
        if torch.equal(before, _first_scores(self._base, tokenizer)) and not _all_zero(Path(folder)):
            raise EvaluationFailed(
                f"{folder}: the adapter changes nothing, though its weights are not zero: it was made for another model, or "
                f"its names do not fit; the base is {self._base.name_or_path}"
            )

    def _bare(self) -> bool:
        """Take the adapter off; whether the base is then as it was loaded."""
        if self._adapted is None:
            return True
        own = any(config.modules_to_save for config in self._adapted.peft_config.values())
        self._adapted.unload()
        self._adapted = None
        return not own


def _first_scores(model: Any, tokenizer: Any) -> Any:
    """Log-probabilities of the first token after each of the fixed prompts, (prompts, vocabulary)."""
    found = []
    with torch.inference_mode():
        for prompt in CANARIES:
            ids = torch.tensor([tokenizer(prompt)["input_ids"]], device=model.device)
            found.append(model(input_ids=ids).logits[0, -1].float().log_softmax(-1))
    return torch.stack(found)


def _all_zero(folder: Path) -> bool:
    """Whether an adapter is one that has learned nothing: the second matrix of each pair is zero."""
    from safetensors.torch import load_file

    weights = load_file(folder / "adapter_model.safetensors")
    second = [tensor for name, tensor in weights.items() if ".lora_B." in name]
    return len(second) == len(weights) // 2 and not any(tensor.any() for tensor in second)
