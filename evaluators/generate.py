"""Answers from a model folder, with transformers alone.

Greedy. Prompts of like length share a batch, padded on the left; every turn of a conversation sees the answers before it.
"""

from collections.abc import Sequence
from typing import Any

from evaluators.benchmark import Completion, Item


class Generator:
    """A causal language model that answers items."""

    def __init__(self, folder: str, batch_size: int, trust_remote_code: bool = False) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, padding_side="left")
        self._model = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", trust_remote_code=trust_remote_code, use_safetensors=True
        )
        self._model = self._model.to(self._device).eval()
        self._batch_size = batch_size
        self._end = self._tokenizer.eos_token_id
        self._pad = self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else self._end

    def answer(self, items: Sequence[Item], max_new_tokens: int) -> list[list[Completion]]:
        """One completion per turn of each item, in the order of the items."""
        talks: list[list[dict[str, str]]] = [[] for _ in items]
        answers: list[list[Completion]] = [[] for _ in items]
        for turn in range(max((len(item.turns) for item in items), default=0)):
            active = [i for i, item in enumerate(items) if turn < len(item.turns)]
            for i in active:
                talks[i].append({"role": "user", "content": items[i].turns[turn]})
            for i, completion in zip(active, self._complete([talks[i] for i in active], max_new_tokens), strict=True):
                talks[i].append({"role": "assistant", "content": completion.text})
                answers[i].append(completion)
        return answers

    def _complete(self, talks: Sequence[list[dict[str, str]]], max_new_tokens: int) -> list[Completion]:
        prompts = [self._prompt(talk, max_new_tokens) for talk in talks]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        found: dict[int, Completion] = {}
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            completions = self._generate([prompts[i] for i in batch], max_new_tokens)
            found |= dict(zip(batch, completions, strict=True))
        return [found[i] for i in range(len(prompts))]

    def _prompt(self, talk: list[dict[str, str]], max_new_tokens: int) -> list[int]:
        """Token ids of a prompt, cut on the left so that the answer still fits into the model's positions."""
        text = self._tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        positions = getattr(self._model.config, "max_position_embeddings", None)
        return ids[-max(1, positions - max_new_tokens) :] if positions else ids

    def _generate(self, prompts: Sequence[list[int]], max_new_tokens: int) -> list[Completion]:
        import torch

        width = max(map(len, prompts))
        ids = torch.tensor([[self._pad] * (width - len(p)) + p for p in prompts], device=self._device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self._device)
        with torch.inference_mode():
            output = self._model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=self._end,
                pad_token_id=self._pad,
            )
        return [self._completion(row) for row in output[:, width:].tolist()]

    def _completion(self, ids: list[Any]) -> Completion:
        ended = self._end in ids
        kept = ids[: ids.index(self._end)] if ended else ids
        text = self._tokenizer.decode(kept, skip_special_tokens=True)
        return Completion(text, len(kept), "stop" if ended else "length")
