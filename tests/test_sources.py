"""Sources: every row is used or quarantined, with its place and reason."""

import gzip
import json
import tempfile
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import arrow, conversations, sources
from data.config import SourceConfig
from data.formats import BadRow, conversation
from data.store import Store

GOOD = {
    "gsm8k": {"question": "q", "answer": "#### 1"},
    "gsm8k_rft": {"query": "q", "response": "#### 1"},
    "alpaca": {"instruction": "i", "input": "", "output": "o"},
    "sharegpt": {"conversations": [{"from": "human", "value": "h"}, {"from": "gpt", "value": "g"}]},
    "messages": {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]},
}
FIELDS = [
    "question",
    "answer",
    "instruction",
    "input",
    "output",
    "conversations",
    "messages",
    "from",
    "value",
    "role",
    "content",
]
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


def source(path, format="gsm8k", **more):
    return SourceConfig(path=str(path), format=format, role="specialist", **more)


@dataclass
class Parsed:
    """A source as the store keeps it: conversations, and the entries of the quarantine."""

    rows: int
    conversations: list
    quarantined: list


def parse(config, store=None):
    """A parsed source; what is no longer needed is left to the temporary folder."""
    with tempfile.TemporaryDirectory() as work:
        kept = Store(store or work)
        record = conversations.parse(config, kept)
        talks = arrow.table(conversations.rows(record, kept))["messages"].to_pylist()
        quarantine = kept.fetch(conversations.KIND, record["key"]) / "quarantine.jsonl"
        entries = [json.loads(line) for line in quarantine.read_text().splitlines()]
    assert record["used"] == len(talks)
    assert Counter(entry["reason"] for entry in entries) == record["quarantined"]
    return Parsed(record["rows"], talks, entries)


@pytest.mark.parametrize("format", GOOD)
def test_every_format_ends_in_the_same_conversation(format):
    messages = conversation(GOOD[format], format)
    assert [m["role"] for m in messages] == ["user", "assistant"]


@given(anything, st.sampled_from(sorted(GOOD)))
def test_any_row_is_a_conversation_or_a_bad_row(row, format):
    try:
        messages = conversation(row, format)
    except BadRow as bad:
        assert bad.reason
    else:
        assert messages[-1]["role"] == "assistant"
        assert all(m["content"].strip() for m in messages)


@pytest.mark.parametrize(
    ("format", "row", "reason"),
    [
        ("gsm8k", {"question": "q"}, "missing_field"),
        ("gsm8k", {"question": "q", "answer": "  "}, "empty"),
        ("gsm8k", {"question": "q", "answer": 3}, "wrong_type"),
        ("gsm8k", ["q", "a"], "wrong_type"),
        ("messages", {"messages": [{"role": "assistant", "content": "a"}]}, "turns_out_of_order"),
        ("messages", {"messages": [{"role": "user", "content": "u"}] * 2}, "turns_out_of_order"),
        ("messages", {"messages": []}, "turns_out_of_order"),
        ("sharegpt", {"conversations": [{"from": "alien", "value": "v"}]}, "turns_out_of_order"),
        ("alpaca", {"instruction": "i", "output": ""}, "empty"),
    ],
)
def test_bad_rows_have_a_reason(format, row, reason):
    with pytest.raises(BadRow) as caught:
        conversation(row, format)
    assert caught.value.reason == reason


def test_an_input_follows_the_instruction():
    row = {"instruction": "Add.", "input": "1, 2", "output": "3"}
    assert conversation(row, "alpaca")[0]["content"] == "Add.\n\n1, 2"


def test_what_vicuna_says_before_any_question_is_left_out():
    row = {"conversations": [{"from": "gpt", "value": "late"}, *GOOD["sharegpt"]["conversations"]]}
    assert [m["content"] for m in conversation(row, "sharegpt")] == ["h", "g"]


@settings(deadline=None)
@given(st.lists(st.sampled_from(["good", "cut", "binary", "empty", "null", "list"]), max_size=12))
def test_rows_in_are_rows_used_and_rows_quarantined(tmp_path_factory, kinds):
    lines = {"good": b"", "cut": b'{"question": "q', "binary": b"\xff\xfe\x00{", "null": b"null"}
    lines |= {"empty": b'{"question": "q", "answer": ""}', "list": b"[1]"}
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    good = (json.dumps({"question": f"q{i}", "answer": "a"}).encode() for i in range(len(kinds)))
    path.write_bytes(b"".join((lines[kind] or next(good)) + b"\n" for kind in kinds))
    parsed = parse(source(path))
    assert len(parsed.conversations) == kinds.count("good")
    assert parsed.rows == len(kinds)
    bad = [i for i, kind in enumerate(kinds, 1) if kind != "good"]
    assert [entry["place"] for entry in parsed.quarantined] == [f"rows.jsonl:{i}" for i in bad]


def test_all_kinds_of_files_give_the_same_rows(tmp_path):
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    rows = [{"question": f"q{i}", "answer": f"#### {i}"} for i in range(3)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    pa.csv.write_csv(pa.Table.from_pylist(rows), tmp_path / "a.csv")
    found = [parse(source(path)).conversations for path in sorted(tmp_path.iterdir())]
    assert len(found) == 5
    assert all(one == found[0] and len(one) == 3 for one in found)
    both = parse(source(tmp_path))
    assert (both.rows, len(both.conversations)) == (15, 3)
    assert parse(source(tmp_path, duplicates="keep")).conversations == found[0] * 5
    assert parse(source(tmp_path, limit=4)).rows == 4


def test_a_file_that_cannot_be_read_says_why(tmp_path):
    (tmp_path / "a.json").write_text('{"not": "a list"}')
    (tmp_path / "b.txt").write_text("x")
    with pytest.raises(ValueError, match=r"a\.json: a JSON source is a list"):
        parse(source(tmp_path / "a.json"))
    with pytest.raises(ValueError, match=r"b\.txt: unknown kind"):
        parse(source(tmp_path / "b.txt"))


def test_a_fingerprint_follows_the_content(tmp_path):
    (tmp_path / "a.jsonl").write_text("1")
    (tmp_path / "b.jsonl").write_text("1")
    before = sources.fingerprint(source(tmp_path / "a.jsonl"))
    assert sources.fingerprint(source(tmp_path / "b.jsonl")) == before
    assert sources.fingerprint(source(tmp_path / "a.jsonl", limit=1)) != before
    (tmp_path / "a.jsonl").write_text("2")
    assert sources.fingerprint(source(tmp_path / "a.jsonl")) != before


@pytest.mark.benchmarks
@pytest.mark.parametrize(
    ("path", "format", "rows", "bad"),
    [
        ("gsm8k/train.jsonl", "gsm8k", 7473, 0),
        ("codealpaca/code_alpaca_2k.json", "alpaca", 2017, 2),
        ("general/sharegpt_examples.json", "sharegpt", 5, 0),
        ("general/sharegpt_identity.json", "sharegpt", 500, 0),
        ("general/alpaca_en_demo.json", "alpaca", 999, 14),
    ],
)
def test_the_real_files_load(benchmarks, path, format, rows, bad):
    parsed = parse(source(benchmarks / path, format))
    assert (parsed.rows, len(parsed.quarantined)) == (rows, bad)
