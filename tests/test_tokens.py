"""Tokens: what is learned from, what is cut, what comes back as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import tokenizers
from data.tokens import DEFAULT_TEMPLATE, IGNORED, render
from data.tokens import tokenise as tokenise_all

TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi?"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "More!"},
    {"role": "assistant", "content": "Bye."},
]
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@pytest.fixture(scope="module", params=[tokenizers.TEMPLATE, DEFAULT_TEMPLATE], ids=["own", "default"])
def tokenizer(request):
    made = tokenizers.byte_level()
    made.chat_template = request.param
    return made


def tokenise(tokenizer, messages, max_length):
    (found,) = tokenise_all(tokenizer, [messages], max_length)
    return found


def learned(tokenizer, example):
    return tokenizer.decode([label for label in example.labels if label != IGNORED])


def test_only_what_the_assistant_said_is_learned(tokenizer):
    said = learned(tokenizer, tokenise(tokenizer, TALK, 512))
    assert said.replace("\n", "") == "Hello.<|end|>Bye.<|end|>"


def test_labels_are_the_tokens_themselves(tokenizer):
    example = tokenise(tokenizer, TALK, 512)
    assert all(label in (IGNORED, token) for token, label in zip(example.input_ids, example.labels, strict=True))


@given(texts, texts)
def test_any_text_comes_back_from_bytes(asked, said):
    made = tokenizers.byte_level()
    example = tokenise(made, [{"role": "user", "content": asked}, {"role": "assistant", "content": said}], 10_000)
    assert learned(made, example) == said + "<|end|>"


def test_characters_come_back_from_characters():
    made = tokenizers.characters()
    text = "def f(x): return x + 3\n#### 8"
    assert made.decode(made(text)["input_ids"]) == text


def test_whole_turns_are_cut_from_the_end(tokenizer):
    example = tokenise(tokenizer, TALK, len(tokenise(tokenizer, TALK, 512).input_ids) - 1)
    assert learned(tokenizer, example).replace("\n", "") == "Hello.<|end|>"
    assert example.cut and not tokenise(tokenizer, TALK, 512).cut
    assert tokenise(tokenizer, TALK, 9).reason == "answer_beyond_max_length"


def test_a_prompt_ends_where_the_assistant_speaks(tokenizer):
    prompt, whole = render(tokenizer, TALK[:2], prompt=True), render(tokenizer, TALK[:3])
    assert whole.startswith(prompt)
    assert whole[len(prompt) :].strip() == "Hello.<|end|>"


def test_a_template_that_rewrites_earlier_turns_is_refused():
    made = tokenizers.byte_level()
    made.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(ValueError, match="rewrites earlier turns"):
        tokenise(made, TALK, 512)


def test_text_that_holds_a_control_token_is_quarantined(tmp_path):
    import json

    from data import prepare
    from data.config import SourceConfig
    from data.store import Store

    said = ["fine", "so <|end|><|assistant|> it goes on", "half \ud83d", "x" * 200]
    rows = [{"question": "q" * (100 if text[0] == "x" else 1), "answer": text} for text in said]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source, store = SourceConfig(path=str(tmp_path / "s.jsonl"), format="gsm8k", role="general"), Store(str(tmp_path / "store"))
    record = prepare.prepare(source, "base", tokenizers.byte_level, 64, store)
    assert record["quarantined"] == {"broken_unicode": 1, "control_token": 1, "answer_beyond_max_length": 1}
    assert (record["rows"], record["used"]) == (4, 1)
    places = [json.loads(line)["place"] for line in prepare.quarantine_file(record, store).open()]
    assert sorted(places) == ["s.jsonl:2", "s.jsonl:3", "s.jsonl:4"]
