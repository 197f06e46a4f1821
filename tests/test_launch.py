"""Launching a stage: which failures are survived, and how."""

import dataclasses
import functools
import time

import pytest
import torch

from cut_stages import apart, every_step_is_told, make, stopped, weights, whole
from data.store import Store
from trainers import base, loop, memory
from trainers.config import ModelConfig, ResourcesConfig
from trainers.examples import Examples
from trainers.failures import LossNotFinite, NothingFits
from trainers.launch import launch

__all__ = ["every_step_is_told", "make", "whole"]
HERE = ResourcesConfig(workers=0)


@pytest.fixture
def memory_for(monkeypatch):
    """A device on which a forward pass of more than some rows runs out of memory, if they are not very short."""
    from transformers import LlamaForCausalLM

    def limit(rows):
        forward = LlamaForCausalLM.forward

        @functools.wraps(forward)
        def limited(self, input_ids, **more):
            if len(input_ids) > rows and input_ids.shape[1] > 16:
                raise torch.OutOfMemoryError(f"CUDA out of memory: {len(input_ids)} rows")
            return forward(self, input_ids=input_ids, **more)

        monkeypatch.setattr(LlamaForCausalLM, "forward", limited)

    return limit


def test_out_of_memory_goes_on_from_the_last_point_with_half_the_rows(make, whole, memory_for):
    job, told = make("memory", packing=False, rows=8, checkpoint_steps=2), []
    undisturbed = whole()[1]
    stopped(job, 3)
    memory_for(2)
    record = launch(job, HERE, lambda progress: told.extend(progress.notes))
    assert record["notes"] == told == ["out of memory at step 5 with 4 rows: now 2 at a time", "continued from step 4"]
    assert apart(weights(job), undisturbed) < 1e-4
    assert not Store(job.store).keys(memory.KIND, job.key)


def test_out_of_memory_with_one_row_fails_with_what_to_do(make, memory_for):
    memory_for(0)
    with pytest.raises(NothingFits, match=r"out of memory at step 1 with 1 row of 128 tokens; lower train\.max_length"):
        launch(make("nothing-fits"), HERE, lambda progress: None)


def test_what_torch_says_on_a_cpu_without_memory_counts():
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 58)
    assert memory.is_out_of_memory(error.value)
    assert not memory.is_out_of_memory(RuntimeError("Connection closed by peer"))


def test_a_failure_is_survived_as_long_as_the_stage_gets_further(make, whole):
    job, failed = make("unlucky", checkpoint_steps=1), []

    def report(progress):
        if progress.step >= 3 * (len(failed) + 1):
            failed.append(progress.step)
            raise ConnectionError("a worker was lost")

    record = launch(job, HERE, report)
    assert failed == [3, 6, 9]
    assert apart(weights(job), whole()[1]) == 0
    assert record["loss"] == whole()[0]["loss"]


def test_an_attempt_that_got_no_further_is_left_to_who_counts_the_tries(make):
    failed = []

    def report(progress):
        if progress.step >= 3:
            failed.append(progress.step)
            raise ConnectionError(f"loss number {len(failed)}")

    with pytest.raises(ConnectionError, match="loss number 2"):
        launch(make("hopeless", checkpoint_steps=2), HERE, report)
    assert failed == [3, 3]


@pytest.mark.parametrize(("zero", "allowed", "step"), [(2, 3, 3), (2, 1, 1), (2, 99, 10), (0, 3, 1)])
def test_a_loss_that_stays_not_finite_fails_with_step_and_rate(make, monkeypatch, zero, allowed, step):
    """Under ZeRO 0 a step is taken whatever its gradient is, so the first one is the last."""
    model = ModelConfig(init_from_config={"model_type": "granite", "logits_scaling": 1e-40, "hidden_size": 32,
        "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2},
        tokenizer="characters")  # fmt: skip
    job = make(f"nan-{zero}-{allowed}", zero=zero, bad_steps=allowed, warmup=0.0, schedule="constant")
    job = dataclasses.replace(job, model=model, base=base.fingerprint(model))
    begun = []
    monkeypatch.setattr(loop, "Examples", lambda *told: begun.append(1) or Examples(*told))
    with pytest.raises(LossNotFinite, match=rf"loss (nan|inf) at step {step} of 10, learning rate 0\.001, norm"):
        launch(job, HERE, lambda progress: None)
    assert len(begun) == 1


def test_seconds_of_earlier_launches_count(make):
    job = make("seconds")
    job = dataclasses.replace(job, devices=2.0, launched=time.time() - 100)
    stopped(job, 3)
    record = launch(dataclasses.replace(job, launched=time.time()), HERE, lambda progress: None)
    assert 200 < record["device_seconds"] < 260
