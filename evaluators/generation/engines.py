"""From a config to an engine, and to what names it in the key of a generation. Imports no torch until one is opened."""

from typing import Any

from evaluators.generation.config import (
    ContinuousConfig,
    EndpointConfig,
    EngineConfig,
    TransformersConfig,
    VllmConfig,
)
from evaluators.generation.interface import Engine

ONLY_SPEED = {"python", "key_env", "concurrency", "timeout_s", "retries"}


def identity(config: EngineConfig) -> dict[str, Any]:
    """The settings of an engine that can change an answer."""
    return {name: value for name, value in config.model_dump().items() if name not in ONLY_SPEED}


def make(config: EngineConfig, batch_size: int, trust_remote_code: bool = False) -> Engine:
    """An engine with no checkpoint yet. Raises EvaluationFailed where its environment is not there."""
    match config:
        case TransformersConfig():
            from evaluators.generation.local import Transformers

            return Transformers(batch_size, trust_remote_code)
        case ContinuousConfig():
            from evaluators.generation.continuous import Continuous

            return Continuous(trust_remote_code)
        case VllmConfig():
            from evaluators.generation.vllm import Vllm

            return Vllm(config, trust_remote_code)
        case EndpointConfig():
            from evaluators.generation.endpoint import Endpoint

            return Endpoint(config)
