"""Leaving conversations out by their tags (the paper's ablation: ShareGPT without what InsTag calls code or math)."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from data import arrow, conversations, sources
from data.config import FieldTagger, KeywordTagger, ModelTagger, SourceConfig
from data.conversations import Tell, asked
from data.fingerprint import digest
from data.formats import Conversation
from data.store import Record, Store

KIND = "tags"
VERSION = 1  # raise it when the same tagger gives other tags
SCHEMA = pa.schema([("tags", pa.list_(pa.string()))])
WRITTEN_TAG = re.compile(r'"tag"\s*:\s*"([^"]*)"')

Tags = list[str]


def excluded(source: SourceConfig, parsed: Record, store: Store, tell: Tell) -> frozenset[int]:
    """Numbers of the conversations that a source leaves out by tag."""
    if source.exclude_tags is None:
        return frozenset()
    return frozenset(i for i, tags in enumerate(tags_of(source, parsed, store, tell)) if matching(tags, source.exclude_tags))


def matching(tags: Tags, pattern: str) -> Tags:
    """The tags that a pattern is found in, without regard to case."""
    return [tag for tag in tags if re.search(pattern, tag, re.IGNORECASE)]


def tags_of(source: SourceConfig, parsed: Record, store: Store, tell: Tell) -> list[Tags]:
    """The tags of each conversation of a source. What a model tagged is kept in the store."""
    rows = conversations.rows(parsed, store)
    if isinstance(source.tagger, FieldTagger):
        return list(arrow.table(rows)["tags"].to_pylist())
    assert source.tagger is not None
    key = digest({"conversations": parsed["key"], "tagger": sources.tagger(source.tagger), "version": VERSION})
    if not store.sound(KIND, key):
        tag = _by_keywords(source.tagger) if isinstance(source.tagger, KeywordTagger) else ByModel(source.tagger)
        with store.writing(KIND, key, {"source": source.path}) as folder, arrow.Writer(folder / "rows", SCHEMA) as writer:
            done = 0
            for batch in arrow.batches(rows):
                writer.write(pa.RecordBatch.from_pydict({"tags": tag(batch["messages"].to_pylist())}, schema=SCHEMA))
                done += len(batch)
                tell(f"{done:,} of {parsed['used']:,} conversations tagged")
    return list(arrow.table(store.fetch(KIND, key) / "rows")["tags"].to_pylist())


def _by_keywords(config: KeywordTagger) -> Callable[[Sequence[Conversation]], list[Tags]]:
    patterns = {tag: re.compile(pattern, re.IGNORECASE) for tag, pattern in config.keywords.items()}

    def tags(talk: Conversation) -> Tags:
        said = "\n".join(message["content"] for message in talk if message["role"] == "user")
        return [tag for tag, pattern in patterns.items() if pattern.search(said)]

    return lambda talks: [tags(talk) for talk in talks]


class ByModel:
    """Tags that a language model writes as JSON, InsTag's way: `{"tag": ..., "explanation": ...}`, one or several."""

    def __init__(self, config: ModelTagger) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._config, self._torch = config, torch
        self._tokenizer = AutoTokenizer.from_pretrained(config.path, padding_side="left")
        self._tokenizer.pad_token = self._tokenizer.pad_token or self._tokenizer.eos_token
        loaded = AutoModelForCausalLM.from_pretrained(config.path, use_safetensors=True, dtype="auto")
        self._model: Any = loaded.to(config.device).eval()

    def __call__(self, talks: Sequence[Conversation]) -> list[Tags]:
        questions = [asked(talk) for talk in talks]
        size = self._config.batch_size
        groups = [questions[start : start + size] for start in range(0, len(questions), size)]
        return [WRITTEN_TAG.findall(text) for group in groups for text in self._written(group)]

    def _written(self, questions: Sequence[str]) -> Iterator[str]:
        prompts = [self._prompt(question) for question in questions]
        inputs = self._tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False).to(self._model.device)
        with self._torch.inference_mode():
            out = self._model.generate(**inputs, max_new_tokens=self._config.max_new_tokens, do_sample=False)
        yield from self._tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    def _prompt(self, question: str) -> str:
        """The prompt with as much of the question as fits."""
        ids = self._tokenizer(question, add_special_tokens=False)["input_ids"]
        if len(ids) > self._config.max_query_tokens:
            question = self._tokenizer.decode(ids[: self._config.max_query_tokens])
        return self._config.prompt.replace("{query}", question)
