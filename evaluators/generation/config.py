"""Configuration of who generates the answers."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from data.config import Frozen


class TransformersConfig(Frozen):
    kind: Literal["transformers"] = "transformers"


class ContinuousConfig(Frozen):
    kind: Literal["continuous"]


class VllmConfig(Frozen):
    kind: Literal["vllm"]
    python: str = Field(min_length=1)
    """Interpreter of an environment that has vllm: it wants other versions of torch than training does."""
    max_lora_rank: int = Field(default=64, ge=1)
    """Largest rank of an adapter that the engine is to take."""
    options: dict[str, Any] = {}
    """Further arguments of vllm.LLM, for example gpu_memory_utilization."""


class EndpointConfig(Frozen):
    kind: Literal["openai"]
    base_url: str = Field(pattern=r"^https?://[^/@]+(/.*)?$")
    """Address of an OpenAI-compatible server, with /v1 where it has one; no credentials."""
    model: str = Field(min_length=1)
    """Name of the model there."""
    key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that holds the key; null where none is wanted."""
    concurrency: int = Field(default=16, ge=1)
    """Requests that are open at the same time."""
    timeout_s: float = Field(default=300, gt=0)
    """Longest wait for one answer."""
    retries: int = Field(default=6, ge=0)
    """Further attempts at a request that met a busy or broken server."""


def _named(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


EngineConfig = Annotated[
    TransformersConfig | ContinuousConfig | VllmConfig | EndpointConfig,
    Field(discriminator="kind"),
    BeforeValidator(_named),
]
