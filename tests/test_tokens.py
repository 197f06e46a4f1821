"""Tokens: what is learned from, what is cut, what comes back as text."""

from itertools import groupby

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


CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nBe helpful.<|im_end|>\n{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""As many models have it: a system turn of its own, trimmed contents, a generation prompt."""


def bpe():
    """A byte-pair encoding that merges across all that a text holds, so that tokens straddle turns where they can."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = ["USER: how much is it\nASSISTANT:\nIt is ten.</s>\nUSER: and now?\n<|im_end|>\n<|im_start|>assistant\n"] * 3
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["</s>"], initial_alphabet=alphabet)
    learned.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=learned, eos_token="</s>")


@pytest.fixture(scope="module")
def merging():
    return bpe()


exchanges = st.lists(st.tuples(texts.filter(str.strip), texts.filter(str.strip)), min_size=1, max_size=4)


@given(exchanges, st.sampled_from([DEFAULT_TEMPLATE, CHATML]))
def test_in_every_turn_what_is_learned_is_the_answer_and_its_end(merging, pairs, template):
    """And no token more, whatever letters of several bytes the turns hold."""
    merging.chat_template = template
    talk = [{"role": r, "content": text} for pair in pairs for r, text in zip(("user", "assistant"), pair, strict=True)]
    example = tokenise(merging, talk, 10_000)
    assert merging.decode(example.input_ids) == render(merging, talk)
    parts = [[i for i, _ in run] for said, run in groupby(enumerate(example.labels), lambda e: e[1] != IGNORED) if said]
    end = merging.eos_token if template == DEFAULT_TEMPLATE else "<|im_end|>"
    spoken = [text if template == DEFAULT_TEMPLATE else text.strip() for _, text in pairs]
    assert [merging.decode(example.input_ids[p[0] : p[-1] + 1]).removesuffix("\n") for p in parts] == [s + end for s in spoken]


@given(exchanges, st.integers(4, 120))
def test_what_does_not_fit_is_cut_at_the_end_of_a_turn(merging, pairs, limit):
    merging.chat_template = CHATML
    talk = [{"role": r, "content": text} for pair in pairs for r, text in zip(("user", "assistant"), pair, strict=True)]
    sizes = [len(tokenise(merging, talk[: 2 * n], 10_000).input_ids) for n in range(1, len(pairs) + 1)]
    fits = [n for n, size in enumerate(sizes, 1) if size <= limit]
    example = tokenise(merging, talk, limit)
    if not fits:
        assert example.reason == "answer_beyond_max_length"
    else:
        assert list(example.input_ids) == list(tokenise(merging, talk[: 2 * fits[-1]], 10_000).input_ids)
        assert example.cut == (fits[-1] < len(pairs))


def test_of_a_talk_without_end_only_the_opening_is_looked_at(tokenizer):
    talk = TALK[:1] + [{"role": r, "content": r * 100} for r in ("user", "assistant")] * 3000
    example = tokenise(tokenizer, talk, 4000)
    assert example.cut and 3000 < len(example.input_ids) <= 4000


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
