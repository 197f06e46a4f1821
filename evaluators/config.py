"""Configuration of the benchmarks of a sweep."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from data.config import Frozen, Role
from evaluators.generation.config import EngineConfig, TransformersConfig
from evaluators.judge.config import JudgeConfig

CODE_BENCHMARKS = ("humaneval", "toy_code")
"""Benchmarks that run code which a model wrote."""
JUDGED_BENCHMARKS = ("mt_bench",)
"""Benchmarks whose judgments are kept in the store."""


class BenchmarkConfig(Frozen):
    FILES: ClassVar[tuple[str, ...]] = ()
    """Fields that name a file: what it holds counts, not where it lies."""
    NOT_THE_SCORE: ClassVar[dict[str, Any]] = {"role": True, "weight": True}
    """Fields, with those inside of them, that leave every score as it is."""

    role: Role
    """specialist or general: the objective that this score enters."""
    weight: float = Field(default=1.0, gt=0)
    """Weight of the score among those of its role."""
    limit: int | None = Field(default=None, ge=1)
    """Use the first so many items only."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Longest answer per turn."""


class Gsm8kConfig(BenchmarkConfig):
    FILES = ("path", "shots_path")

    path: str = Field(min_length=1)
    """JSON-lines file with `question` and `answer`, or a hub id. Split dev takes the training set's, test the test set's."""
    split: Literal["dev", "test"] = "dev"
    """dev takes a fixed slice of the training set, which no training source keeps; test takes every question of the file."""
    dev_questions: int = Field(default=500, ge=1)
    """Size of that slice, by a hash of the questions."""
    scoring: Literal["strict", "openai", "lmeval_strict", "lmeval_flexible"] = "strict"
    """The rule that gives the score; what the others would give is reported beside it."""
    shots: int = Field(default=0, ge=0)
    """Worked examples before each question, as earlier turns of the conversation."""
    shots_path: str | None = Field(default=None, min_length=1)
    """Training file to take them from, needed with split test; null is `path`."""
    shots_seed: int = Field(default=0, ge=0)
    """Which examples."""

    @model_validator(mode="after")
    def _examples_are_no_test_items(self) -> Self:
        if self.shots and self.split == "test" and self.shots_path is None:
            raise ValueError("split test with shots needs shots_path, a training file: examples are no test questions")
        return self

    @model_validator(mode="after")
    def _the_dev_slice_is_of_the_training_set(self) -> Self:
        name = self.path.rsplit("/", 1)[-1].lower()
        if self.split == "dev" and name.startswith("test"):
            raise ValueError(f"split dev takes a slice of the training set and {self.path} is named as a test set; give the "
                             "training file, or write split: test")  # fmt: skip
        return self


class HumanEvalConfig(BenchmarkConfig):
    FILES = ("path",)

    path: str
    """HumanEval.jsonl or HumanEval.jsonl.gz."""
    max_new_tokens: int = Field(default=512, ge=1)
    """Longest answer."""
    prompting: Literal["chat", "completion"] = "chat"
    """Ask through the chat template, or let the model continue the prompt as text."""
    samples: int = Field(default=1, ge=1)
    """Answers per problem."""
    k: tuple[int, ...] = (1,)
    """Values of k for pass@k, at most `samples`; the score is pass@1."""
    temperature: float = Field(default=0.0, ge=0)
    """0 is greedy; the paper samples at 0.2 for pass@1 and 0.8 for pass@100."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Share of the probability that sampling keeps."""
    seed: int = Field(default=0, ge=0)
    """Seed of the sampling."""

    @model_validator(mode="after")
    def _samples_are_enough(self) -> Self:
        if not all(1 <= k <= self.samples for k in self.k):
            raise ValueError(f"k = {list(self.k)} needs values from 1 to samples = {self.samples}; raise samples")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("greedy samples are all alike; set temperature above 0 or samples to 1")
        return self


class MtBenchConfig(BenchmarkConfig):
    FILES = ("path", "references", "corrected_references", "prompts")
    NOT_THE_SCORE = {**BenchmarkConfig.NOT_THE_SCORE, "judge": set(JudgeConfig.NOT_THE_RATING)}

    path: str
    """FastChat's question.jsonl."""
    judge: Annotated[
        Annotated[Literal["offline-rules"], Tag("offline")] | Annotated[JudgeConfig, Tag("asked")],
        Discriminator(lambda value: "offline" if isinstance(value, str) else "asked"),
    ] = "offline-rules"
    """Who rates: a model, or `offline-rules`, which looks at form only and gives no MT-Bench score."""
    references: str | None = None
    """FastChat's reference_answer/<judge>.jsonl; math, reasoning and coding questions need it."""
    corrected_references: str | None = None
    """File of the same format whose answers replace those of `references`; 13 of FastChat's 30 are known to be wrong."""
    prompts: str | None = None
    """FastChat's judge_prompts.jsonl; without it the judge is asked in our own words."""
    deterministic_answers: bool = False
    """Answer greedily in every category. FastChat samples writing and roleplay at 0.7, stem and humanities at 0.1."""
    choices: int = Field(default=1, ge=1, le=100)
    """Answers per question, each with a seed of its own."""
    seed: int = Field(default=0, ge=0)
    """Seed of the first choice."""
    max_new_tokens: int = Field(default=1024, ge=1)
    """Longest answer per turn."""

    @model_validator(mode="after")
    def _choices_differ(self) -> Self:
        if self.choices > 1 and self.deterministic_answers:
            raise ValueError("deterministic answers are all alike; set choices to 1 or deterministic_answers to false")
        return self


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
    engine: EngineConfig = TransformersConfig()
    """Who generates: transformers, continuous (transformers on a GPU), vllm (in its own environment) or openai (a server)."""
    batch_size: int = Field(default=64, ge=1)
    """Prompts that are generated together; in fp32 only speed depends on it."""
    allow_unsandboxed_code: bool = False
    """Run model-written code without the sandbox, with process limits only. The report says so."""

    @property
    def benchmarks(self) -> Mapping[str, BenchmarkConfig]:
        """The benchmarks that are switched on, by name, in a fixed order."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in fields.items() if isinstance(value, BenchmarkConfig)}

    @property
    def runs_code(self) -> bool:
        """Whether a benchmark runs what the model wrote."""
        return any(name in CODE_BENCHMARKS for name in self.benchmarks)


def names_file(field: str) -> bool:
    """Whether a field of a configuration may name a file."""
    return field.endswith("path") or field in MtBenchConfig.FILES
