"""The numbers of a stage while it trains, and where they can be read."""

import pytest
from torch import nn

from conftest import fulcrum
from run_folders import events
from sweeps.progress import _stage
from trainers import metrics


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


def test_the_numbers_reach_the_ledger_and_tensorboard(small, tmp_path):
    import yaml
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    small |= {"tracking": ["tensorboard"], "evaluate": {}, "search": {}, "k": 0.25}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(small))
    ended = fulcrum("train", "c.yaml", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    folder = tmp_path / "runs" / "small"
    told = [event for event in events(folder) if event["event"] == "stage_progress"]
    finished = [event for event in events(folder) if event["event"] == "stage_finished"]
    assert {event["key"] for event in told} == {event["key"] for event in finished}
    for end in finished:
        last = [event for event in told if event["key"] == end["key"]][-1]
        assert last["step"] == last["steps"] == end["steps"] and last["loss"] == end["loss"]
        assert last["tokens"] == end["tokens"] and last["tokens_per_second"] > 0 and last["grad_norm"] > 0
        assert last["memory"] > 1e8 and last["seconds_left"] == 0 and last["mfu"] is None
        board = EventAccumulator(str(folder / "tensorboard" / end["key"][:8]))
        board.Reload()
        losses = board.Scalars("loss")
        assert [entry.step for entry in losses] == list(range(1, end["steps"] + 1))
        assert losses[-1].value == pytest.approx(end["loss"])
        assert {"lr", "grad_norm", "tokens_per_second", "memory"} <= set(board.Tags()["scalars"])


def test_the_progress_line_says_what_is_known():
    numbers = {"step": 3, "steps": 9, "loss": 1.5, "tokens_per_second": 1234.5, "mfu": 0.512, "seconds_left": 7500.0}
    assert _stage("0123456789", numbers) == "stage 01234567: step 3/9, loss 1.500, 1234 tokens/s, MFU 51%, 2 h 05 min left"
    assert _stage("0123456789", numbers | {"mfu": None, "seconds_left": 45.0}).endswith("1234 tokens/s, 45 s left")
