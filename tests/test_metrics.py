"""The numbers of a stage while it trains, and where they can be read."""

from dataclasses import replace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from cut_stages import STEPS, every_step_is_told, maker, points, stopped
from data.store import Store
from evaluators import evaluate
from run_folders import events, finished_stages
from sweeps.lineage import Identities, lineage
from sweeps.loading import parse
from sweeps.progress import _stage
from trainers import metrics
from trainers.job import RESUME
from trainers.loop import train_stage

__all__ = ["every_step_is_told"]


class Model(nn.Module):
    """Embeddings, one layer and an output layer that may be the embeddings again."""

    def __init__(self, tied):
        super().__init__()
        self.table, self.layer, self.head = nn.Embedding(10, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 10, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def get_input_embeddings(self):
        return self.table

    def get_output_embeddings(self):
        return self.head


@pytest.mark.parametrize("tied", [True, False])
def test_a_token_costs_six_operations_per_weight_that_is_multiplied(tied):
    assert metrics.flops_per_token(Model(tied)) == 6 * (16 + 40)


def test_a_frozen_weight_costs_no_gradient_of_its_own():
    model = Model(tied=True)
    model.layer.weight.requires_grad = False
    assert metrics.flops_per_token(model) == 6 * 40 + 4 * 16


@pytest.mark.parametrize(
    ("device", "tera"),
    [("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA A100-SXM4-80GB", 312), ("", None)],
)
def test_the_peak_of_a_device_is_known_by_its_name(device, tera):
    assert metrics.peak_flops(device) == (tera * 1e12 if tera else None)


def test_utilisation_is_the_part_of_the_peak_that_the_model_takes(monkeypatch):
    from types import SimpleNamespace

    from trainers.resume import Position

    clock = iter((0.0, 2.0, 4.0))
    monkeypatch.setattr(metrics.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(metrics, "device_name", lambda: "NVIDIA A100-SXM4-80GB")
    monkeypatch.setattr(metrics.dist, "get_world_size", lambda: 2)
    job = SimpleNamespace(model=SimpleNamespace(dtype="bf16"), tensorboard=None)
    meter = metrics.Meter(SimpleNamespace(module=Model(tied=True)), job, 10, Position())
    meter.measure(Position(1, 500, 1.0), 0.1, 1.0)
    told = meter.measure(Position(2, 1000, 1.0), 0.1, 1.0)
    assert told.tokens_per_second == 250
    assert told.mfu == pytest.approx(250 * 336 / (2 * 312e12))
    assert told.seconds_left == pytest.approx(16)


def test_the_numbers_of_every_stage_reach_the_ledger(finished):
    folder, ended = finished
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = [event for event in events(folder) if event["event"] == "stage_progress"]
    for end in finished_stages(folder):
        mine = [event for event in told if event["key"] == end["key"]]
        last = mine[-1]
        assert last["step"] == last["steps"] == end["steps"] and last["loss"] == end["loss"]
        assert last["tokens"] == end["tokens"] and last["tokens_per_second"] > 0 and last["grad_norm"] > 0
        assert last["memory"] > 1e8 and last["seconds_left"] == 0 and last["mfu"] is None
        assert len(mine) <= 10


def test_a_run_that_is_tracked_has_a_folder_for_each_stage(small, tmp_path):
    small |= {"storage": str(tmp_path), "k": 0.25, "search": {}, "tracking": ["tensorboard"]}
    known = Identities("base", dict.fromkeys(small["sources"], "source"), evaluate.identities(parse(small).evaluate))
    jobs = lineage(parse(small), known).jobs
    assert [job.tensorboard for job in jobs] == [str(tmp_path / "small" / "tensorboard" / job.key[:8]) for job in jobs]
    assert all(job.tensorboard is None for job in lineage(parse(small | {"tracking": []}), known).jobs)


def test_tensorboard_shows_every_step_once_also_after_a_stop(tmp_path):
    job = replace(maker(str(tmp_path / "store"))("tracked", checkpoint_steps=4), tensorboard=str(tmp_path / "board"))
    stopped(job, 5)
    Store(job.store).delete(RESUME, f"tracked-{points(job)[0]}")  # the attempt after it goes on from step 4, and writes 5 again
    record = train_stage(job)
    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    losses = board.Scalars("loss")
    assert [entry.step for entry in losses] == list(range(1, STEPS + 1))
    assert losses[-1].value == pytest.approx(record["loss"])
    assert {"lr", "grad_norm", "tokens_per_second", "memory"} <= set(board.Tags()["scalars"])


def test_the_progress_line_says_what_is_known():
    numbers = {"step": 3, "steps": 9, "loss": 1.5, "tokens_per_second": 1234.5, "mfu": 0.512, "seconds_left": 7500.0}
    assert _stage("0123456789", numbers) == "stage 01234567: step 3/9, loss 1.500, 1234 tokens/s, MFU 51%, 2 h 05 min left"
    assert _stage("0123456789", numbers | {"mfu": None, "seconds_left": 45.0}).endswith("1234 tokens/s, 45 s left")
