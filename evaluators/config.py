"""Configuration of the benchmarks of a sweep."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from data.config import Frozen, Role

CODE_BENCHMARKS = ("humaneval", "toy_code")
"""Benchmarks that run code which a model wrote."""


class BenchmarkConfig(Frozen):
    role: Role
    """specialist or general: the objective that this score enters."""
    weight: float = Field(default=1.0, gt=0)
    """Weight of the score among those of its role."""
    limit: int | None = Field(default=None, ge=1)
    """Use the first so many items only."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Longest answer per turn."""


class Gsm8kConfig(BenchmarkConfig):
    path: str
    """JSON-lines file with `question` and `answer`."""


class HumanEvalConfig(BenchmarkConfig):
    path: str
    """HumanEval.jsonl or HumanEval.jsonl.gz."""
    max_new_tokens: int = Field(default=512, ge=1)
    """Longest answer."""


class MtBenchConfig(BenchmarkConfig):
    path: str
    """FastChat's question.jsonl."""
    judge: Literal["offline-rules"] = "offline-rules"
    """Who rates. `offline-rules` looks at form only and is no MT-Bench score."""
    max_new_tokens: int = Field(default=1024, ge=1)
    """Longest answer per turn."""


class ToyConfig(BenchmarkConfig):
    split: Literal["dev", "test"] = "dev"
    """Which generated items."""
    limit: int = Field(default=200, ge=1)
    """Number of items."""
    max_new_tokens: int = Field(default=48, ge=1)
    """Longest answer per turn, in characters."""


class EvaluateConfig(Frozen):
    gsm8k: Gsm8kConfig | None = None
    """Grade-school maths, 0 to 1."""
    humaneval: HumanEvalConfig | None = None
    """Python functions that must pass tests, 0 to 1."""
    mt_bench: MtBenchConfig | None = None
    """Two-turn conversations that a judge rates, 1 to 10."""
    toy_math: ToyConfig | None = None
    """The toy world's word problems, 0 to 1."""
    toy_code: ToyConfig | None = None
    """The toy world's functions, 0 to 1."""
    toy_chat: ToyConfig | None = None
    """The toy world's conversations under its fixed rubric, 1 to 10."""
    batch_size: int = Field(default=64, ge=1)
    """Prompts that are generated together; only speed depends on it."""
    allow_unsandboxed_code: bool = False
    """Run model-written code with process limits only. The report says so."""

    @property
    def benchmarks(self) -> Mapping[str, BenchmarkConfig]:
        """The benchmarks that are switched on, by name, in a fixed order."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in fields.items() if isinstance(value, BenchmarkConfig)}
