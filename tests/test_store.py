"""The store: an entry is there as a whole or not at all, on a local disk and in a bucket."""

import json

import pytest

from data import store as stores
from data.store import Damaged, Store


@pytest.fixture(params=["disk", "bucket"])
def root(request, tmp_path, monkeypatch):
    """The root of an empty store; the cache of this machine is a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return str(tmp_path / "store") if request.param == "disk" else f"{request.getfixturevalue('bucket')}/store"


def put(store, key="k", **files):
    with store.writing("stages", key, {"tokens": 3}) as folder:
        for name, text in files.items():
            (folder / name).write_text(text)


def fresh(root):
    """The store as another process sees it, which has compared nothing yet."""
    stores._sound.clear()
    return Store(root)


def test_an_entry_is_found_with_its_files_and_record(root):
    store = Store(root)
    put(store, weights="w")
    assert store.record("stages", "k")["tokens"] == 3
    assert (store.fetch("stages", "k") / "weights").read_text() == "w"
    assert [r["key"] for r in store.records("stages")] == ["k"]


def test_nothing_is_published_before_the_block_ends(root):
    store = Store(root)
    with store.writing("stages", "k", {}) as folder:
        (folder / "weights").write_text("w")
        assert store.record("stages", "k") is None
    assert store.record("stages", "k") is not None


def test_a_failed_attempt_leaves_no_entry_and_no_files(root, tmp_path):
    store = Store(root)
    with pytest.raises(RuntimeError), store.writing("stages", "k", {}) as folder:
        (folder / "weights").write_text("w")
        raise RuntimeError
    assert store.record("stages", "k") is None
    assert not list(tmp_path.rglob("weights"))
    with pytest.raises(KeyError, match="stages/k"):
        store.fetch("stages", "k")


def test_two_writers_of_one_key_do_not_mix(root):
    store = Store(root)
    with store.writing("stages", "k", {"by": "first"}) as first, store.writing("stages", "k", {"by": "second"}) as second:
        (first / "f").write_text("first")
        (second / "f").write_text("second")
    assert (store.fetch("stages", "k") / "f").read_text() == store.record("stages", "k")["by"] == "first"


def test_the_record_names_the_sum_of_every_file(root):
    store = Store(root)
    with store.writing("stages", "k", {}) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "f").write_bytes(b"abc")
    assert store.record("stages", "k")["checksums"] == {
        "sub/f": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    }
    assert (store.fetch("stages", "k") / "sub" / "f").read_bytes() == b"abc"


def test_an_entry_that_was_deleted_is_gone_with_its_files(root):
    store = Store(root)
    put(store, weights="w")
    store.delete("stages", "k")
    store.delete("stages", "never")
    assert store.record("stages", "k") is None
    assert not [file.name for file in store.folder.files() if file.name.endswith("weights")]


@pytest.mark.parametrize("harm", ["altered", "missing"])
def test_a_damaged_entry_is_set_aside_with_the_reason_and_can_be_made_again(root, harm):
    store = Store(root)
    put(store, weights="w", config="c")
    name = f"stages/k/{store.record('stages', 'k')['attempt']}/weights"
    store.folder.write(name, b"x") if harm == "altered" else store.folder.remove(name)
    with pytest.raises(Damaged, match=f"stages/k is damaged .weights .*{harm}"):
        fresh(root).fetch("stages", "k")
    assert store.record("stages", "k") is None
    assert [(note["kind"], note["key"]) for note in store.damage()] == [("stages", "k")]
    assert json.loads(store.damage()[0]["marker"])["tokens"] == 3
    put(store, weights="w")
    assert (fresh(root).fetch("stages", "k") / "weights").read_text() == "w"


def test_a_marker_that_is_no_record_is_set_aside(root):
    store = Store(root)
    put(store, weights="w")
    store.folder.write("stages/k/DONE", b'{"kind": "stages", "ke')
    assert store.records("stages") == []
    assert store.damage()[0]["reason"] == "its marker DONE is no record"
    assert not store.sound("stages", "k")


@pytest.mark.parametrize("marker", ["[]", "{}", '"text"'])
def test_a_marker_that_lacks_what_every_record_has_is_none(root, marker):
    store = Store(root)
    store.folder.write("stages/k/DONE", marker.encode())
    assert store.record("stages", "k") is None


def test_an_entry_whose_removal_was_cut_off_does_not_exist(root, monkeypatch):
    store = Store(root)
    put(store, weights="w")
    remove = store.folder.remove

    def cut(name):
        remove(name)
        raise KeyboardInterrupt

    monkeypatch.setattr(store.folder, "remove", cut)
    with pytest.raises(KeyboardInterrupt):
        store.delete("stages", "k")
    assert fresh(root).record("stages", "k") is None
    assert list(fresh(root).folder.files("stages/k")), "it was cut off before its files were gone"


def test_what_another_writer_has_published_meanwhile_is_not_set_aside(root):
    store = Store(root)
    put(store, weights="old")
    old = store.record("stages", "k")["attempt"]
    put(store, weights="new")
    store.set_aside("stages", "k", old, "late")
    assert (store.fetch("stages", "k") / "weights").read_text() == "new"


def test_a_process_compares_an_entry_once(root, monkeypatch):
    store = Store(root)
    put(store, weights="w")
    fresh(root).fetch("stages", "k")
    monkeypatch.setattr(stores, "difference", lambda *_: pytest.fail("compared again"))
    store.fetch("stages", "k")


def test_a_copy_of_a_bucket_that_was_altered_on_this_machine_is_made_again(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = Store(f"{bucket}/store")
    put(store, weights="w")
    copy = store.fetch("stages", "k") / "weights"
    copy.write_text("x")
    assert fresh(f"{bucket}/store").fetch("stages", "k") / "weights" == copy
    assert copy.read_text() == "w"
    assert store.damage() == []


def test_who_compares_the_files_itself_gets_a_damaged_entry_as_it_is(root):
    store = Store(root)
    put(store, weights="right")
    store.folder.write(f"stages/k/{store.record('stages', 'k')['attempt']}/weights", b"wrong")
    assert (fresh(root).fetch("stages", "k", compare=False) / "weights").read_text() == "wrong"
    assert store.damage() == []
    with pytest.raises(Damaged):
        store.fetch("stages", "k")
