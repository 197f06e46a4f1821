"""The statistics of a score."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from evaluators.benchmark import Completion, EvaluationFailed, Scale, Verdict


@dataclass(frozen=True)
class Score:
    """A benchmark's result over n items: mean and standard error on its own scale, and two rates of trouble."""

    n: int
    value: float
    stderr: float
    no_answer_rate: float
    truncated_rate: float


def score(verdicts: Sequence[Verdict], answers: Sequence[Sequence[Completion]]) -> Score:
    """The mean over questions of the mean over their samples, with the standard error of that mean.

    Questions are independent draws, samples of one question are not: so the error is clustered by question. Raises
    EvaluationFailed for no items: nothing measured is not 0.
    """
    if not verdicts:
        raise EvaluationFailed("no item was scored")
    questions: dict[str, list[float]] = {}
    for verdict in verdicts:
        questions.setdefault(verdict.group or verdict.id, []).append(verdict.score)
    values = [fmean(samples) for samples in questions.values()]
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return Score(
        n=len(values),
        value=fmean(values),
        stderr=error,
        no_answer_rate=fmean(not verdict.answered for verdict in verdicts),
        truncated_rate=fmean(any(turn.finish == "length" for turn in turns) for turns in answers),
    )


def unit(value: float, scale: Scale) -> float:
    """A score on 0 to 1, as it enters an objective: 1 to 10 becomes (s - 1) / 9."""
    return (value - 1) / 9 if scale == "ten" else value


def unit_error(stderr: float, scale: Scale) -> float:
    """A standard error on the scale of `unit`."""
    return stderr / 9 if scale == "ten" else stderr
