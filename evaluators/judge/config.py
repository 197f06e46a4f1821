"""Configuration of a judge."""

from typing import Annotated, ClassVar, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from data.config import Frozen


class PriceConfig(Frozen):
    prompt: float = Field(ge=0)
    """US dollars per million prompt tokens."""
    completion: float = Field(ge=0)
    """US dollars per million completion tokens."""


def _plain_url(url: str) -> str:
    """An address of a web service without a secret in it."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an address such as https://host/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must hold no user, password or query; name the variable that holds the key in key_env")
    return url.rstrip("/")


class JudgeConfig(Frozen):
    """A model that rates answers: an OpenAI-compatible endpoint, or a model folder that our own generation serves."""

    NOT_THE_RATING: ClassVar[tuple[str, ...]] = ("key_env", "concurrency", "timeout", "deadline", "retries", "price")
    """Fields that may differ between ratings that are compared."""

    base_url: Annotated[str, AfterValidator(_plain_url)] | None = None
    """Address of the endpoint, for example https://host/v1."""
    model: str | None = Field(default=None, min_length=1)
    """The model that the endpoint is asked for. A dated name keeps the judge the same when the service moves on."""
    key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)
    """NAME of the environment variable that holds the key, never the key; null for an endpoint that needs none."""
    path: str | None = Field(default=None, min_length=1)
    """Model folder of a local judge, in place of base_url and model. It ranks trials; its ratings are no MT-Bench scores."""
    concurrency: int = Field(default=16, ge=1, le=256)
    """Judgments that one evaluation asks for at the same time."""
    timeout: float = Field(default=120.0, gt=0)
    """Seconds until one call counts as lost, however slowly its reply drips in."""
    deadline: float = Field(default=3600.0, gt=0)
    """Seconds until an evaluation that still waits for judgments fails. What was judged is kept for the next attempt."""
    retries: int = Field(default=6, ge=0, le=20)
    """Further attempts at a call that failed for a passing reason, with growing pauses."""
    replicates: int = Field(default=1, ge=1, le=25)
    """Judgments of each answer; their median is its rating."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """Sampling temperature of the judge."""
    max_tokens: int = Field(default=2048, ge=1)
    """Longest judgment."""
    price: PriceConfig | None = None
    """What the endpoint charges; without it the cost is told in tokens only."""
    fastchat_compat: bool = False
    """FastChat's own rules, to compare with its figures: first rating, any number, and what has none is left out."""

    @model_validator(mode="after")
    def _one_judge(self) -> Self:
        endpoint = self.base_url is not None and self.model is not None
        if endpoint == (self.path is not None) or (self.path is not None and (self.base_url or self.model or self.key_env)):
            raise ValueError("give base_url and model of an endpoint, or path of a local model folder")
        return self
