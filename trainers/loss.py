"""The loss of one forward pass: logits only where there is a label, since a head over 100,000 tokens is dear."""

import inspect
import sys
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from data.fingerprint import digest
from data.tokens import IGNORED
from trainers.batches import Batch, Example, collate
from trainers.failures import BrokenModel

TINY_CHANGE = {torch.float32: 1e-3, torch.bfloat16: 3e-2}
"""What rounding may do to a logit, relative to the spread of the logits."""


class PackingLeaks(BrokenModel):
    """A model in which packed examples would see each other."""


def summed_loss(running: Any, examples: Sequence[Example], rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Sum of the token losses of some rows. `running` is the DeepSpeed engine around a causal language model."""
    batch = collate(examples, rows, padding=0, flat=_flash(running.module))
    followed = batch.labels[:, 1:] != IGNORED  # the positions whose next token is learned
    targets = batch.labels[:, 1:][followed]
    logits = _logits(running, batch, torch.nn.functional.pad(followed, (0, 1))).float()
    return torch.nn.functional.cross_entropy(logits, targets.to(logits.device), reduction="sum")


def seed_dropout(seed: int, step: int) -> None:
    """Make what dropout draws in a step depend on the seed, the step and the worker alone: not on where a stage was resumed."""
    torch.manual_seed(int(digest(["dropout", seed, step, dist.get_rank()])[:15], 16))


def refuse_leaks(running: Any) -> None:
    """Raises PackingLeaks where a packed example can see the one before it; every worker must call this.

    Most models of transformers keep examples apart by their position ids, recurrent ones and those with code of their own
    may not, and nothing would tell.
    """
    running.eval()
    with torch.no_grad():
        one, other = (_second_of_two(running, first) for first in ([1, 2, 3, 4], [4, 3, 2, 2]))
    running.train()
    if (one - other).abs().max() > TINY_CHANGE.get(one.dtype, 3e-2) * one.float().std():
        name = type(_inner(running.module)).__name__
        raise PackingLeaks(f"packed examples see each other in a {name}; set train.packing: false")


def selects(model: Any) -> bool:
    """Whether a model's forward takes `logits_to_keep` as a mask of (rows, positions): those on transformers' own helper."""
    helped = hasattr(sys.modules[type(_inner(model)).__module__], "slice_logits_to_keep")
    return helped and "logits_to_keep" in inspect.signature(_inner(model).forward).parameters


def _logits(running: Any, batch: Batch, wanted: torch.Tensor) -> torch.Tensor:
    """Logits at the wanted places, (places, vocabulary).

    No attention mask and no cache: only so do packed examples stay apart (transformers 5).
    """
    device = running.device
    inputs: dict[str, Any] = {"input_ids": batch.input_ids.to(device), "use_cache": False}
    if "position_ids" in inspect.signature(_inner(running.module).forward).parameters:
        inputs["position_ids"] = batch.position_ids.to(device)
    if selects(running.module):
        return running(**inputs, logits_to_keep=wanted.to(device)).logits
    return running(**inputs).logits[wanted.to(device)]


def _second_of_two(running: Any, first: list[int]) -> torch.Tensor:
    """Logits of a short example that is packed behind another."""
    examples = [{"input_ids": ids, "labels": ids} for ids in (first, [1, 2, 2, 3])]
    batch = collate(examples, [[0, 1]], padding=0)
    return _logits(running, batch, torch.arange(8)[None] >= 4)


def _flash(model: Any) -> bool:
    """Whether attention is one of the flash kernels, which keep packed examples apart only in a batch of one row."""
    return str(getattr(model.config, "_attn_implementation", "")).startswith("flash")


def _inner(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
