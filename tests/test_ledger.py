"""The ledger: complete lines count, and nothing else."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.ledger import Ledger, read

values = st.dictionaries(
    st.text(max_size=5).filter(lambda n: n not in ("event", "time", "self")), st.integers() | st.text(), max_size=3
)


def test_events_come_back_in_order(tmp_path):
    ledger = Ledger(tmp_path / "l")
    ledger.append("a", n=1)
    ledger.append("b", text="zwei\nZeilen")
    assert [(e["event"], e.get("n"), e.get("text")) for e in read(tmp_path / "l")] == [
        ("a", 1, None),
        ("b", None, "zwei\nZeilen"),
    ]


@given(st.lists(values, min_size=1, max_size=4), st.floats(0, 1))
def test_a_ledger_cut_anywhere_keeps_its_complete_lines_and_goes_on(tmp_path_factory, events, share):
    path = tmp_path_factory.mktemp("ledger") / "l"
    ledger = Ledger(path)
    for event in events:
        ledger.append("e", **event)
    whole = path.read_bytes()
    path.write_bytes(whole[: round(share * len(whole))])
    complete = path.read_bytes().count(b"\n")
    assert len(read(path)) == complete
    Ledger(path).append("after")
    assert [e["event"] for e in read(path)] == ["e"] * complete + ["after"]


def test_a_number_that_is_not_finite_is_refused(tmp_path):
    ledger = Ledger(tmp_path / "l")
    with pytest.raises(ValueError, match="JSON"):
        ledger.append("e", loss=float("nan"))
    assert read(tmp_path / "l") == []


def test_every_line_is_one_json_object(tmp_path):
    ledger = Ledger(tmp_path / "l")
    ledger.append("e", text="\u2028 \x85")
    assert len([json.loads(line) for line in (tmp_path / "l").open()]) == 1
    assert len(read(tmp_path / "l")) == 1


def test_a_damaged_line_in_the_middle_costs_that_line_alone(tmp_path):
    path = tmp_path / "l"
    for name in "abc":
        Ledger(path).append(name)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\n\x00{]\n" + lines[2])
    Ledger(path).append("d")
    assert [e["event"] for e in read(path)] == ["a", "c", "d"]
