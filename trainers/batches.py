"""From the examples of one optimiser step to the tensors of its forward passes.

The set of examples per step is fixed by the mixture and the batch size. How they are laid out (packed or padded, over how
many workers and forward passes) changes speed and memory only: the loss is the mean over all labelled tokens of the step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import torch

from data.packing import pack
from data.tokens import IGNORED

Example = Mapping[str, Sequence[int]]
Layout = list[list[list[list[int]]]]


@dataclass(frozen=True)
class Batch:
    """One forward pass of one worker; all tensors have the shape (rows, longest row)."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor


def layout(lengths: Sequence[int], capacity: int, rows: int, workers: int, packing: bool) -> Layout:
    """Positions of examples, as `[forward pass][worker][row][position]`.

    Every worker makes the same number of forward passes, with at most `rows` rows each; a worker may get none.
    """
    packed = pack(lengths, capacity) if packing else [[i] for i in range(len(lengths))]
    # Rows of like length share a forward pass, so that little is padded.
    packed.sort(key=lambda row: (-sum(lengths[i] for i in row), row))
    passes = max(1, ceil(len(packed) / (rows * workers)))
    size = ceil(len(packed) / passes)
    groups = [packed[start : start + size] for start in range(0, len(packed), size)]
    return [[group[worker::workers] for worker in range(workers)] for group in groups]


def collate(examples: Sequence[Example], rows: Sequence[Sequence[int]], padding: int, flat: bool = False) -> Batch:
    """Tensors of some rows; `flat` lays them one behind the other in a single row. Position ids restart with every example,
    which is what keeps packed ones apart.

    The first label of an example is never used: it would be predicted from the example before it. A worker without rows
    gets one token without a label, so that it takes part in the gradient exchange.
    """
    if not rows:
        filler = torch.full((1, 1), padding)
        return Batch(filler, torch.zeros_like(filler), torch.full_like(filler, IGNORED))
    rows = [[i for row in rows for i in row]] if flat else rows
    width = max(sum(len(examples[i]["input_ids"]) for i in row) for row in rows)
    ids = torch.full((len(rows), width), padding)
    positions = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED)
    for r, row in enumerate(rows):
        start = 0
        for i in row:
            size = len(examples[i]["input_ids"])
            ids[r, start : start + size] = torch.as_tensor(examples[i]["input_ids"])
            positions[r, start : start + size] = torch.arange(size)
            labels[r, start + 1 : start + size] = torch.as_tensor(examples[i]["labels"])[1:]
            start += size
        # Padding behind a single example goes on counting: a restart would make it look packed, which costs a mask.
        first = 0 if len(row) > 1 else start
        positions[r, start:] = torch.arange(first, first + width - start)
    return Batch(ids, positions, labels)


def labelled(examples: Sequence[Example]) -> int:
    """Number of tokens that the loss of these examples is a mean over."""
    return sum(label != IGNORED for example in examples for label in example["labels"][1:])
