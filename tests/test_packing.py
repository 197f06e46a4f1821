"""Packing and the layout of an optimiser step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.packing import pack
from trainers.batches import collate, layout

lengths = st.lists(st.integers(1, 64), max_size=60)


@given(lengths)
def test_packing_keeps_every_example_once_and_overfills_no_row(sizes):
    rows = pack(sizes, 64)
    assert sorted(i for row in rows for i in row) == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in row) <= 64 for row in rows)


@given(lengths)
def test_no_two_rows_could_be_one(sizes):
    loads = sorted(sum(sizes[i] for i in row) for row in pack(sizes, 64))
    assert len(loads) < 2 or loads[0] + loads[1] > 64


def test_an_example_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="65 tokens"):
        pack([3, 65], 64)


@given(lengths.filter(bool), st.integers(1, 8), st.integers(1, 4), st.booleans())
def test_every_layout_holds_the_same_examples(sizes, rows, workers, packing):
    passes = layout(sizes, 64, rows, workers, packing)
    assert sorted(i for p in passes for worker in p for row in worker for i in row) == list(range(len(sizes)))
    assert all(len(p) == workers and all(len(worker) <= rows for worker in p) for p in passes)


@pytest.mark.parametrize("rows", [[[0, 1]], [[0], [1]]], ids=["packed", "padded"])
def test_positions_restart_and_first_labels_are_never_used(rows):
    examples = [{"input_ids": [5, 6, 7], "labels": [5, 6, 7]}, {"input_ids": [8, 9], "labels": [8, 9]}]
    batch = collate(examples, rows, padding=0)
    flat = batch.labels[batch.labels != -100].tolist()
    assert flat == [6, 7, 9]
    starts = [(r, c) for r, c in zip(*(batch.position_ids == 0).nonzero().T.tolist(), strict=True)]
    assert starts == ([(0, 0), (0, 3)] if len(rows) == 1 else [(0, 0), (1, 0)])


def test_a_worker_without_rows_still_has_something_to_run():
    batch = collate([], [], padding=0)
    assert batch.input_ids.shape == (1, 1)
    assert (batch.labels == -100).all()
