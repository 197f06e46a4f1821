"""The numbers of a stage while it trains."""

import resource
import time
from collections import deque
from typing import Any

import torch
import torch.distributed as dist

from trainers.job import Progress, StageJob
from trainers.resume import Position

PEAK_TFLOPS = {
    "B200": 2250, "H200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "A100": 312, "L40S": 362, "L40": 181, "L4": 121,
    "A10G": 70, "A10": 125, "A30": 165, "RTX 6000 Ada": 364, "A6000": 155, "RTX 5090": 210, "RTX 4090": 165, "RTX 3090": 71,
    "MI300X": 1307, "MI250X": 383,
}  # fmt: skip
"""Dense bf16 peak of a device with fp32 accumulation, by a part of its name, from data sheets. First match counts."""
WINDOW = 50


class Meter:
    """Measures the last steps of a stage and writes TensorBoard's event files. For the first worker."""

    def __init__(self, engine: Any, job: StageJob, steps: int, start: Position) -> None:
        self._steps = steps
        self._seen: deque[tuple[float, int]] = deque([(time.monotonic(), start.tokens)], maxlen=WINDOW)
        self._flops = flops_per_token(engine.module)
        self._peak = peak_flops(device_name()) if job.model.dtype == "bf16" else None
        self._board = _board(job, start)

    def measure(self, position: Position, rate: float, norm: float | None) -> Progress:
        """The numbers after a step."""
        self._seen.append((time.monotonic(), position.tokens))
        (began, before), (now, tokens) = self._seen[0], self._seen[-1]
        speed = (tokens - before) / max(now - began, 1e-9)
        each = (now - began) / max(len(self._seen) - 1, 1)
        progress = Progress(
            step=position.step,
            steps=self._steps,
            loss=position.loss,
            lr=rate,
            tokens=position.tokens,
            grad_norm=norm,
            tokens_per_second=speed,
            mfu=speed * self._flops / (self._peak * dist.get_world_size()) if self._peak else None,
            memory=memory_held(),
            seconds_left=each * (self._steps - position.step),
        )
        if self._board:
            self._write(progress)
        return progress

    def close(self) -> None:
        if self._board:
            self._board.close()

    def _write(self, progress: Progress) -> None:
        for name in ("loss", "lr", "grad_norm", "tokens_per_second", "mfu", "memory"):
            value = getattr(progress, name)
            if value is not None:
                self._board.add_scalar(name, value, progress.step)


def flops_per_token(module: torch.nn.Module) -> float:
    """Arithmetic of a token's forward and backward pass (arXiv 2204.02311, appendix B, without its term for attention).

    A weight costs 2 forward, 2 for the gradient that passes through and 2 for its own, which a frozen one does without. The
    table of embeddings is looked up and not multiplied, except where it is the output layer as well. Packed examples do not
    see each other, so attention depends on their lengths; it is left out, which makes the utilisation an underestimate.
    """
    table = getattr(module, "get_input_embeddings", lambda: None)()
    output = getattr(module, "get_output_embeddings", lambda: None)()
    looked_up = table.weight if table is not None and (output is None or output.weight is not table.weight) else None
    counted = [p for p in module.parameters() if p is not looked_up]
    return float(sum(getattr(p, "ds_numel", p.numel()) * (6 if p.requires_grad else 4) for p in counted))


def peak_flops(device: str) -> float | None:
    """Operations per second that a device can do at most in bf16, None where that is not known."""
    return next((peak * 1e12 for name, peak in PEAK_TFLOPS.items() if name in device), None)


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def memory_held() -> int:
    """Most bytes that this process has held."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _board(job: StageJob, start: Position) -> Any:
    if not job.tensorboard:
        return None
    from tensorboardX import SummaryWriter

    # What an attempt wrote after the point from which this one goes on is struck out.
    # A file is named by the second: the suffix keeps two attempts of one second apart, and in order.
    suffix = f".{start.step:09d}"
    return SummaryWriter(job.tensorboard, purge_step=start.step + 1, flush_secs=10, filename_suffix=suffix)
