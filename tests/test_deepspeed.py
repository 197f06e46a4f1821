"""DeepSpeed's settings: ours, the user's own JSON, and what cannot be."""

import dataclasses
import json

import pytest

from cut_stages import apart, every_step_is_told, maker, stopped, weights
from sweeps.loading import ConfigError, parse
from trainers import deepspeed_json, engine
from trainers.config import DeepSpeedConfig, ModelConfig, TrainConfig
from trainers.keys import mathematics
from trainers.loop import train_stage

__all__ = ["every_step_is_told"]


def refused(values, path):
    with pytest.raises(ConfigError) as error:
        parse(values)
    return next(str(problem) for problem in error.value.problems if problem.field == path)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"gradient_clipping": 0.5}, "gradient_clipping = 0.5 conflicts with train.clip"),
        ({"train_micro_batch_size_per_gpu": 4}, "train_micro_batch_size_per_gpu = 4 conflicts with train.rows"),
        ({"train_batch_size": 64}, "train_batch_size = 64 conflicts with train.batch_size"),
        ({"optimizer": {"type": "Adam"}}, "conflicts with train.lr and train.weight_decay"),
        ({"fp16": {"enabled": True}}, "fp16.enabled = True conflicts with model.dtype"),
        ({"bf16": {"enabled": False}}, "bf16.enabled = False conflicts with model.dtype"),
    ],
    ids=str,
)
def test_a_key_that_we_set_is_refused_with_the_field_to_use(small, tmp_path, given, named):
    (tmp_path / "ds.json").write_text(json.dumps(given))
    small["train"]["deepspeed"] = {"config": str(tmp_path / "ds.json")}
    assert named in refused(small, "train.deepspeed.config")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"zero": 2, "config": {"zero_optimization": {"stage": 3}}}, "zero_optimization.stage = 3, zero is 2"),
        ({"zero": 0, "offload_optimizer": True}, "needs zero 1 or more, zero is 0"),
        ({"zero": 2, "offload_parameters": True}, "needs zero 3, zero is 2"),
        ({"zero": 2, "config": {"zero_optimization": {"offload_param": {"device": "cpu"}}}}, "needs zero 3, zero is 2"),
        (
            {"offload_optimizer": True, "config": {"zero_optimization": {"offload_optimizer": {"device": "nvme"}}}},
            "device = 'nvme', the field beside it asks for cpu",
        ),
    ],
    ids=str,
)
def test_an_impossible_combination_is_refused(small, given, named):
    small["train"]["deepspeed"] = given
    assert named in refused(small, "train.deepspeed")


def test_a_worker_that_could_never_have_an_example_is_refused(small):
    small |= {"resources": {"workers": 4}}
    small["train"]["batch_size"] = 3
    said = refused(small, "train.batch_size")
    assert "train.batch_size = 3" in said and "resources.workers = 4" in said


def test_workers_that_share_a_gpu_are_refused(small):
    small["resources"] = {"workers": 2, "gpus_per_worker": 0.5}
    assert "share" in refused(small, "resources.gpus_per_worker")


@pytest.mark.parametrize(("text", "said"), [(None, "No such file"), ("{", "JSON"), ("[1]", "no JSON object")])
def test_a_file_that_is_no_json_is_refused(small, tmp_path, text, said):
    if text is not None:
        (tmp_path / "ds.json").write_text(text)
    small["train"]["deepspeed"] = {"config": str(tmp_path / "ds.json")}
    assert said in refused(small, "train.deepspeed.config")


AUTO = {
    "train_batch_size": "auto",
    "gradient_accumulation_steps": "auto",
    "bf16": {"enabled": "auto"},
    "fp16": {"enabled": False},
    "zero_optimization": {"stage": "auto", "reduce_bucket_size": 12345, "offload_optimizer": {"device": "none"}},
}


def test_the_users_json_reaches_deepspeed_and_ours_fills_the_rest():
    train = TrainConfig(lr=0.5, deepspeed=DeepSpeedConfig(zero=1, config=AUTO))
    merged = deepspeed_json.merged(engine.settings(train, ModelConfig(path="toy"), 1), train.deepspeed.config)
    assert merged["zero_optimization"] == {"stage": 1, "reduce_bucket_size": 12345, "offload_optimizer": {"device": "none"}}
    assert merged["optimizer"]["params"]["lr"] == 0.5
    assert merged["train_batch_size"] == merged["gradient_accumulation_steps"] == 1
    assert merged["bf16"]["enabled"] is False


def test_only_what_changes_the_numbers_enters_the_key():
    def key(**values):
        return mathematics(TrainConfig(deepspeed=DeepSpeedConfig(**values)))

    plain = mathematics(TrainConfig())
    assert key(zero=0) == key(zero=3, offload_optimizer=True, offload_parameters=True) == plain
    assert key(zero=2, config={"zero_optimization": {"reduce_bucket_size": 1, "overlap_comm": True}}) == plain
    assert key(zero=2, config={"wall_clock_breakdown": True, "train_batch_size": "auto"}) == plain
    assert key(zero=2, config={"communication_data_type": "bf16"}) != plain
    assert key(zero=3, config={"zero_optimization": {"zero_quantized_weights": True}}) != plain
    assert key(zero=2, config={"a_key_of_tomorrow": 1}) != plain


OFFLOADED = [{"zero": 2, "offload_optimizer": True}, {"zero": 3, "offload_optimizer": True, "offload_parameters": True}]


@pytest.mark.parametrize("settings", OFFLOADED, ids=str)
def test_offloading_changes_neither_what_is_learned_nor_how_it_goes_on(tmp_path, settings):
    make = maker(str(tmp_path / "store"))
    train_stage(make("plain"))
    job = make("offloaded")
    job = dataclasses.replace(job, train=job.train.model_copy(update={"deepspeed": DeepSpeedConfig(**settings)}))
    point = stopped(job, 4)
    assert train_stage(job)["notes"] == [f"continued from step {point}"]
    assert apart(weights(job), weights(make("plain"))) < 1e-5
