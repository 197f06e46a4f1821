"""The ledger: complete lines count, and nothing else, on a disk and in a bucket."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.files import Folder
from sweeps.ledger import FILE, Ledger, TwoWriters, read

values = st.dictionaries(
    st.text(max_size=5).filter(lambda n: n not in ("event", "time", "self")), st.integers() | st.text(), max_size=3
)


@pytest.fixture(params=["disk", "bucket"])
def folder(request, tmp_path):
    """The empty folder of a run."""
    return Folder(tmp_path / "run" if request.param == "disk" else f"{request.getfixturevalue('bucket')}/run")


def test_events_come_back_in_order(folder):
    assert read(folder) == []
    ledger = Ledger(folder)
    ledger.append("a", n=1)
    ledger.append("b", text="zwei\nZeilen")
    Ledger(folder).append("c")
    assert [(e["event"], e.get("n"), e.get("text")) for e in read(folder)] == [
        ("a", 1, None),
        ("b", None, "zwei\nZeilen"),
        ("c", None, None),
    ]


def test_more_than_ten_segments_keep_their_order(folder):
    ledger = Ledger(folder)
    for number in range(12):
        ledger.append("e", n=number)
    assert [e["n"] for e in read(folder)] == list(range(12))


def test_in_a_bucket_nothing_that_was_written_is_written_over(bucket):
    ledger, other = Ledger(Folder(bucket) / "run"), Ledger(Folder(bucket) / "run")
    ledger.append("a")
    with pytest.raises(TwoWriters, match=r"ledger/000001\.jsonl was written by another process"):
        other.append("b")
    assert [e["event"] for e in read(Folder(bucket) / "run")] == ["a"]


@given(st.lists(values, min_size=1, max_size=4), st.floats(0, 1))
def test_a_ledger_cut_anywhere_keeps_its_complete_lines_and_goes_on(tmp_path_factory, events, share):
    folder = Folder(tmp_path_factory.mktemp("ledger"))
    path = folder.path(FILE)
    ledger = Ledger(folder)
    for event in events:
        ledger.append("e", **event)
    whole = path.read_bytes()
    path.write_bytes(whole[: round(share * len(whole))])
    complete = path.read_bytes().count(b"\n")
    assert len(read(folder)) == complete
    Ledger(folder).append("after")
    assert [e["event"] for e in read(folder)] == ["e"] * complete + ["after"]


def test_an_event_is_on_the_disk_when_append_returns(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((tmp_path / FILE).read_bytes()))
    ledger = Ledger(Folder(tmp_path))
    ledger.append("a")
    assert b'"a"' in synced[-1]
    ledger.append("b")
    assert b'"b"' in synced[-1]


def test_a_number_that_is_not_finite_is_refused(folder):
    ledger = Ledger(folder)
    with pytest.raises(ValueError, match="JSON"):
        ledger.append("e", loss=float("nan"))
    assert read(folder) == []


def test_every_line_is_one_json_object(tmp_path):
    ledger = Ledger(Folder(tmp_path))
    ledger.append("e", text="\u2028 \x85")
    assert len([json.loads(line) for line in (tmp_path / FILE).open()]) == 1
    assert len(read(Folder(tmp_path))) == 1


def test_a_damaged_line_in_the_middle_costs_that_line_alone(tmp_path):
    path = tmp_path / FILE
    for name in "abc":
        Ledger(Folder(tmp_path)).append(name)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\n\x00{]\n" + lines[2])
    Ledger(Folder(tmp_path)).append("d")
    assert [e["event"] for e in read(Folder(tmp_path))] == ["a", "c", "d"]
