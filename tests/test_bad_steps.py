"""Steps whose loss is not finite: left out as if they were not there, and too many in a row end the stage."""

import functools
from dataclasses import replace

import pytest

from cut_stages import MODEL, apart, every_step_is_told, make, stopped, weights
from trainers.config import DeepSpeedConfig
from trainers.examples import Examples
from trainers.failures import LossNotFinite
from trainers.loop import train_stage

__all__ = ["every_step_is_told", "make"]
FLAT = {"warmup": 0.0, "schedule": "constant", "checkpoint_steps": 1}
"""The rate of a step does not depend on how many there are before it."""


@pytest.fixture
def poison(monkeypatch):
    """A function that makes the model answer with NaN in some steps (from 1)."""
    from transformers import LlamaForCausalLM

    def poison(*bad):
        forward, of_step, now = LlamaForCausalLM.forward, Examples.of_step, [0]

        def told(self, step):
            now[0] = step + 1
            return of_step(self, step)

        @functools.wraps(forward)
        def poisoned(self, *given, **named):
            answer = forward(self, *given, **named)
            if now[0] in bad:
                answer.logits = answer.logits * float("nan")
            return answer

        monkeypatch.setattr(Examples, "of_step", told)
        monkeypatch.setattr(LlamaForCausalLM, "forward", poisoned)

    return poison


@pytest.fixture
def without(monkeypatch):
    """A function that takes some steps (from 1) out of every stage."""

    def without(*bad):
        made = Examples.__init__

        def shorter(self, *given):
            made(self, *given)
            self.steps = [step for number, step in enumerate(self.steps, 1) if number not in bad]

        monkeypatch.setattr(Examples, "__init__", shorter)

    return without


@pytest.mark.parametrize(
    ("zero", "dtype"),
    [({"zero": z}, d) for z, d in ((1, "fp32"), (2, "fp32"), (3, "fp32"), (0, "bf16"), (2, "bf16"))]
    + [({"zero": 2, "offload_optimizer": True}, "fp32")],
    ids=str,
)
def test_a_bad_step_is_left_out_as_if_it_were_not_there(make, poison, without, monkeypatch, zero, dtype):
    def stage(key):
        job = make(f"{key}-{zero}-{dtype}", **FLAT)
        train = job.train.model_copy(update={"deepspeed": DeepSpeedConfig(**zero)})
        return replace(job, train=train, model=MODEL.model_copy(update={"dtype": dtype}))

    poison(1, 4, 5, 7)
    notes = train_stage(stage("poisoned"))["notes"]
    assert [note.split(",")[0] for note in notes] == [
        f"left out a step: loss nan at step {step} of 10" for step in (1, 4, 5, 7)
    ]
    monkeypatch.undo()
    without(1, 4, 5, 7)
    assert train_stage(stage("shorter"))["steps"] == 6
    assert apart(weights(stage("poisoned")), weights(stage("shorter"))) == 0


def test_a_stage_cut_off_among_bad_steps_goes_on_exactly(make, poison):
    poison(4, 5)
    job, undisturbed = make("among", **FLAT), make("among-undisturbed", **FLAT)
    train_stage(undisturbed)
    assert stopped(job, 3) == 4
    assert train_stage(job)["loss"] > 0
    assert apart(weights(job), weights(undisturbed)) == 0


def test_bad_steps_before_and_after_a_resume_point_count_as_one_row(make, poison):
    poison(4, 5, 6)
    job = make("row", **FLAT)
    assert stopped(job, 4) == 5
    with pytest.raises(LossNotFinite, match=r"loss nan at step 6 of 10.*, 3 such steps in a row; lower train\.lr"):
        train_stage(job)
