"""What went wrong, as a line that a person reads and a class that every process knows."""


class Failed(RuntimeError):
    """A stage or an evaluation failed. Carries the line that says why, so that no trainer's class travels to the head.

    `again`: it may go well the next time. `lost`: its node went away, which is no failure of the stage.
    """

    def __init__(self, why: str, again: bool, lost: bool = False) -> None:
        super().__init__(why, again, lost)
        self.why, self.again, self.lost = why, again, lost

    def __str__(self) -> str:
        return self.why


def root(error: BaseException) -> BaseException:
    """The error of the worker that failed, without the wrapping of Ray and of Ray Train."""
    cause = getattr(error, "cause", None) or error
    inner = getattr(cause, "worker_failures", None)
    if isinstance(inner, dict) and inner:
        cause = next(iter(inner.values()))
        cause = getattr(cause, "_base_exc", None) or cause
    return cause


def reason(error: BaseException) -> str:
    """The line that says what went wrong, without Ray's wrapping and traceback."""
    cause = root(error)
    if isinstance(cause, Failed):
        return cause.why
    lines = [line for line in str(cause).strip().splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1].strip() if lines else ''}"[:500]


class SurfaceUnusable(ValueError):
    """A surface that does not exist, cannot be read, or says nothing about what a configuration searches."""
