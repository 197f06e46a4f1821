"""Choosing the next token: the most likely one, or one drawn by nucleus sampling with noise of the request's own.

Noise is added to the scores, and the largest one wins (Gumbel's trick). Each request has a random generator that its id
seeds, so what is drawn does not depend on the batch.

Rounding does. In fp32 the scores of one row differ by some 1e-6 of their range between a batch and the row alone, because
matrix products of other shapes add in another order. Where the two best scores lie closer than `NEAR`, that may turn the
choice, and `choose` says so: such a row is decoded again by itself, so that the batch never decides an answer.
"""

from collections.abc import Sequence
from typing import Any

from data.mixture import generator
from evaluators.benchmark import Sampling
from evaluators.generation.interface import Request

NEAR = 1e-5
"""Difference of two scores, as a share of the range of all, below which rounding may decide between them."""


class Draw:
    """The random numbers of one request."""

    def __init__(self, request: Request) -> None:
        self.sampling: Sampling = request.sampling
        self._random = generator("draw", request.sampling.seed, request.id)

    def noise(self, size: int) -> Any:
        return self._random.gumbel(size=size)


def choose(scores: Any, draws: Sequence[Draw]) -> tuple[list[int], list[bool]]:
    """The next token of each row of `scores` (rows, vocabulary), and whether rounding may have decided it."""
    import torch

    scores = scores.float()
    near = NEAR * (scores.amax(-1) - scores.amin(-1))
    sampled = [i for i, draw in enumerate(draws) if draw.sampling.temperature > 0]
    edge = torch.zeros(len(draws), dtype=torch.bool, device=scores.device)
    if sampled:
        scores = scores.clone()
        for i in sampled:
            scores[i], near[i], edge[i] = _drawn(scores[i], near[i], draws[i])
    best = scores.topk(2).values
    close = (best[:, 0] - best[:, 1] <= near) | edge
    return scores.argmax(-1).tolist(), close.tolist()  # of equal scores the first, as `generate` chooses


def _drawn(scores: Any, near: Any, draw: Draw) -> tuple[Any, Any, Any]:
    """Scores with noise within the nucleus; the near of them; whether the winner stands on the nucleus's edge."""
    import torch

    warped = scores / draw.sampling.temperature
    noise = torch.as_tensor(draw.noise(len(scores)), dtype=warped.dtype, device=warped.device)
    ordered, order = warped.sort(descending=True)
    probability = ordered.softmax(-1)
    before = torch.empty_like(probability).scatter_(-1, order, probability.cumsum(-1) - probability)
    noisy = (warped + noise).masked_fill(before >= draw.sampling.top_p, -float("inf"))
    wider = (warped + noise).masked_fill(before >= draw.sampling.top_p + NEAR, -float("inf"))
    winner = noisy.argmax()
    edge = (wider.argmax() != winner) | (before[winner] > draw.sampling.top_p - NEAR)
    return noisy, near / draw.sampling.temperature, edge
