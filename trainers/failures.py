"""How a stage ends without a model. Needs no torch, so that whoever waits for a stage can tell these apart."""

from data.store import Unusable


class BrokenModel(RuntimeError):
    """A model folder whose weights do not fit its config."""


class LossNotFinite(RuntimeError):
    """The loss or the gradient became infinite or not a number, and stayed so. The same steps would end the same way again."""


class OutOfMemory(RuntimeError):
    """A worker ran out of memory. The next attempt takes fewer rows at a time, and the batch stays what it is."""


class NothingFits(RuntimeError):
    """A worker ran out of memory with one row at a time."""


class StageStopped(RuntimeError):
    """The stage was asked to stop, and stands in a resume point."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step

    def __str__(self) -> str:
        return f"stopped after step {self.step}, from where it will be continued"


FINAL = (BrokenModel, LossNotFinite, NothingFits, StageStopped, Unusable, ValueError, KeyError, TypeError)
"""What another attempt would run into as well: a stage is a pure function of its inputs."""
