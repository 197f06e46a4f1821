"""What a simulation makes up beside the surface: noise of seeds and of benchmark items, and what things cost.

Everything is drawn from the seed of the world and the key of what is measured, so that a stage or an evaluation comes out
the same whoever asks for it and whenever.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.mixture import generator
from sweeps.config import SweepConfig
from sweeps.simulate import tables
from sweeps.simulate.tables import scale_of
from trainers.job import StageJob

SHARED = 0.5
"""Share of the variance of an answer that is the question's: hard questions are hard for all trials, so that the differences
of trials are less noisy than their scores."""
JITTER = 0.02
"""Relative standard deviation of a duration."""
LENGTH = 2048
"""Tokens of an example: the paper's trainer pads every one to it."""
FLOPS = 0.4 * 312e12
"""Of an A100 at 40 % of its peak."""
EVALUATION_S = 300.0
"""Device-seconds of an evaluation of a 7B model on all items: about 0.3M tokens at 1,000 a second."""
ASKED = 100
"""Items of a benchmark that has no published number of them."""


@dataclass(frozen=True)
class World:
    """The made-up part of a simulation, for models of one size."""

    seed: int
    size: str

    def stage_seconds(self, job: StageJob, config: SweepConfig) -> float:
        """Device-seconds of a stage: 6 FLOPs for each parameter and token."""
        examples = job.train.epochs * sum(share.fraction * _rows(config, share.name) for share in job.shares)
        return examples * 6 * tables.PARAMETERS[self.size] * LENGTH / FLOPS * self._jitter(job.key)

    def evaluation_seconds(self, key: str) -> float:
        """Device-seconds of an evaluation."""
        return EVALUATION_S * tables.PARAMETERS[self.size] / tables.PARAMETERS["7b"] * self._jitter(key)

    def measured(
        self, name: str, truth: float, config: SweepConfig, stages: Sequence[str], model: str, share: float = 1.0
    ) -> dict[str, Any]:
        """The score that an evaluation of a trained model would give it on the first share of a benchmark's items."""
        scale = scale_of(name)
        seeds = sum(float(self._random("seed", name, key).normal()) for key in stages) / len(stages) ** 0.5
        value = truth + tables.SEED_SD[scale] * seeds
        answers = self.answers(name, value, model)[: config.evaluate.benchmarks[name].limit]
        answers = answers[: max(2, round(share * len(answers)))]
        mean, error = float(answers.mean()), float(answers.std(ddof=1) / len(answers) ** 0.5)
        low, high = (0.0, 1.0) if scale == "unit" else (1.0, 10.0)
        about = {"no_answer_rate": 0.0, "truncated_rate": 0.0, "items": "", "judge": None, "extras": {}}
        return {"n": len(answers), "value": min(max(mean, low), high), "stderr": error, "scale": scale} | about

    def answers(self, name: str, mean: float, model: str) -> NDArray[np.float64]:
        """The scores of all items, in an order in which the first ones are a fair sample, shape (items,)."""
        items = tables.QUESTIONS.get(name, ASKED)
        questions = self._random("items", name).normal(size=items)
        answers = self._random("answers", name, model).normal(size=items)
        luck = SHARED**0.5 * questions + (1 - SHARED) ** 0.5 * answers
        if scale_of(name) == "ten":
            return mean + tables.MT_BENCH_SD * luck
        return (luck < NormalDist().inv_cdf(min(max(mean, 1e-6), 1 - 1e-6))).astype(np.float64)

    def _jitter(self, key: str) -> float:
        return exp(JITTER * float(self._random("duration", key).normal()))

    def _random(self, *purpose: str) -> np.random.Generator:
        return generator("simulation", self.seed, *purpose)


def _rows(config: SweepConfig, source: str) -> float:
    """Examples of a source: those of its role in the paper, in equal parts."""
    role = config.sources[source].role
    return tables.EXAMPLES[role] / sum(other.role == role for other in config.sources.values())
