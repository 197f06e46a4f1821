"""Configuration of sources and of their preparation."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from data.fraction import Fraction

Format = Literal["gsm8k", "alpaca", "sharegpt", "messages"]
Role = Literal["specialist", "general"]


class Frozen(BaseModel):
    """Base of every config model: unknown keys are errors and values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class SourceConfig(Frozen):
    path: str = Field(min_length=1)
    """Local file or folder (json, jsonl, jsonl.gz, parquet, csv), a Hugging Face hub id, or toy:math|code|chat."""
    format: Format
    """How a row is laid out: gsm8k, alpaca, sharegpt or messages."""
    role: Role
    """specialist or general: which side of the balance this source feeds."""
    fraction: Fraction = Field(default=1.0, ge=0)
    """Share of the rows that is used, 1/256 or 0.25; above 1 repeats rows."""
    weight: None = None
    """Reserved for a share of data.total; only null for now."""
    exclude_tags: None = None
    """Reserved for a filter by tags; only null for now."""
    limit: int | None = Field(default=None, ge=1)
    """Read at most this many rows (for toy sources: generate that many)."""


class DataConfig(Frozen):
    max_bad_rows: float = Field(default=0.01, ge=0, le=1)
    """Share of a source's rows that may be quarantined before the run stops."""
    max_overlap: None = None
    """Reserved for a limit on evaluation items found in training rows; only null for now."""
    total: None = None
    """Reserved for a total budget with weights; only null for now."""
