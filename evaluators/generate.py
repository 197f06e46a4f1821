"""Answers from a model folder, with transformers alone.

Prompts of like length share a batch, padded on the left; every turn of a conversation sees the answers before it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data.mixture import generator
from evaluators.benchmark import Completion, EvaluationFailed, Item, Sampling

GREEDY = Sampling()


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

    def answer(self, items: Sequence[Item], max_new_tokens: int, sampling: Sampling = GREEDY) -> list[list[Completion]]:
        """One completion per turn of each item, in the order of the items."""
        talks: list[list[dict[str, str]]] = [[] for _ in items]
        answers: list[list[Completion]] = [[] for _ in items]
        for turn in range(max((len(item.turns) for item in items), default=0)):
            active = [i for i, item in enumerate(items) if turn < len(item.turns)]
            for i in active:
                talks[i].append({"role": "user", "content": items[i].turns[turn]})
            prompts = [self._prompt(items[i], talks[i], max_new_tokens) for i in active]
            drawn = self._complete([items[i] for i in active], prompts, max_new_tokens, sampling)
            for i, completion in zip(active, drawn, strict=True):
                talks[i].append({"role": "assistant", "content": completion.text})
                answers[i].append(completion)
        return answers

    def _complete(
        self, items: Sequence[Item], prompts: Sequence[list[int]], max_new_tokens: int, sampling: Sampling
    ) -> list[Completion]:
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        found: dict[int, Completion] = {}
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            ids = self._generate([prompts[i] for i in batch], [items[i] for i in batch], max_new_tokens, sampling)
            found |= {i: self._completion(row, items[i].stops) for i, row in zip(batch, ids, strict=True)}
        return [found[i] for i in range(len(prompts))]

    def _prompt(self, item: Item, talk: list[dict[str, str]], max_new_tokens: int) -> list[int]:
        """Token ids of a prompt, cut on the left so that the answer still fits into the model's positions."""
        if item.raw:
            ids: list[int] = self._tokenizer(talk[-1]["content"])["input_ids"]
        else:
            text = self._tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
            ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        positions = getattr(self._model.config, "max_position_embeddings", None)
        if positions and positions <= max_new_tokens:
            raise EvaluationFailed(f"max_new_tokens = {max_new_tokens} leaves no room in the model's {positions} positions")
        return ids[-(positions - max_new_tokens) :] if positions else ids

    def _generate(
        self, prompts: Sequence[list[int]], items: Sequence[Item], max_new_tokens: int, sampling: Sampling
    ) -> list[list[int]]:
        import torch

        width = max(map(len, prompts))
        ids = torch.tensor([[self._pad] * (width - len(p)) + p for p in prompts], device=self._device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self._device)
        drawn = [item.sampling or sampling for item in items]
        draw = Draw(items, drawn) if any(s.temperature > 0 for s in drawn) else None
        with torch.inference_mode():
            output = self._model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                logits_processor=[draw] if draw else None,
                eos_token_id=self._end,
                pad_token_id=self._pad,
            )
        return [list(row) for row in output[:, width:].tolist()]

    def _completion(self, ids: list[int], stops: Sequence[str]) -> Completion:
        ended = self._end in ids
        kept = ids[: ids.index(self._end)] if ended else ids
        text = self._tokenizer.decode(kept, skip_special_tokens=True)
        cut = min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))
        return Completion(text[:cut], len(kept), "stop" if ended or cut < len(text) else "length")


class Draw:
    """Nucleus sampling as a logits processor: noise is added to the scores, and the largest one wins (Gumbel's trick).

    Each item has a random generator of its own, seeded by its id: what is drawn does not depend on the batch. Items at
    temperature 0 stay greedy.
    """

    def __init__(self, items: Sequence[Item], samplings: Sequence[Sampling]) -> None:
        self._rows = [
            (row, sampling, generator("draw", sampling.seed, item.id))
            for row, (item, sampling) in enumerate(zip(items, samplings, strict=True))
            if sampling.temperature > 0
        ]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        import torch

        drawn = scores.float()
        rows = [row for row, _, _ in self._rows]
        temperature, share = (
            torch.tensor([[getattr(sampling, name)] for _, sampling, _ in self._rows], device=scores.device)
            for name in ("temperature", "top_p")
        )
        noise = np.stack([random.gumbel(size=scores.shape[-1]) for _, _, random in self._rows])
        warped = self._nucleus(drawn[rows] / temperature, share)
        return drawn.index_put((torch.tensor(rows, device=scores.device),), warped + torch.as_tensor(noise).to(warped))

    def _nucleus(self, scores: Any, share: Any) -> Any:
        """Scores with all but the most likely tokens removed, those that hold `share` of the probability."""
        ordered, order = scores.sort(descending=True)
        probability = ordered.softmax(-1)
        outside = probability.cumsum(-1) - probability >= share
        return scores.masked_fill(outside.scatter(-1, order, outside), -float("inf"))
