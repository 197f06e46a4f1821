"""Tags: where they come from, what they exclude, and `fulcrum data`."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow.parquet as parquet
import pytest
import yaml

from conftest import fulcrum
from data import arrow, conversations, filters, prepare, sources, tokenizers
from data.config import SourceConfig
from data.fetch import NotFetched, fetch
from data.store import Store

TALKS = [("Write python code", ["Code generation", "python"]), ("Rhyme with sun", ["poem"]), ("What is 2+2?", ["MATH"])]


def source(path, tagger=None, pattern="code|math", **more):
    rows = [
        {
            "conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": f"Reply {i}"}],
            "labels": tags,
            "one": tags[0],
        }
        for i, (asked, tags) in enumerate(TALKS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    left_out = {"tagger": tagger, "exclude_tags": pattern} if tagger else {}
    return SourceConfig(path=str(path), format="sharegpt", role="general", **left_out, **more)


BY_FIELD = {"kind": "field", "field": "labels"}
BY_WORDS = {"kind": "keywords", "keywords": {"code": "python|javascript", "maths": r"\d\+\d"}}


def kept(config, tmp_path):
    store = Store(str(tmp_path / "store"))
    record = prepare.prepare(config, "base", tokenizers.byte_level, 128, store)
    rows = prepare.Prepared(record["key"], store).rows(list(range(record["used"])))
    made = tokenizers.byte_level()
    return record, [made.decode(row["input_ids"]).split("<|assistant|>")[0].removeprefix("<|user|>") for row in rows]


@pytest.mark.parametrize("tagger", [BY_FIELD, {"kind": "field", "field": "one"}, BY_WORDS], ids=["list", "text", "keywords"])
def test_tags_that_match_exclude_a_conversation(tmp_path, tagger):
    record, asked = kept(source(tmp_path / "r.jsonl", tagger), tmp_path)
    assert asked == ["Rhyme with sun"]
    assert (record["rows"], record["used"], record["excluded"], record["quarantined"]) == (3, 1, 2, {})


def test_a_row_without_tags_is_quarantined_and_not_let_through(tmp_path):
    record, _ = kept(source(tmp_path / "r.jsonl", {"kind": "field", "field": "none"}), tmp_path)
    assert record["quarantined"] == {"no_tags": 3}


def test_tags_and_pattern_are_part_of_the_name_of_a_source(tmp_path):
    others = {"kind": "keywords", "keywords": {"code": "java"}}
    ways = [(None,), (BY_FIELD,), (BY_FIELD, "code"), (BY_WORDS,), (BY_WORDS, "maths"), (others,)]
    made = [source(tmp_path / "r.jsonl", *way) for way in ways]
    assert len({sources.fingerprint(config) for config in made}) == len(ways)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"exclude_tags": "code"}, "need each other"),
        ({"tagger": BY_FIELD}, "need each other"),
        ({"tagger": BY_FIELD, "exclude_tags": "("}, "no regular expression"),
        ({"tagger": {"kind": "keywords", "keywords": {"a": "["}}, "exclude_tags": "a"}, "no regular expression"),
        ({"tagger": {"kind": "model", "path": "m", "prompt": "tag it"}, "exclude_tags": "a"}, "must hold {query}"),
    ],
)
def test_a_filter_that_cannot_work_is_refused(more, said):
    with pytest.raises(ValueError, match=said):
        SourceConfig(path="x", format="alpaca", role="general", **more)


@pytest.mark.slow
def test_a_model_tags_as_instag_does(tmp_path):
    """A small model is taught two tags, and asked about questions of both kinds."""
    model = taught(tmp_path / "model", {"Write python": "code", "Rhyme with": "poem"})
    tagger = {"kind": "model", "path": str(model), "prompt": "{query}=", "batch_size": 2, "max_new_tokens": 40}
    config = source(tmp_path / "r.jsonl", tagger, "code")
    store = Store(str(tmp_path / "tags"))
    tags = filters.tags_of(config, conversations.parse(config, store), store, conversations.silent)
    assert tags[:2] == [["code"], ["poem"]]
    assert "Write python code" not in kept(config, tmp_path)[1]


def taught(folder, tags):
    """A model that continues a question and `=` with the tag that its first words have, as JSON."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tokenizers.byte_level()
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **special))
    ends = ["code", "sun", "now", "please", "it all", "2"]
    texts = [f'{start} {end}={{"tag": "{tag}", "explanation": "x"}}<|end|>' for start, tag in tags.items() for end in ends]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_filtered_source_is_a_source_with_a_record_of_what_was_dropped(tmp_path):
    source(tmp_path / "r.jsonl")
    options = ["--format", "sharegpt", "--exclude-tags", "code|math", "--field", "labels"]
    ended = fulcrum("data", "filter", "r.jsonl", "out", *options, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "3 rows: 1 kept, 2 dropped, 0 in quarantine" in ended.stdout
    dropped = [json.loads(line) for line in (tmp_path / "out" / "record" / "dropped.jsonl").open()]
    assert [(one["place"], one["matched"]) for one in dropped] == [("r.jsonl:1", ["Code generation"]), ("r.jsonl:3", ["MATH"])]
    summary = json.loads((tmp_path / "out" / "record" / "summary.json").read_text())
    assert (summary["rows"], summary["kept"], summary["dropped"]) == (3, 1, 2)
    assert parquet.read_table(tmp_path / "out" / "rows.parquet").num_rows == 1
    store = Store(str(tmp_path / "again"))
    again = conversations.parse(SourceConfig(path=str(tmp_path / "out"), format="messages", role="general"), store)
    talks = arrow.table(conversations.rows(again, store))["messages"].to_pylist()
    assert [message["content"] for talk in talks for message in talk] == ["Rhyme with sun", "Reply 1"]
    assert fulcrum("data", "filter", "r.jsonl", "out", *options, cwd=tmp_path).returncode == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.jsonl", "out", "--format", "sharegpt", "--exclude-tags", "a", "--field", "f"], "no such file or folder"),
        (["r.jsonl", "out", "--format", "sharegpt", "--exclude-tags", "a"], "one of --field, --keyword or --model"),
        (["r.jsonl", "out", "--format", "other", "--exclude-tags", "a", "--field", "f"], "format"),
    ],
)
def test_a_filter_command_that_cannot_work_ends_with_2(tmp_path, arguments, said, monkeypatch, capsys):
    import sys

    from sweeps.cli import main

    source(tmp_path / "r.jsonl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fulcrum", "data", "filter", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_inspect_shows_rows_quarantine_tokens_fractions_and_two_masked_examples(tmp_path, small):
    rows = [{"question": f"What is {i} and {i}?", "answer": f"#### {i + i}"} for i in range(512)] + [{"question": "x"}]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    small["sources"]["math"] |= {"path": "m.jsonl", "format": "gsm8k", "limit": None}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(small))
    ended = fulcrum("data", "inspect", "c.yaml", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    told = next(part for part in ended.stdout.split("source ") if part.startswith("math"))
    assert "math: 512 of 513 rows are used" in told
    assert "quarantine: missing_field 1 (0.19%)" in told
    # a token a letter and three of control: 25 for "What is 0 and 0?" and "#### 0"; up to three digits and four more
    assert "tokens: min 25, median 31, p95 31, max 32, total" in told
    lines = [line.split() for line in told.splitlines()]
    assert ["1/256", "2"] in [line[:2] for line in lines]
    assert ["1/4", "128"] in [line[:2] for line in lines]
    assert told.count("⟦####") == 2
    assert "<|user|>What is 0 and 0?<|assistant|>⟦#### 0<|end|>⟧" in told


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download of one file needs."""

    content = b'[{"instruction": "i", "input": "", "output": "o"}]'
    revision = "0" * 40

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, body=True):
        name = "code_alpaca_20k.json"
        if "/resolve/" in self.path and self.path.endswith(name):
            etag = hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()
            return self._send(self.content, body, {"ETag": f'"{etag}"', "X-Repo-Commit": self.revision})
        if self.path.startswith("/api/datasets/sahil2801/CodeAlpaca-20k/tree/"):
            return self._send(
                json.dumps([{"type": "file", "path": name, "size": len(self.content), "oid": "0" * 40}]).encode(), body
            )
        if self.path.startswith("/api/datasets/sahil2801/CodeAlpaca-20k"):
            about = {"id": "sahil2801/CodeAlpaca-20k", "sha": self.revision, "siblings": [{"rfilename": name}]}
            return self._send(json.dumps(about).encode(), body)
        return self.send_error(404)

    def _send(self, content, body, headers=()):
        self.send_response(200)
        for key, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **dict(headers)}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub(monkeypatch):
    """The address of a hub on loopback, which the client of this process uses."""
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    yield address
    server.shutdown()


def test_a_public_set_is_fetched_with_its_checksum(tmp_path, hub):
    (file,) = fetch("code", tmp_path)
    assert file.read_bytes() == Hub.content
    digest = hashlib.sha256(Hub.content).hexdigest()
    assert (tmp_path / "code" / "SHA256SUMS").read_text() == f"{digest}  code_alpaca_20k.json\n"
    assert fetch("code", tmp_path) == [file]
    (tmp_path / "code" / "SHA256SUMS").write_text(f"{'0' * 64}  code_alpaca_20k.json\n")
    with pytest.raises(NotFetched, match="checksum is no longer"):
        fetch("code", tmp_path)


def test_a_set_that_the_hub_does_not_have_is_named(tmp_path, hub):
    with pytest.raises(NotFetched, match="ShareGPT_Vicuna_unfiltered: the hub does not give it"):
        fetch("general", tmp_path)


def test_fetch_says_plainly_that_there_is_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    ended = fulcrum("data", "fetch", "out", "--set", "code", cwd=tmp_path)
    assert ended.returncode == 1
    assert "sahil2801/CodeAlpaca-20k: there is no network" in ended.stderr
    assert "Traceback" not in ended.stderr
