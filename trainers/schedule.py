"""The learning rate over a stage: a function of the step, so that a resume point need not hold it."""

import math

from trainers.config import TrainConfig


def learning_rate(step: int, steps: int, train: TrainConfig) -> float:
    """The rate of a step (from 0): a linear rise, then the schedule, which ends just above 0."""
    rise = math.ceil(train.warmup * steps)
    if step < rise:
        return train.lr * (step + 1) / rise
    done = (step - rise) / max(1, steps - rise)
    fall = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}
    return train.lr * fall[train.schedule]
