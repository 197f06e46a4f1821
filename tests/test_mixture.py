"""Mixtures: exact, nested, deterministic."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import mixture
from data.fraction import count, parse_fraction


def table(rows, questions=None, lengths=None):
    """A source of so many rows, each with a question of its own and one token unless told otherwise."""
    ones = np.ones(rows, np.int64)
    return mixture.Table(ones if lengths is None else np.array(lengths), np.array(questions or range(rows)))


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
    fewer, more = mixture.take(table(rows), small, seed, "x"), mixture.take(table(rows), large, seed, "x")
    assert list(more[: len(fewer)]) == list(fewer)


@given(st.integers(1, 300), fractions, st.integers(0, 5))
def test_no_row_is_taken_much_more_often_than_another(rows, fraction, seed):
    times = np.bincount(mixture.take(table(rows), fraction, seed, "x"), minlength=rows)
    assert times.max() - times.min() <= 1


def test_seed_and_source_change_what_is_taken():
    chosen = {tuple(mixture.take(table(1000), 0.1, seed, name)) for seed in (0, 1) for name in ("a", "b")}
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


def test_the_papers_fractions_take_what_the_paper_says_and_nest():
    for rows, kept in ((110_142, 430), (20_022, 78), (86_060, 336)):
        whole = table(rows)
        taken = [mixture.take(whole, 1 / 4**i, 0, "x") for i in range(5)]
        assert len(taken[0]) == rows and len(taken[4]) == kept
        assert all(list(more[: len(fewer)]) == list(fewer) for more, fewer in pairwise(taken))


answers = st.lists(st.integers(0, 12), min_size=1, max_size=80)


@given(answers, fractions, fractions, st.integers(0, 3))
def test_by_question_a_fraction_takes_questions_with_all_their_answers(questions, one, other, seed):
    whole, draw = table(len(questions), questions), mixture.Draw("question")
    small, large = sorted((one, other))
    fewer, more = (mixture.take(whole, share, seed, "x", draw) for share in (small, large))
    assert list(more[: len(fewer)]) == list(fewer)
    size = len(set(questions))
    passes, rest = divmod(count(large, size), size)
    times = np.bincount(more, minlength=len(questions))
    # Every answer of a question is taken as often as the question, and so many questions are taken once more.
    of = {q: {int(times[i]) for i, asked in enumerate(questions) if asked == q} for q in questions}
    assert all(len(taken) == 1 for taken in of.values())
    assert sorted(t for taken in of.values() for t in taken) == sorted([passes] * (size - rest) + [passes + 1] * rest)


@given(st.integers(1, 200), st.integers(1, 600), fractions, st.integers(0, 3))
def test_a_budget_of_examples_is_exact_whatever_the_source_holds(rows, budget, fraction, seed):
    taken = mixture.take(table(rows), fraction, seed, "x", mixture.Draw(budget=budget))
    assert len(taken) == count(fraction, budget)
    assert np.ptp(np.bincount(taken, minlength=rows)) <= 1


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 3))
def test_a_budget_of_tokens_is_met_to_half_an_example_and_nests(lengths, one, other, seed):
    whole = table(len(lengths), lengths=lengths)
    fewer, more = (
        mixture.take(whole, 1, seed, "x", mixture.Draw(budget=budget, unit="tokens")) for budget in sorted((one, other))
    )
    assert list(more[: len(fewer)]) == list(fewer)
    assert abs(sum(lengths[i] for i in more) - max(one, other)) <= max(lengths) / 2
