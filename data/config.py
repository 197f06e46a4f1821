"""Configuration of sources and of their preparation."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from data.fraction import Fraction

Format = Literal["gsm8k", "gsm8k_rft", "alpaca", "sharegpt", "messages"]
Role = Literal["specialist", "general"]
INSTAG_PROMPT = (
    "You are a helpful assistant. Please identify tags of user intentions in the following user query and provide an "
    'explanation for each tag. Please respond in the JSON format {"tag": str, "explanation": str}. Query: {query} Assistant:'
)
"""The prompt of InsTag (Lu et al., arXiv 2308.07074)."""


class Frozen(BaseModel):
    """Base of every config model: unknown keys are errors and values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class FieldTagger(Frozen):
    kind: Literal["field"]
    field: str = Field(default="tags", min_length=1)
    """Field of a row that holds its tags: text, a list of texts, or a list of objects with `tag`."""


class KeywordTagger(Frozen):
    kind: Literal["keywords"]
    keywords: dict[str, str] = Field(min_length=1)
    """For each tag a regular expression, searched without regard to case in what the user said."""

    @model_validator(mode="after")
    def _compile(self) -> Self:
        for tag, pattern in self.keywords.items():
            _regular_expression(pattern, f"tag {tag!r}")
        return self


class ModelTagger(Frozen):
    kind: Literal["model"]
    path: str = Field(min_length=1)
    """Folder or hub id of a causal language model that writes tags, for example OFA-Sys/InsTagger."""
    prompt: str = INSTAG_PROMPT
    """What the model is asked; `{query}` stands for the user's first message."""
    batch_size: int = Field(default=8, ge=1)
    """Conversations that are tagged together."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda, cuda:1."""
    max_query_tokens: int = Field(default=1024, ge=16)
    """Longest prompt; a longer query is cut at its end."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Longest answer of the tagger."""

    @model_validator(mode="after")
    def _asks(self) -> Self:
        if "{query}" not in self.prompt:
            raise ValueError("the prompt must hold {query}, where the user's message goes")
        return self


Tagger = Annotated[FieldTagger | KeywordTagger | ModelTagger, Field(discriminator="kind")]


class SourceConfig(Frozen):
    path: str = Field(min_length=1)
    """File or folder (json, jsonl, jsonl.gz, parquet, csv), local, s3:// or gs://; a hub id; or toy:math|code|chat."""
    format: Format
    """How a row is laid out: gsm8k, gsm8k_rft, alpaca, sharegpt or messages."""
    role: Role
    """specialist or general: which side of the balance this source feeds."""
    fraction: Fraction = Field(default=1.0, ge=0)
    """Share of the rows that is used, 1/256 or 0.25; above 1 repeats rows. With data.total, share of the source's budget."""
    sampling: Literal["answer", "question"] = "answer"
    """What a fraction counts: answers (rows), or questions (first user messages), each with all its answers."""
    weight: Annotated[Fraction, Field(ge=0, le=1)] | None = None
    """Share of data.total; the weights of all sources sum to one. Only with data.total."""
    duplicates: Literal["quarantine", "keep"] = "quarantine"
    """What happens to a conversation that stood before, word for word. The toy sources repeat by nature and keep theirs."""
    tagger: Tagger | None = None
    """Where tags come from: a field of the row, keywords, or a model. With exclude_tags."""
    exclude_tags: str | None = None
    """Regular expression, without regard to case: a conversation with a tag that it is found in is left out."""
    limit: int | None = Field(default=None, ge=1)
    """Read at most this many rows (for toy sources: generate that many)."""
    split: str = "train"
    """Split of a hub data set."""
    revision: str | None = None
    """Commit or tag of a hub data set; without it the newest is read, and a later change goes unnoticed."""

    @model_validator(mode="after")
    def _filter_is_whole(self) -> Self:
        if (self.tagger is None) != (self.exclude_tags is None):
            raise ValueError("tagger and exclude_tags need each other; give both or none")
        if self.exclude_tags is not None:
            _regular_expression(self.exclude_tags, "exclude_tags")
        return self


class Total(Frozen):
    examples: int | None = Field(default=None, ge=1)
    """Examples of a recipe that takes every source once."""
    tokens: int | None = Field(default=None, ge=1)
    """Tokens of a recipe that takes every source once."""

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        if (self.examples is None) == (self.tokens is None):
            raise ValueError("give either examples or tokens")
        return self


def _as_total(value: Any) -> Any:
    return {"examples": value} if isinstance(value, int) and not isinstance(value, bool) else value


class DataConfig(Frozen):
    max_bad_rows: float = Field(default=0.01, ge=0, le=1)
    """Share of a source's rows that may be quarantined before the run stops."""
    max_overlap: float = Field(default=0.0, ge=0, le=1)
    """Share of a benchmark's items that may be found in training rows before the run stops."""
    total: Annotated[Total | None, BeforeValidator(_as_total)] = None
    """Budget that `weight` divides among the sources: a number of examples, {examples: N} or {tokens: N}."""


def _regular_expression(pattern: str, what: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{what}: {pattern!r} is no regular expression ({error})") from error
