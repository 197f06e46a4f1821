"""Any server that speaks OpenAI's protocol: it answers under a name, and opens no checkpoint of ours."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from data.checkpoints import Checkpoint
from data.mixture import generator
from evaluators.benchmark import Completion, EvaluationFailed
from evaluators.generation.config import EndpointConfig
from evaluators.generation.interface import Request

MOST_STOPS = 4
"""As many stop strings does the protocol take; the answer is cut at all of them here."""


class Endpoint:
    """Sends requests, several at a time. The client waits and tries again where the server is busy (429) or broken (5xx)."""

    def __init__(self, config: EndpointConfig) -> None:
        from openai import OpenAI

        self._config = config
        key = os.environ.get(config.key_env, "") if config.key_env else "none"
        if not key:
            raise EvaluationFailed(f"evaluate.engine.key_env = {config.key_env!r}: the environment does not hold it; export it")
        self._client = OpenAI(
            base_url=config.base_url, api_key=key, timeout=config.timeout_s, max_retries=config.retries, organization=""
        )

    def open(self, checkpoint: Checkpoint) -> None:
        """The server has its model already; who asks for another one is told by the name."""

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        with ThreadPoolExecutor(self._config.concurrency) as pool:
            return list(pool.map(self._one, requests))

    def close(self) -> None:
        self._client.close()

    def about(self) -> dict[str, Any]:
        return {"engine": "openai", "base_url": self._config.base_url, "model": self._config.model}

    def _one(self, request: Request) -> Completion:
        from openai import OpenAIError

        try:
            answer = self._ask(request)
        except OpenAIError as error:
            why = str(error)
        else:
            return self._read(request, answer)
        # Outside of the handler: what the SDK raises holds the request, and with it the key, and would come along as context.
        raise EvaluationFailed(f"{self._config.base_url}: no answer to item {request.id}: {self._cleared(why)}")

    def _cleared(self, text: str) -> str:
        """What a server says may hold the key it was sent."""
        return text.replace(self._client.api_key, "[key]") if self._config.key_env else text

    def _read(self, request: Request, answer: Any) -> Completion:
        if not answer.choices or answer.usage is None:
            raise EvaluationFailed(f"{self._config.base_url}: an answer to item {request.id} without choices or usage")
        choice = answer.choices[0]
        text = (choice.text if request.raw else choice.message.content) or ""
        cut = min((place for stop in request.stops if (place := text.find(stop)) >= 0), default=None)
        ended = cut is not None or choice.finish_reason != "length"
        return Completion(text[:cut], answer.usage.completion_tokens, "stop" if ended else "length")

    def _ask(self, request: Request) -> Any:
        sampling = request.sampling
        how: dict[str, Any] = {
            "model": self._config.model,
            "max_tokens": request.max_new_tokens,
            "temperature": sampling.temperature,
            "stop": list(request.stops[:MOST_STOPS]) or None,
        }
        if sampling.temperature > 0:
            seed = int(generator("draw", sampling.seed, request.id).integers(2**31))
            how |= {"top_p": sampling.top_p, "seed": seed}
        if request.raw:
            return self._client.completions.create(prompt=request.text, **how)
        messages: Any = list(request.messages)
        return self._client.chat.completions.create(messages=messages, **how)
