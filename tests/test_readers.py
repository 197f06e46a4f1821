"""Reading files: rows as they are written, bad ones by line, from a disk and from a bucket alike, and no file breaks it."""

import gzip
import json
import random
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sources import GOOD, parse, source

from data import conversations, readers, sources
from data.config import SourceConfig
from data.formats import BadRow
from data.sources import SourceUnusable
from data.store import Store

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@settings(deadline=None)
@given(st.lists(values, max_size=8), st.sampled_from([None, 1]), st.integers(1, 40))
def test_a_list_is_decoded_row_by_row_to_what_json_reads(tmp_path_factory, rows, indent, window):
    path = tmp_path_factory.mktemp("json") / "rows.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=window % 2 == 0), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, path.open("rb") as stream:
        patch.setattr(readers, "BUFFER", window)
        assert [row for _, row in readers.READERS[".json"](stream)] == rows


@pytest.mark.parametrize("text", ["", "{}", "[1", "[1 2]", "[1,]", "[tru]", '["a]', "[1] x", "[" * 100_000, "[1,,2]", "nul"])
def test_what_is_no_list_of_rows_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(SourceUnusable, match=r"a\.json: cannot be read"):
        list(sources.rows(source(tmp_path / "a.json")))


def test_a_long_list_is_read_in_little_memory(tmp_path):
    with (tmp_path / "a.json").open("w") as file:
        row = json.dumps({"question": "q", "answer": "a" * 10_000})
        file.write("[" + ",\n".join([row] * 3000) + "]")
    tracemalloc.start()
    assert sum(1 for _ in sources.rows(source(tmp_path / "a.json"))) == 3000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6 < (tmp_path / "a.json").stat().st_size


def written(folder, rows):
    """The rows in each kind of file that holds bytes as they are, broken UTF-8 among them."""
    lines = [b'{"question": "q%d", "answer": "' % i + answer + b'"}' for i, answer in enumerate(rows)]
    (folder / "a.jsonl").write_bytes(b"\n".join(lines))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines)))
    (folder / "c.json").write_bytes(b"[" + b",\n".join(lines) + b"]")
    (folder / "d.csv").write_bytes(b"question,answer\n" + b"\n".join(b"q%d," % i + a for i, a in enumerate(rows)))
    text = pa.array(rows, pa.binary()).view(pa.string())
    parquet.write_table(pa.table({"question": [f"q{i}" for i in range(len(rows))], "answer": text}), folder / "e.parquet")
    return sorted(folder.iterdir())


def test_broken_utf8_is_one_bad_row_in_every_format(tmp_path):
    for path in written(tmp_path, [b"one", b"tw\xff\xfeo", b"thr\xc3\xa9e"]):
        parsed = parse(source(path))
        assert [entry["reason"] for entry in parsed.quarantined] == ["broken_utf8"], path
        assert [talk[1]["content"] for talk in parsed.conversations] == ["one", "thrée"], path


def test_a_bad_row_of_a_csv_is_named_by_its_line(tmp_path):
    (tmp_path / "a.csv").write_text('question,answer\n"two\nlines",a\nq,\nq,a,b\nlast,a\n')
    parsed = parse(source(tmp_path / "a.csv"))
    assert [(e["place"], e["reason"]) for e in parsed.quarantined] == [("a.csv:4", "empty"), ("a.csv:5", "too_many_columns")]
    assert [talk[0]["content"] for talk in parsed.conversations] == ["two\nlines", "last"]


def test_a_byte_order_mark_changes_nothing(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfquestion,answer\nq,a\n")
    (tmp_path / "b.json").write_bytes(b'\xef\xbb\xbf[{"question": "q", "answer": "a"}]')
    (tmp_path / "c.jsonl").write_bytes(b'\xef\xbb\xbf{"question": "q", "answer": "a"}\n')
    assert all(parse(source(path)).rows == len(parse(source(path)).conversations) == 1 for path in tmp_path.iterdir())


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """An S3 bucket on loopback: its URI."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        boto3.client("s3").create_bucket(Bucket="rows")
        yield "s3://rows"
    server.stop()


def test_a_bucket_is_read_as_a_disk_is(tmp_path, bucket):
    import boto3

    for path in written(tmp_path, [b"one", b"tw\xffo"]):
        boto3.client("s3").upload_file(str(path), "rows", f"folder/{path.name}")
        here, there = source(path), source(f"{bucket}/folder/{path.name}")
        assert (parse(there).conversations, parse(there).quarantined) == (parse(here).conversations, parse(here).quarantined)
        assert sources.fingerprint(there) == sources.fingerprint(here)
    assert parse(source(f"{bucket}/folder")).conversations == parse(source(tmp_path)).conversations
    assert sources.fingerprint(source(f"{bucket}/folder")) == sources.fingerprint(source(tmp_path))


def test_what_is_not_in_a_bucket_is_an_error_that_names_it(bucket):
    with pytest.raises(SourceUnusable, match="s3://rows/none"):
        sources.fingerprint(source(f"{bucket}/none"))


def test_a_hub_id_that_cannot_be_reached_is_an_error_that_names_it(monkeypatch):
    import datasets
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceUnusable, match="owner/name: no such file or folder, and not to be had from the hub"):
        list(sources.rows(source("owner/name")))


def test_a_hub_set_is_named_by_its_split_and_revision():
    names = {sources.fingerprint(source("owner/name", **more)) for more in ({}, {"split": "test"}, {"revision": "abc"})}
    assert len(names) == 3


def mutated(rng, folder, number):
    """A file that was good, harmed in one of many ways."""
    rows = [{"question": f"q{i}", "answer": f"#### {i}"} for i in range(4)]
    lines = "\n".join(json.dumps(row) for row in rows).encode()
    kinds = {
        ".jsonl": lines,
        ".json": json.dumps(rows).encode(),
        ".jsonl.gz": gzip.compress(lines),
        ".csv": b"question,answer\n" + b"\n".join(f"q{i},a{i}".encode() for i in range(4)),
        ".parquet": None,
    }
    ending = rng.choice(sorted(kinds))
    path = folder / f"{number}{ending}"
    if ending == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
        kinds[ending] = path.read_bytes()
    path.write_bytes(rng.choice(HARMS)(rng, kinds[ending]))
    return path


def _flip(rng, data):
    at = rng.randrange(len(data))
    return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]


HARMS = [
    lambda rng, data: data[: rng.randrange(len(data) + 1)],
    _flip,
    lambda rng, data: _flip(rng, _flip(rng, _flip(rng, data))),
    lambda rng, data: rng.randbytes(200),
    lambda rng, data: data.decode("utf-8", "replace").encode(rng.choice(["utf-16", "utf-32", "utf-7"])),
    lambda rng, data: data.replace(b'"q1"', b"[" * 3000 + b"null" + b"]" * 3000),
    lambda rng, data: data.replace(b"q1", b"x" * 300_000),
    lambda rng, data: data.replace(
        b'"#### 1"', rng.choice([b"null", b"1e999", b"NaN", b"[[null]]", b'{"a": null}', b'"\\ud800"'])
    ),
    lambda rng, data: data.replace(b"answer", rng.choice([b"", b"\x00", b"Answer", b"answer\n"])),
    lambda rng, data: data.replace(b"\n", rng.choice([b"\r", b"\r\n", b"\n\n", b"\x00", b""])),
    lambda rng, data: data + data,
    lambda rng, data: b"",
]


def survive(tmp_path, numbers, format="gsm8k"):
    """Every file ends in rows that are used or in quarantine, or in an error that names it."""
    ended = {"read": 0, "refused": 0, "quarantined": 0}
    for number in numbers:
        path = mutated(random.Random(f"{format}/{number}"), tmp_path, number)
        try:
            parsed = parse(source(path, format))
        except SourceUnusable as error:
            assert str(path) in str(error)
            ended["refused"] += 1
        else:
            assert parsed.rows == len(parsed.conversations) + len(parsed.quarantined)
            assert all(entry["reason"] and path.name in entry["place"] for entry in parsed.quarantined)
            ended["quarantined" if parsed.quarantined else "read"] += 1
        path.unlink()
    return ended


def test_two_hundred_harmed_files_end_in_an_error_or_in_quarantine(tmp_path):
    assert min(survive(tmp_path, range(200)).values()) > 20


@pytest.mark.slow
def test_two_thousand_harmed_files_end_in_an_error_or_in_quarantine(tmp_path):
    assert min(survive(tmp_path, range(200, 2200)).values()) > 200


@pytest.mark.parametrize("format", sorted(GOOD))
def test_a_bad_row_of_any_kind_is_quarantined_in_any_format(tmp_path, format):
    rows = [GOOD[format], {}, None, 3, [], "text", [[None]], {"messages": None, "conversations": [None]}, GOOD[format]]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parsed = parse(source(tmp_path / "a.jsonl", format))
    assert (parsed.rows, len(parsed.conversations)) == (9, 1)
    assert parsed.quarantined[-1]["reason"] == "duplicate" and parsed.quarantined[-1]["place"] == "a.jsonl:9"


def test_one_question_with_many_answers_is_a_row_for_each(tmp_path):
    rows = [
        {"question": "q", "answers": ["a", "b", "", "a"]},
        {"query": "r", "response": "c"},
        {"question": "s", "answers": []},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parsed = parse(source(tmp_path / "a.jsonl", "gsm8k_rft"))
    assert [[m["content"] for m in talk] for talk in parsed.conversations] == [["q", "a"], ["q", "b"], ["r", "c"]]
    told = [(entry["place"], entry["reason"]) for entry in parsed.quarantined]
    assert told == [("a.jsonl:1#3", "empty"), ("a.jsonl:1#4", "duplicate"), ("a.jsonl:3", "missing_field")]


def test_conversations_of_every_format_have_one_schema(tmp_path):
    from data import arrow

    for format, row in GOOD.items():
        (tmp_path / f"{format}.jsonl").write_text(json.dumps(row))
        store = Store(str(tmp_path / "store"))
        record = conversations.parse(source(tmp_path / f"{format}.jsonl", format), store)
        assert arrow.table(conversations.rows(record, store)).schema == conversations.SCHEMA


def test_reading_raises_bad_rows_as_values_and_never_stops_at_one(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"{\n[1]\n\xff\n")
    found = [row for _, row in sources.rows(SourceConfig(path=str(tmp_path / "a.jsonl"), format="gsm8k", role="general"))]
    assert [getattr(row, "reason", row) for row in found] == ["unparsable_json", [1], "broken_utf8"]
    assert isinstance(found[0], BadRow)
