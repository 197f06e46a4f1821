"""transformers' own continuous batching, with its paged cache: for GPUs, where it is the faster loop.

Greedy only: it has one random generator for all, so what is drawn would depend on the batch. It knows no stop strings; they are
cut off afterwards, at the same place.
"""

from collections.abc import Sequence
from typing import Any

from data.checkpoints import Checkpoint
from evaluators.benchmark import Completion, EvaluationFailed
from evaluators.generation.interface import Request


class Continuous:
    """Answers with a model in this process, many prompts in flight."""

    def __init__(self, trust_remote_code: bool = False) -> None:
        import torch

        from evaluators.generation.models import Models

        if not torch.cuda.is_available():
            raise EvaluationFailed("evaluate.engine.kind = 'continuous': needs a GPU and there is none; use transformers")
        self._models = Models(trust_remote_code)

    def open(self, checkpoint: Checkpoint) -> None:
        from evaluators.generation.text import Text

        if self._models.opened == checkpoint:
            return
        self._model, tokenizer = self._models.open(checkpoint)
        self._text = Text(tokenizer, self._model)

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        if any(request.sampling.temperature > 0 for request in requests):
            raise EvaluationFailed("evaluate.engine.kind = 'continuous': answers greedily only; use transformers to sample")
        if not requests:
            return []
        prompts = [self._text.prompt(request) for request in requests]
        said = in_flight(self._model, prompts, max(r.max_new_tokens for r in requests), self._text)
        return [self._text.completion(self._text.cut(ids, r), r) for ids, r in zip(said, requests, strict=True)]

    def close(self) -> None:
        self._models.close()

    def about(self) -> dict[str, Any]:
        import torch
        import transformers

        return {"engine": "continuous", "transformers": transformers.__version__, "device": torch.cuda.get_device_name()}


def in_flight(model: Any, prompts: Sequence[list[int]], max_new_tokens: int, text: Any) -> list[list[int]]:
    """The tokens of each answer, through `generate_batch`. Raises EvaluationFailed where a request did not end well."""
    from transformers import GenerationConfig

    how = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=sorted(text.ends) or None, pad_token_id=text.pad
    )
    outputs = list(model.generate_batch(list(prompts), generation_config=how).values())
    failed = [output.error for output in outputs if output.error]
    if failed or len(outputs) != len(prompts):
        raise EvaluationFailed(f"continuous batching answered {len(outputs)} of {len(prompts)} prompts: {failed[:1]}")
    return [list(output.generated_tokens) for output in outputs]
