"""Seconds from submitting a stage to its first optimiser step, beside a bare TorchTrainer with an empty loop.

`make bench`, or `python tests/bench/start.py`. One worker, in a Ray that has started one before. The bare loop imports what
any training needs (torch, transformers, deepspeed) and does nothing. With `workers: 0` the stage trains inside its task; Ray
gives the next task to the same process, so a second stage finds everything imported.
"""

import importlib
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import ray

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

from stages import stage_over  # noqa: E402

from sweeps.tasks import HOLDS_NOTHING, environment  # noqa: E402
from trainers.config import ModelConfig, ResourcesConfig, TrainConfig  # noqa: E402

ROUNDS = 3
TRAIN = TrainConfig(epochs=1, lr=1e-3, batch_size=8, max_length=128, rows=4)
NEEDED = ("torch", "transformers.models.llama.modeling_llama", "deepspeed")
PARTS = ("worker", "imports", "step")


class Clock:
    """Notes in a folder when a worker was there, when it had imported what it needs, and when the first step was done.

    As the callback for progress it travels to the worker, and is unpickled as the first thing there.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        self.begin()

    def begin(self) -> None:
        self.note("worker")
        for name in NEEDED:
            importlib.import_module(name)
        self.note("imports")

    def note(self, what: str) -> None:
        path = Path(self.folder, what)
        if not path.exists():
            path.write_text(repr(time.time()))

    def __call__(self, progress: Any) -> None:
        self.note("step")


@ray.remote
def stage(job: Any, workers: int, folder: str) -> None:
    """As sweeps.tasks.train_stage."""
    from trainers.launch import launch

    clock = Clock(folder)
    if not workers:
        clock.begin()
    launch(replace(job, launched=time.time()), ResourcesConfig(workers=workers), clock)


@ray.remote
def bare(folder: str) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    def loop(config: dict[str, Any]) -> None:
        config["clock"].note("step")

    TorchTrainer(
        loop,
        train_loop_config={"clock": Clock(folder)},
        scaling_config=ScalingConfig(num_workers=1),
        torch_config=TorchConfig(backend="gloo"),
        run_config=RunConfig(name=f"bare-{time.time()}", storage_path=tempfile.mkdtemp()),
    ).fit()


def main() -> None:
    """Print the medians over the rounds, and the parts."""
    paths = {"PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
    ray.init(address="local", runtime_env={"env_vars": dict(environment(1, False)) | paths}, log_to_driver=False)
    with tempfile.TemporaryDirectory() as work:
        job = stage_over(work, ModelConfig(path="toy"), TRAIN)
        found: dict[str, list[dict[str, float]]] = {}
        for number in range(ROUNDS + 1):  # the first round warms Ray and the caches of files
            for name in (
                "bare TorchTrainer",
                "fulcrum, workers: 1",
                "fulcrum, workers: 0, first",
                "fulcrum, workers: 0, again",
            ):
                parts = _timed(name, replace(job, key=f"{number} {name}"))
                found.setdefault(name, []).extend([parts] if number else [])
    print(
        "| start | to the first step | a worker runs | imports | data, model, engine, step |\n| --- | --- | --- | --- | --- |"
    )
    for name, rounds in found.items():
        told = [sum(median(r[part] for r in rounds) for part in PARTS), *(median(r[part] for r in rounds) for part in PARTS)]
        print(f"| {name} | " + " | ".join(f"{seconds:.1f} s" for seconds in told) + " |")


def _timed(name: str, job: Any) -> dict[str, float]:
    """Seconds of each part of one start."""
    options = HOLDS_NOTHING
    if name.endswith("first"):  # a process that has not trained
        options = HOLDS_NOTHING | {"runtime_env": {"env_vars": {"FULCRUM_BENCH": job.key}}}
    if name.endswith("again"):
        options = HOLDS_NOTHING | {"runtime_env": {"env_vars": {"FULCRUM_BENCH": job.key.replace("again", "first")}}}
    with tempfile.TemporaryDirectory() as folder:
        submitted = time.time()
        task = bare.options(**options).remote(folder) if name.startswith("bare") else None
        ray.get(task or stage.options(**options).remote(job, int("workers: 1" in name), folder))
        times = [submitted] + [float(Path(folder, part).read_text()) for part in PARTS]
    return {part: after - before for part, before, after in zip(PARTS, times[:-1], times[1:], strict=True)}


if __name__ == "__main__":
    main()
