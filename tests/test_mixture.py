"""Mixtures: exact, nested, deterministic."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import mixture
from data.fraction import count, parse_fraction

fractions = st.fractions(0, 3, max_denominator=512).map(float)


@pytest.mark.parametrize(
    ("rows", "kept"), [(110_142, 430), (20_022, 78), (86_060, 336)], ids=["GSM8K RFT", "Code Alpaca", "ShareGPT"]
)
def test_a_256th_of_the_papers_sets_is_what_the_paper_says(rows, kept):
    assert count(1 / 256, rows) == kept


@given(st.integers(0, 10_000), st.fractions(0, 3, max_denominator=1000))
def test_counts_round_halves_up(rows, fraction):
    exact = fraction * rows
    assert count(float(fraction), rows) == int(exact + Fraction(1, 2))


def test_a_decimal_stands_for_itself_and_not_for_its_nearest_float():
    assert count(0.1, 5) == 1
    assert count(0.3, 5) == 2


@given(st.integers(1, 500), fractions, fractions, st.integers(0, 5))
def test_a_smaller_fraction_takes_a_subset(rows, one, other, seed):
    small, large = sorted((one, other))
    fewer, more = mixture.take(rows, small, seed, "x"), mixture.take(rows, large, seed, "x")
    assert list(more[: len(fewer)]) == list(fewer)


@given(st.integers(1, 300), fractions, st.integers(0, 5))
def test_no_row_is_taken_much_more_often_than_another(rows, fraction, seed):
    times = np.bincount(mixture.take(rows, fraction, seed, "x"), minlength=rows)
    assert times.max() - times.min() <= 1


def test_seed_and_source_change_what_is_taken():
    chosen = {tuple(mixture.take(1000, 0.1, seed, name)) for seed in (0, 1) for name in ("a", "b")}
    assert len(chosen) == 4


@given(st.integers(1, 200), st.integers(1, 3), st.integers(1, 64), st.integers(0, 3))
def test_every_epoch_sees_every_example_once(examples, epochs, batch, seed):
    order = mixture.epochs(examples, epochs, seed)
    assert [sorted(order[e * examples : (e + 1) * examples]) for e in range(epochs)] == [list(range(examples))] * epochs
    assert np.concatenate(mixture.steps(order, batch)).tolist() == order.tolist()


def test_fractions_are_read_as_people_write_them():
    assert parse_fraction("1/256") == 1 / 256
    assert parse_fraction(0.25) == 0.25
    with pytest.raises(ValueError, match="1/0"):
        parse_fraction("1/0")
