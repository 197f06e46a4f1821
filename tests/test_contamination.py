"""Evaluation items in training rows: found by their words, told, and a reason to stop."""

import json

import pytest
import yaml

from conftest import fulcrum
from data import contamination
from data.config import SourceConfig
from data.contamination import Contaminated, overlap, refuse_overlap
from data.store import Store
from data.words import HeldOut

QUESTION = "Ann has seven red apples and three green pears, eats two of each every day of the week, and asks what is left?"
ITEMS = {"bench": [(QUESTION,), ("How many hats?",), ("Spell a word of many letters.", "And once more")]}


def source(path, *talks):
    turns = [[{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(talk)] for talk in talks]
    path.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in turns))
    return SourceConfig(path=str(path), format="messages", role="general")


def found(tmp_path, *talks, held_out=None):
    record = overlap(source(tmp_path / "rows.jsonl", *talks), ITEMS, Store(str(tmp_path / "store")), held_out)
    return record["benchmarks"]["bench"]


@pytest.mark.parametrize(
    ("said", "counts"),
    [
        (("Hello there", QUESTION.upper().replace(",", " ;")), (1, 1)),  # answered by the question: its words are there
        ((f"Please solve this for me. {QUESTION} Thank you!", "No."), (1, 1)),
        (("how many HATS", "Two."), (1, 1)),
        (("Hello", "Hi", "How many hats?", "Two."), (1, 1)),
        ((QUESTION.replace("seven", "nine"), "No."), (1, 1)),
        ((" ".join(QUESTION.split()[:14]), "No."), (0, 1)),
        (("And once more", "No."), (0, 0)),  # a later turn alone is no question
        (("Tell me how many hats?", "No."), (0, 0)),
        (("Something else", "entirely"), (0, 0)),
    ],
)
def test_an_item_is_found_where_a_row_holds_its_words(tmp_path, said, counts):
    told = found(tmp_path, ("Other", "talk"), said)
    assert (told["found"], told["touched"], told["items"]) == (*counts, 3)
    assert [place for _, place in told["examples"]] == ["rows.jsonl:2"] * counts[0]


def test_words_in_a_row_do_not_span_two_messages(tmp_path):
    half = QUESTION.split()
    assert found(tmp_path, (" ".join(half[:11]), " ".join(half[11:])))["touched"] == 0


def test_what_is_held_out_is_not_in_the_rows(tmp_path):
    assert found(tmp_path, (QUESTION, "No."), held_out=HeldOut.of([QUESTION]))["found"] == 0


def test_an_overlap_is_measured_once_for_the_same_rows_and_items(tmp_path, monkeypatch):
    first = found(tmp_path, (QUESTION, "No."))
    monkeypatch.setattr(contamination, "_search", lambda *_: pytest.fail("searched again"))
    assert found(tmp_path, (QUESTION, "No.")) == first


def test_more_than_is_allowed_is_refused_with_the_place(tmp_path):
    record = overlap(source(tmp_path / "r.jsonl", (QUESTION, "No.")), ITEMS, Store(str(tmp_path)))
    with pytest.raises(Contaminated, match=r"sources.x: 1 of 3 items of bench .*item 0 in r.jsonl:1.*max_overlap above 0.333"):
        refuse_overlap("x", record, 0.3)
    refuse_overlap("x", record, 0.34)


@pytest.mark.benchmarks
def test_gsm8k_train_holds_no_question_of_its_test_set(tmp_path, benchmarks):
    lines = [json.loads(line) for line in (benchmarks / "gsm8k" / "test.jsonl").open()]
    config = SourceConfig(path=str(benchmarks / "gsm8k" / "train.jsonl"), format="gsm8k", role="specialist")
    record = overlap(config, {"gsm8k": [(line["question"],) for line in lines]}, Store(str(tmp_path)))
    assert record["benchmarks"]["gsm8k"] == {"items": 1319, "found": 0, "touched": 3, "examples": []}


@pytest.mark.benchmarks
def test_a_planted_test_question_stops_a_run_before_anything_starts(tmp_path, small, benchmarks):
    test = [json.loads(line) for line in (benchmarks / "gsm8k" / "test.jsonl").open()]
    train = [json.loads(line) for line in (benchmarks / "gsm8k" / "train.jsonl").open()][:50]
    planted = [*train[:30], {"question": f"Solve: {test[3]['question']}", "answer": "#### 1"}, *train[30:]]
    (tmp_path / "math.jsonl").write_text("".join(json.dumps(row) + "\n" for row in planted))
    small["sources"]["math"] |= {"path": "math.jsonl", "format": "gsm8k"}
    small["train"]["max_length"] = 2048
    small["evaluate"]["gsm8k"] = {
        "role": "specialist",
        "path": str(benchmarks / "gsm8k" / "test.jsonl"),
        "split": "test",
        "limit": 20,
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(small))
    ended = fulcrum("run", "c.yaml", cwd=tmp_path)
    assert ended.returncode == 2
    assert "sources.math: 1 of 20 items of gsm8k stand in its rows (item 3 in math.jsonl:31)" in ended.stderr
    assert not list((tmp_path / "runs" / "small").iterdir())
