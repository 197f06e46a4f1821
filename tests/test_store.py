"""The store: an entry is there as a whole or not at all."""

import pytest

from data.store import Store


def test_an_entry_is_found_with_its_files_and_record(tmp_path):
    store = Store(str(tmp_path))
    with store.writing("stages", "k", {"tokens": 3}) as folder:
        (folder / "weights").write_text("w")
    assert store.record("stages", "k")["tokens"] == 3
    assert (store.fetch("stages", "k") / "weights").read_text() == "w"
    assert [r["key"] for r in store.records("stages")] == ["k"]


def test_nothing_is_published_before_the_block_ends(tmp_path):
    store = Store(str(tmp_path))
    with store.writing("stages", "k", {}) as folder:
        (folder / "weights").write_text("w")
        assert store.record("stages", "k") is None
    assert store.record("stages", "k") is not None


def test_a_failed_attempt_leaves_no_entry_and_no_files(tmp_path):
    store = Store(str(tmp_path))
    with pytest.raises(RuntimeError), store.writing("stages", "k", {}) as folder:
        (folder / "weights").write_text("w")
        raise RuntimeError
    assert store.record("stages", "k") is None
    assert not list(tmp_path.rglob("weights"))
    with pytest.raises(KeyError, match="stages/k"):
        store.fetch("stages", "k")


def test_two_writers_of_one_key_do_not_mix(tmp_path):
    store = Store(str(tmp_path))
    with store.writing("stages", "k", {"by": "first"}) as first, store.writing("stages", "k", {"by": "second"}) as second:
        (first / "f").write_text("first")
        (second / "f").write_text("second")
    assert (store.fetch("stages", "k") / "f").read_text() == store.record("stages", "k")["by"] == "first"


def test_the_record_names_the_sum_of_every_file(tmp_path):
    store = Store(str(tmp_path))
    with store.writing("stages", "k", {}) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "f").write_bytes(b"abc")
    assert store.record("stages", "k")["checksums"] == {
        "sub/f": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    }
