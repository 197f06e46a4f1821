"""A local judge: a model folder that our own generation serves, for ranking where no endpoint can be reached."""

import asyncio
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from data.checkpoints import in_folder
from evaluators.benchmark import Sampling
from evaluators.generation import engines
from evaluators.generation.config import TransformersConfig
from evaluators.generation.interface import Request
from evaluators.judge.config import JudgeConfig
from evaluators.judge.reply import CallFailed, Messages, Reply

Waiting = tuple[Request, "asyncio.Future[Reply]"]


class LocalJudge:
    """Completes messages with a model folder; what is asked for at the same time is generated as one batch.

    The system message stands before the user's, because not every chat template has a place for it.
    """

    def __init__(self, config: JudgeConfig, name: str) -> None:
        self._config = config
        self._name = name
        self._waiting: list[Waiting] = []
        self._busy = asyncio.Lock()

    async def __aenter__(self) -> Self:
        from transformers import AutoConfig, AutoTokenizer

        folder = str(self._config.path)
        self._engine = engines.make(TransformersConfig(), self._config.concurrency)
        self._engine.open(in_folder(Path(folder)))
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._positions = getattr(AutoConfig.from_pretrained(folder), "max_position_embeddings", None)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._engine.close()

    async def complete(self, messages: Messages, replicate: int) -> Reply:
        """The reply to messages. Raises CallFailed for a prompt that is too long: cut, it would not be the question."""
        text = "\n\n".join(message["content"] for message in messages)
        length = self._length(text)
        if self._positions and length + self._config.max_tokens > self._positions:
            have = f"prompt of {length} and judge.max_tokens = {self._config.max_tokens}"
            raise CallFailed(f"{have} do not fit the local judge's {self._positions} positions; take another model")
        sampling = Sampling(self._config.temperature, seed=replicate)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        asked = ({"role": "user", "content": text},)
        self._waiting.append((Request(text, asked, self._config.max_tokens, sampling), future))
        async with self._busy:  # whoever comes first takes all that wait by then
            batch, self._waiting = self._waiting, []
            if batch:
                await self._serve(batch)
        return await future

    async def _serve(self, batch: list[Waiting]) -> None:
        started = time.monotonic()
        answers = await asyncio.to_thread(self._engine.complete, [request for request, _ in batch])
        for (request, future), said in zip(batch, answers, strict=True):
            if not future.done():
                seconds = time.monotonic() - started
                future.set_result(Reply(said.text, self._name, self._length(request.text), said.tokens, seconds))

    def _length(self, text: str) -> int:
        talk: Any = [{"role": "user", "content": text}]
        return len(
            self._tokenizer(self._tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)).input_ids
        )
