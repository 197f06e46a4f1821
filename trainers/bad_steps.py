"""Steps whose loss or gradient is not finite: DeepSpeed leaves them out, and a stage bears few of them in a row."""

import math
from typing import Any

from trainers.failures import LossNotFinite


def in_a_row(engine: Any, loss: float, norm: float | None, before: int, allowed: int, where: str) -> int:
    """How many bad steps in a row there are now: none after a good one, one more than `before` after a bad one.

    Raises LossNotFinite at the last one that is allowed, and for a bad step that was taken all the same (ZeRO 0 in fp32 does
    not look): its weights are lost, and another step would not bring them back.
    """
    taken = engine.was_step_applied()
    if taken and math.isfinite(loss) and math.isfinite(norm or 0):
        return 0
    if taken or before + 1 >= allowed:
        row = f", {before + 1} such steps in a row" if before else ""
        raise LossNotFinite(f"loss {loss} {where}, norm of the gradient {norm}{row}; lower train.lr")
    return before + 1
