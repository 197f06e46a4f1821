"""A judge behind an OpenAI-compatible endpoint.

The SDK sends; whether and when a call is sent again is decided here. What the SDK raises holds the request and with it the
key, so none of its exceptions leaves this file, not even as the cause of another one.
"""

import asyncio
import os
import re
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from evaluators.judge.config import JudgeConfig
from evaluators.judge.reply import CallFailed, JudgeUnusable, Messages, Reply
from evaluators.judge.waits import Waits

NO_KEY = "none"  # for endpoints that ask for no key; the SDK insists on one
PASSING = (408, 409, 425, 429)
POINTLESS = (401, 403, 404, 405)
SPENT = "insufficient_quota"  # a 429 that no waiting cures


@dataclass(frozen=True)
class Trouble:
    """Why an attempt got no reply: whether another one may, whether any call can, and how long the service asks to wait."""

    why: str
    passing: bool = False
    fatal: bool = False
    after: float | None = None


class Endpoint:
    """Completes messages with retries. One that is down for as long as one call's patience is down for all."""

    def __init__(self, config: JudgeConfig, waits: Waits | None = None) -> None:
        self._config = config
        self._waits = waits or Waits()
        self._key = key(config)
        self._replies = 0
        limits = {"temperature": config.temperature, "max_tokens": config.max_tokens}
        self._options: dict[str, Any] = {"model": config.model, **limits}

    async def __aenter__(self) -> Self:
        from openai import AsyncOpenAI

        # max_retries=0: the SDK would retry by rules of its own. The key is always given, so that one for another
        # service which happens to lie in the environment is never sent to this one.
        self._client = AsyncOpenAI(
            base_url=self._config.base_url, api_key=self._key or NO_KEY, max_retries=0, timeout=self._config.timeout
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def complete(self, messages: Messages, replicate: int) -> Reply:
        """The reply to messages. Raises CallFailed or JudgeUnusable, neither of which knows the key."""
        started, replies = self._waits.now(), self._replies
        for attempt in range(self._config.retries + 1):
            got = await self._attempt(messages)
            if not isinstance(got, Trouble):
                self._replies += 1
                return Reply(**got, seconds=self._waits.now() - started)
            if got.fatal:
                raise JudgeUnusable(f"{self._named}: {got.why}")
            if not got.passing:
                raise CallFailed(got.why)
            told = f"{got.why}, {attempt + 1} times"
            if attempt < self._config.retries:
                await self._waits.sleep(self._waits.pause(attempt, got.after))
        if self._replies == replies:  # nobody else had a reply in all that time either
            raise JudgeUnusable(f"{self._named} is down: {told}")
        raise CallFailed(told)

    async def _attempt(self, messages: Messages) -> dict[str, Any] | Trouble:
        """One call; what it may tell, cleared of the key."""
        import openai

        sent = dict(self._options)
        try:
            async with asyncio.timeout(self._config.timeout):  # over all of it; the SDK's own starts anew with every byte
                reply = await self._client.chat.completions.create(messages=list(messages), **sent)  # type: ignore[arg-type]
        except (TimeoutError, openai.APITimeoutError):
            return Trouble(f"no reply within {self._config.timeout:g} s", passing=True)
        except openai.APIStatusError as error:
            refused = self._refused(error)
            conceded = error.status_code == 400 and self._concede(refused.why, sent)
        except openai.APIConnectionError as error:
            return Trouble(self._cleared(f"connection failed ({type(error.__cause__).__name__})"), passing=True)
        except (openai.OpenAIError, ValueError) as error:
            return Trouble(f"the reply is not valid JSON ({type(error).__name__})", passing=True)
        else:
            return self._read(reply)
        return await self._attempt(messages) if conceded else refused

    def _read(self, reply: Any) -> dict[str, Any] | Trouble:
        try:
            text, name = reply.choices[0].message.content or "", str(reply.model)
        except (AttributeError, IndexError, TypeError):
            return Trouble("the reply holds no choice", passing=True)
        if not same_model(str(self._config.model), name):
            why = f"answered as {name!r}; give judge.model the name of the model that shall rate"
            return Trouble(self._cleared(why), fatal=True)
        tokens = {n: int(getattr(reply.usage, n, None) or 0) for n in ("prompt_tokens", "completion_tokens")}
        return {"text": self._cleared(text), "model": self._cleared(name), **tokens}

    def _refused(self, error: Any) -> Trouble:
        status, why = error.status_code, self._cleared(str(error.message))[:300]
        if status in POINTLESS or error.code == SPENT:
            return Trouble(why, fatal=True)
        passing = status in PASSING or status >= 500
        return Trouble(why, passing, after=self._waits.retry_after(error.response.headers))

    def _concede(self, said: str, sent: dict[str, Any]) -> bool:
        """Whether a refused parameter can be done without; newer models take no temperature and name the limit otherwise."""
        for name, instead in (("temperature", {}), ("max_tokens", {"max_completion_tokens": self._config.max_tokens})):
            if name in said and name in sent:
                self._options = {k: v for k, v in self._options.items() if k != name} | instead
                return True
        return False

    @property
    def _named(self) -> str:
        return f"the judge {self._config.model} at {self._config.base_url}"

    def _cleared(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def key(config: JudgeConfig) -> str | None:
    """The key from the environment. Raises JudgeUnusable where its variable is not set."""
    if config.key_env is None:
        return None
    found = os.environ.get(config.key_env, "").strip()
    if not found:
        raise JudgeUnusable(f"judge.key_env = {config.key_env!r}: no such variable is set; export it where the sweep runs")
    return found


def same_model(asked: str, told: str) -> bool:
    """Whether a reply's model is the one asked for: the same name, or a dated one of it (gpt-4 answers as gpt-4-0613)."""
    return re.fullmatch(rf"{re.escape(asked)}(-\d[\d.-]*)?", told) is not None
