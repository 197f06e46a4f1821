"""The transformers engine: everywhere, on a GPU or without one, with nothing but transformers and peft."""

from collections.abc import Sequence
from typing import Any

from data.checkpoints import Checkpoint
from evaluators.benchmark import Completion
from evaluators.generation.interface import Request


class Transformers:
    """Answers with a model in this process. A base model stays in memory while the next checkpoint is an adapter of it."""

    def __init__(self, batch_size: int, trust_remote_code: bool = False) -> None:
        from evaluators.generation.models import Models

        self._batch_size = batch_size
        self._models = Models(trust_remote_code)
        self._decoder: Any = None

    def open(self, checkpoint: Checkpoint) -> None:
        from evaluators.generation.decode import Decoder
        from evaluators.generation.text import Text

        if self._models.opened == checkpoint:
            return
        self._decoder = None  # or the model before would stay in memory beside the new one
        model, tokenizer = self._models.open(checkpoint)
        self._text = Text(tokenizer, model)
        self._decoder = Decoder(model, self._batch_size, self._text.pad, self._text.over)

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        prompts = [self._text.prompt(request) for request in requests]
        said = self._decoder.run(requests, prompts)
        return [self._text.completion(ids, request) for ids, request in zip(said, requests, strict=True)]

    def close(self) -> None:
        self._decoder = None
        self._models.close()

    def about(self) -> dict[str, Any]:
        import torch
        import transformers

        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        return {
            "engine": "transformers",
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "device": device,
        }
