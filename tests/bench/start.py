"""Seconds from submitting a stage to its first optimiser step, beside a bare TorchTrainer with an empty loop.

`make bench`, or `python tests/bench/start.py`. One worker, in a Ray that has started one before. The bare loop imports what
any training needs (torch, transformers, deepspeed) and does nothing. With `workers: 0` the stage trains inside its task; Ray
gives the next task to the same process, so a second stage finds everything imported.
"""

import functools
import importlib
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import ray

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

from stages import stage_over  # noqa: E402

from sweeps.tasks import HOLDS_NOTHING, environment  # noqa: E402
from trainers.config import ModelConfig, ResourcesConfig, TrainConfig  # noqa: E402

ROUNDS = 3
TRAIN = TrainConfig(epochs=1, lr=1e-3, batch_size=8, max_length=128, rows=4)
NEEDED = ("torch", "transformers.models.llama.modeling_llama", "deepspeed")
PARTS = {
    "worker": "a worker runs (Ray)",
    "imports": "imports",
    "opened": "data, model (fulcrum)",
    "engine": "engine (DeepSpeed)",
    "step": "first step",
}
"""What has happened at the end of each part."""


class Clock:
    """Notes in a folder when each part of a start was over. As the callback for progress it travels to the worker."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def begin(self) -> None:
        """The first thing that the worker does."""
        self.note("worker")
        for name in NEEDED:
            importlib.import_module(name)
        self.note("imports")
        from trainers import engine

        start = getattr(engine.start, "__wrapped__", engine.start)  # this process may have timed another stage

        @functools.wraps(start)
        def timed(*given: Any, **named: Any) -> Any:
            self.note("opened")
            started = start(*given, **named)
            self.note("engine")
            return started

        engine.start = timed

    def note(self, what: str) -> None:
        path = Path(self.folder, what)
        if not path.exists():
            path.write_text(repr(time.time()))

    def __call__(self, progress: Any) -> None:
        self.note("step")


@ray.remote
def stage(job: Any, workers: int, folder: str) -> None:
    """As sweeps.tasks.train_stage."""
    from trainers import launch

    clock, plain = Clock(folder), launch._worker

    def worker(config: dict[str, Any]) -> Any:
        clock.begin()
        return plain(config)

    if not workers:
        clock.begin()
    with patch.object(launch, "_worker", worker):
        launch.launch(replace(job, launched=time.time()), ResourcesConfig(workers=workers), clock)


@ray.remote
def bare(folder: str) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    def loop(config: dict[str, Any]) -> None:
        config["clock"].begin()
        for part in ("opened", "engine", "step"):
            config["clock"].note(part)

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
    print(f"| start | to the first step | {' | '.join(PARTS.values())} |\n|{' --- |' * (len(PARTS) + 2)}")
    for name, rounds in found.items():
        told = [sum(median(r[part] for r in rounds) for part in PARTS), *(median(r[part] for r in rounds) for part in PARTS)]
        print(f"| {name} | " + " | ".join(f"{seconds:.2f} s" for seconds in told) + " |")


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
