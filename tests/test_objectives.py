"""Objectives of a trial, and means over its repeats."""

from statistics import stdev

import numpy as np
import pytest

from sweeps.objectives import pooled


def score(value, stderr, **more):
    return {"toy_math": {"value": value, "stderr": stderr, "scale": "unit", "extras": {}, "judge": None, "items": "a"} | more}


def test_one_repeat_is_what_it_is():
    assert pooled([score(0.4, 0.1)]) == score(0.4, 0.1)


def test_the_error_of_repeats_covers_the_truth_as_often_as_it_says():
    """A world with questions that all repeats share and seeds that they do not: the error is that of both."""
    random, questions, seeds, sd_seed = np.random.default_rng(0), 100, 3, 0.05
    means, errors = [], []
    for _ in range(600):
        asked = random.normal(0.5, 0.3, questions)
        repeats = [asked + random.normal(0, sd_seed) for _ in range(seeds)]
        made = pooled([score(r.mean(), r.std(ddof=1) / questions**0.5) for r in repeats])["toy_math"]
        means.append(made["value"])
        errors.append(made["stderr"])
    assert np.mean(np.square(errors)) ** 0.5 == pytest.approx(stdev(means), rel=0.1)
