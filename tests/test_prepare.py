"""Prepared sources: every row accounted for, made once, to the same bytes by any number of processes."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import conversations, prepare, sources, tokenizers
from data.config import SourceConfig
from data.prepare import Prepared, TooManyBadRows, prepared_key, refuse_bad_rows
from data.store import Store
from data.words import HeldOut, question_id, words


def rows_file(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SourceConfig(path=str(path), format="gsm8k", role="specialist")


def made(source, store, length=256, **more):
    return prepare.prepare(source, "base", tokenizers.byte_level, length, store, **more)


KINDS = {
    "good": lambda i: {"question": f"Question {i}?", "answer": f"Answer {i}."},
    "same": lambda i: {"question": "Again?", "answer": "Again."},
    "long": lambda i: {"question": f"Long {i}?", "answer": "word " * 100},
    "control": lambda i: {"question": f"<|end|> {i}", "answer": "a"},
    "empty": lambda i: {"question": f"{i}", "answer": ""},
    "held": lambda i: {"question": "HELD: out, is  it", "answer": f"Answer {i}."},
}


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(sorted(KINDS)), max_size=14))
def test_every_row_is_used_quarantined_or_held_out(tmp_path_factory, kinds):
    work = tmp_path_factory.mktemp("prepare")
    source, store = rows_file(work / "rows.jsonl", [KINDS[kind](i) for i, kind in enumerate(kinds)]), Store(str(work / "s"))
    record = made(source, store, held_out=HeldOut.of(["Held out: is it?"]))
    times = Counter(kinds)
    bad = {
        "answer_beyond_max_length": times["long"],
        "control_token": times["control"],
        "duplicate": max(0, times["same"] - 1),
        "empty": times["empty"],
    }
    assert record["quarantined"] == {reason: number for reason, number in bad.items() if number}
    assert record["held_out"] == times["held"]
    assert record["rows"] == len(kinds) == record["used"] + sum(bad.values()) + record["held_out"]
    entries = [json.loads(line) for line in prepare.quarantine_file(record, store).open()]
    assert Counter(entry["reason"] for entry in entries) == record["quarantined"]
    assert all(entry["place"].startswith("rows.jsonl:") for entry in entries)
    assert len(Prepared(record["key"], store)) == record["used"]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A source of some twenty batches, with bad rows and duplicates among them."""
    folder = tmp_path_factory.mktemp("many")
    rows = [KINDS["long" if i % 50 == 7 else "same" if i % 50 == 9 else "good"](i) for i in range(600)]
    return rows_file(folder / "rows.jsonl", rows)


def test_any_number_of_processes_makes_the_same_bytes(many, tmp_path, monkeypatch):
    monkeypatch.setattr(conversations, "BATCH_ROWS", 30)
    monkeypatch.setattr(prepare, "BATCHES_PER_PROCESS", 1)
    found = []
    for processes in (1, 2, 3):
        store = Store(str(tmp_path / str(processes)))
        record = made(many, store, processes=processes)
        entry = store.fetch(prepare.KIND, record["key"])
        files = sorted(path for path in entry.rglob("*") if path.is_file())
        found.append([(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files])
        assert len(found[0]) == 2 and record["used"] == 600 - 12 - 11
    assert found[0] == found[1] == found[2]


def test_a_process_that_dies_is_an_error_and_leaves_no_entry(many, tmp_path, monkeypatch):
    import os

    monkeypatch.setattr(conversations, "BATCH_ROWS", 30)
    monkeypatch.setattr(prepare, "BATCHES_PER_PROCESS", 1)
    monkeypatch.setattr(prepare, "_tokenised", lambda *_: os._exit(9))
    store = Store(str(tmp_path))
    with pytest.raises(RuntimeError):
        made(many, store, processes=2)
    key = prepared_key(sources.fingerprint(many), "base", 256)
    assert store.record(prepare.KIND, key) is None


def test_what_is_prepared_is_not_prepared_again(many, tmp_path):
    store = Store(str(tmp_path))
    first = made(many, store)
    again = prepare.prepare(many, "base", lambda: pytest.fail("a tokenizer was opened"), 256, store)
    assert again == first


def test_another_length_parses_nothing_again(many, tmp_path, monkeypatch):
    store = Store(str(tmp_path))
    made(many, store)
    monkeypatch.setattr(conversations, "_write", lambda *_: pytest.fail("the rows were read again"))
    assert made(many, store, length=64)["rows"] == 600


def test_too_many_bad_rows_are_refused_with_reason_file_and_way_out(many, tmp_path):
    store = Store(str(tmp_path))
    record = made(many, store)
    with pytest.raises(TooManyBadRows, match=r"sources.x: 23 of 600 .*duplicate 11.*quarantine.jsonl.*max_bad_rows above 0.03"):
        refuse_bad_rows("x", record, 0.01, store)
    refuse_bad_rows("x", record, 0.05, store)


def test_held_out_questions_go_with_all_their_answers_and_change_the_name_of_a_source(tmp_path):
    answers = [{"question": question, "answer": f"{i}"} for question in ("One?", "Two?") for i in range(3)]
    source, store = rows_file(tmp_path / "rows.jsonl", answers), Store(str(tmp_path / "store"))
    held = HeldOut.of(["one"])
    record = made(source, store, held_out=held)
    assert (record["used"], record["held_out"]) == (3, 3)
    assert set(Prepared(record["key"], store).table.questions) == {question_id("Two?")}
    assert record["key"] == prepared_key(sources.fingerprint(source, held), "base", 256)
    assert sources.fingerprint(source, held) != sources.fingerprint(source)
    assert sources.fingerprint(source, HeldOut.of(["two"])) != sources.fingerprint(source, held)


def test_progress_is_told_in_plain_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(conversations, "TELL_EVERY", 100)
    told: list[str] = []
    source = rows_file(tmp_path / "rows.jsonl", [KINDS["good"](i) for i in range(250)])
    monkeypatch.setattr(conversations, "BATCH_ROWS", 50)
    made(source, Store(str(tmp_path / "store")), tell=told.append)
    assert told == ["100 rows read", "200 rows read", "100 of 250 rows tokenised", "200 of 250 rows tokenised"]


def test_the_toy_sources_keep_what_they_repeat(tmp_path):
    config = SourceConfig(path="toy:chat", format="messages", role="general", limit=500)
    record = prepare.prepare(config, "base", tokenizers.characters, 128, Store(str(tmp_path)))
    assert (record["rows"], record["used"]) == (500, 500)


def test_words_do_not_depend_on_case_spacing_or_punctuation():
    assert words("Ann's  CAT, sat.") == ["ann", "s", "cat", "sat"]
    assert question_id("How many?") == question_id("how MANY")
    assert question_id("...") != question_id("!!!")
    assert np.int64(question_id("x")) == question_id("x")
