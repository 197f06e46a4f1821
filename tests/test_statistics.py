"""Errors and differences: closed forms, scipy, and what only a paired test sees."""

import math
from random import Random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from evaluators import statistics
from evaluators.benchmark import Completion, EvaluationFailed, Item, Verdict
from evaluators.statistics import NotComparable, bootstrap, clustered, combined, holm, minimum_detectable, paired, wilson
from evaluators.subsets import subset

values = st.lists(st.floats(-10, 10), min_size=2, max_size=30)


def verdicts(scores, groups=None, weights=None):
    groups = groups or [""] * len(scores)
    weights = weights or [1.0] * len(scores)
    return [Verdict(str(i), s, group=g, weight=w) for i, (s, g, w) in enumerate(zip(scores, groups, weights, strict=True))]


def scored(found):
    return statistics.score(found, [[Completion("", 1, "stop")]] * len(found))


def names(count):
    return [str(i) for i in range(count)]


@given(values)
def test_without_clusters_the_error_is_that_of_a_mean(x):
    found = clustered(x, names(len(x)))
    assert found.value == pytest.approx(np.mean(x), abs=1e-9)
    assert found.stderr == pytest.approx(stats.sem(x), abs=1e-9)


@given(st.lists(st.tuples(st.floats(1, 10), st.floats(1, 10)), min_size=2, max_size=30))
def test_two_turns_of_a_question_count_as_one_draw(turns):
    found = clustered([x for pair in turns for x in pair], [str(i) for i, pair in enumerate(turns) for _ in pair])
    assert found.n == len(turns)
    assert found.stderr == pytest.approx(stats.sem([sum(pair) / 2 for pair in turns]), abs=1e-9)


def test_the_clustered_error_agrees_with_the_formula_of_the_paper_written_out():
    random = np.random.default_rng(1)
    x, groups = random.normal(size=60), random.integers(0, 12, size=60).astype(str)
    mean = x.mean()
    pairs = sum((x[i] - mean) * (x[j] - mean) for i in range(60) for j in range(60) if groups[i] == groups[j])
    count = len(set(groups))
    found = clustered(list(x), list(groups))
    assert found.stderr == pytest.approx(math.sqrt(pairs) / 60 * math.sqrt(count / (count - 1)))


def test_ignoring_clusters_would_make_samples_look_certain():
    random, misses = np.random.default_rng(2), {"clustered": 0, "naive": 0}
    for _ in range(300):
        x = np.repeat(random.normal(size=40), 5) + 0.1 * random.normal(size=200)
        for name, groups in (("clustered", np.repeat(np.arange(40), 5).astype(str)), ("naive", np.arange(200).astype(str))):
            found = clustered(list(x), list(groups))
            misses[name] += abs(found.value) > 1.96 * found.stderr
    assert misses["clustered"] < 30
    assert misses["naive"] > 90


def test_a_score_under_weights_is_the_mean_over_the_judgments_that_count():
    found = scored(verdicts([6.0, 9.0, 0.0], weights=[0.5, 1.0, 0.0]))
    assert (found.value, found.n) == (8.0, 2)
    with pytest.raises(EvaluationFailed):
        scored(verdicts([5.0], weights=[0.0]))


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=3, max_size=25))
def test_a_paired_difference_is_scipy_s(both):
    first, second = zip(*both, strict=True)
    found = paired(verdicts(first), verdicts(second))
    if found.stderr > 1e-6:
        expected = stats.ttest_rel(second, first)
        interval = expected.confidence_interval(0.95)
        assert (found.value, found.p) == (pytest.approx(np.mean(second) - np.mean(first)), pytest.approx(expected.pvalue))
        assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_an_unpaired_difference_is_welch_s():
    random = np.random.default_rng(3)
    first, second = random.normal(0, 1, 50), random.normal(0.3, 2, 50)
    found = statistics.unpaired(scored(verdicts(first)), scored(verdicts(second)))
    expected = stats.ttest_ind(second, first, equal_var=False)
    assert (found.p, found.dof) == (pytest.approx(expected.pvalue), pytest.approx(expected.df))


def test_pairing_finds_three_points_on_1319_items_that_are_lost_without_it():
    random = np.random.default_rng(4)
    difficulty = random.random(1319)
    first = (difficulty < 0.50).astype(float)
    second = np.where(random.random(1319) < 0.05, 1 - first, first)  # some answers change either way
    changed = random.permutation(np.flatnonzero(second == 0))
    second[changed[: round(1319 * 0.03 + (first.sum() - second.sum()))]] = 1
    assert second.mean() - first.mean() == pytest.approx(0.03, abs=0.001)
    together = paired(verdicts(first), verdicts(second))
    apart = statistics.unpaired(scored(verdicts(first)), scored(verdicts(second)))
    assert together.p < 0.01 < 0.05 < apart.p
    assert together.low > 0 > apart.low
    assert together.detectable < 0.03 < apart.detectable


def test_under_no_difference_a_paired_test_cries_wolf_in_one_of_twenty():
    random = np.random.default_rng(5)
    alarms = sum(paired(verdicts(random.normal(size=40)), verdicts(random.normal(size=40))).p < 0.05 for _ in range(1000))
    assert 25 <= alarms <= 80


def test_a_paired_difference_is_clustered_by_question():
    random = np.random.default_rng(6)
    groups = [str(i) for i in range(30) for _ in range(4)]
    first, second = random.normal(size=120), np.repeat(random.normal(size=30), 4)
    found = paired(verdicts(first, groups), verdicts(second, groups))
    means = (second - first).reshape(30, 4).mean(1)
    assert found.p == pytest.approx(stats.ttest_1samp(means, 0).pvalue)


def test_answers_that_never_differ_cannot_be_told_apart_and_a_constant_gap_only_by_enough_items():
    assert paired(verdicts([1, 0, 1]), verdicts([1, 0, 1])).p == 1
    for n in (2, 3, 8):
        assert paired(verdicts([0.1] * n), verdicts([0.3] * n)).p == pytest.approx(stats.binomtest(n, n).pvalue)
    one = paired(verdicts([0]), verdicts([1]))
    assert (one.p, one.low, one.high) == (1, -math.inf, math.inf)


def test_scores_of_different_items_are_not_compared():
    items = [Item(str(i), ("?",)) for i in range(40)]
    small, large = (verdicts_of(subset(items, n)) for n in (1 / 4, 1 / 2))
    with pytest.raises(NotComparable, match="compare within a rung"):
        paired(small, large)
    with pytest.raises(NotComparable, match="different rungs"):
        statistics.unpaired(scored(small), scored(large))
    assert scored(small).items == scored(list(reversed(small))).items


def verdicts_of(items):
    return [Verdict(item.id, float(int(item.id) % 2)) for item in items]


def test_combined_differences_add_up_as_independent_ones():
    random = np.random.default_rng(7)
    parts = [paired(verdicts(random.normal(size=n)), verdicts(random.normal(size=n))) for n in (30, 80)]
    found = combined([(0.25, parts[0]), (0.75, parts[1])])
    assert found.value == pytest.approx(0.25 * parts[0].value + 0.75 * parts[1].value)
    assert found.stderr == pytest.approx(math.hypot(0.25 * parts[0].stderr, 0.75 * parts[1].stderr))
    assert combined([(1.0, parts[0])]) == parts[0]


def test_the_bootstrap_agrees_with_scipy_s_and_knows_clusters():
    random = np.random.default_rng(8)
    x = random.exponential(size=60)
    expected = stats.bootstrap((x,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    assert bootstrap(list(x), names(60)) == pytest.approx((expected.low, expected.high), abs=0.02)
    wide = bootstrap([v for v in x for _ in range(4)], [str(i) for i in range(60) for _ in range(4)])
    assert wide == pytest.approx((expected.low, expected.high), abs=0.02)


@pytest.mark.parametrize(("points", "needed"), [(1, 8722), (2, 2181), (3, 970), (5, 349)])
def test_the_detectable_difference_agrees_with_published_sample_sizes(points, needed):
    assert minimum_detectable(math.sqrt(1 / 9 / needed)) == pytest.approx(points / 100, rel=0.001)


def test_the_detectable_difference_is_found_four_times_in_five():
    random, n = np.random.default_rng(9), 200
    gap = minimum_detectable(1 / math.sqrt(n))
    found = sum(paired(verdicts([0.0] * n), verdicts(random.normal(gap, 1, n))).p < 0.05 for _ in range(500))
    assert 0.75 < found / 500 < 0.85


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_s_p_values_are_bonferroni_s_for_the_smallest_and_keep_the_order(p):
    adjusted = holm(p)
    smallest = min(range(len(p)), key=lambda i: p[i])
    assert adjusted[smallest] == pytest.approx(min(1, len(p) * p[smallest]))
    assert all(adjusted[i] <= adjusted[j] for i in range(len(p)) for j in range(len(p)) if p[i] <= p[j])
    assert all(raw <= new <= 1 for raw, new in zip(p, adjusted, strict=True))


def test_holm_agrees_with_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_wilson_s_interval_agrees_with_its_closed_form():
    low, high = wilson(3, 40)
    z, p, n = stats.norm.ppf(0.975), 3 / 40, 40
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert (low, high) == pytest.approx(((middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)))
    assert wilson(0, 20)[1] > 0.1


categories = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60)


@settings(max_examples=60)
@example(["a"] * 40 + list("bcdefgh"), 24, 30, Random(1))
@given(categories, st.integers(1, 60), st.integers(1, 60), st.randoms())
def test_subsets_are_nested_stratified_and_do_not_depend_on_the_order(labels, n, m, random):
    items = [Item(str(i), ("?",), category=label) for i, label in enumerate(labels)]
    few, many = sorted((min(n, len(items)), min(m, len(items))))
    chosen = subset(items, few / len(items))
    assert len(chosen) == few
    assert set(chosen) <= set(subset(items, many / len(items)))
    assert set(subset(random.sample(items, len(items)), few / len(items))) == set(chosen)
    assert chosen == [item for item in items if item in chosen], "in the order in which they came"
    for label in set(labels):
        share = few * labels.count(label) / len(items)
        taken = sum(item.category == label for item in chosen)
        assert math.floor(share - 1e-9) <= taken <= math.ceil(share - 1e-9)


def test_samples_of_a_question_stay_together_and_nothing_is_no_subset():
    items = [Item(f"{q}#{s}", ("?",), group=str(q)) for q in range(10) for s in range(3)]
    chosen = subset(items, 0.31)
    assert len(chosen) == 12
    assert len({item.group for item in chosen}) == 4
    with pytest.raises(ValueError, match="above 0"):
        subset(items, 0)
