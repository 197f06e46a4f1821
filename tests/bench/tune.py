"""What Ray Tune costs a trial that has nothing to do: of a sweep, and of bare Ray Tune with its OptunaSearch.

python tests/bench/tune.py

Ours is a whole `fulcrum run` on Ray whose evaluations are all in the store, so that a trial looks there, is told its record by
the graph and reports it; their files are made up. Theirs is a function that reports two numbers. Each runs in processes of its
own, in turns, and is timed inside `Tuner.fit`, which leaves out the start of Ray on both sides.
"""

import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from io import StringIO
from statistics import median
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from sweeps.config import SweepConfig

TRIALS = 40
AT_ONCE = 2
ROUNDS = 2
KS = [i / TRIALS for i in range(TRIALS)]
ROLES = {"math": "specialist", "chat": "general"}
SWEEP = {
    "name": "idle",
    "model": {"path": "toy"},
    "sources": {name: {"path": f"toy:{name}", "format": "messages", "role": role, "limit": 64} for name, role in ROLES.items()},
    "strategy": "dmt",
    "train": {"max_length": 128},
    "resources": {"workers": 0},
    "evaluate": {f"toy_{name}": {"role": role, "limit": 8} for name, role in ROLES.items()},
    "search": {"concurrency": AT_ONCE, "sampler": "tpe", "trials": TRIALS, "space": {"k": {"type": "choice", "values": KS}}},
}


def ours() -> dict[str, float]:
    """A sweep of trials whose results are there already."""
    from sweeps import lineage
    from sweeps.ledger import read
    from sweeps.loading import parse
    from sweeps.progress import Progress
    from sweeps.results import trials
    from sweeps.run import sweep

    with tempfile.TemporaryDirectory() as storage:
        config = lineage.absolute(parse(SWEEP | {"storage": storage}))
        fill(config)
        with timed() as taken:
            sweep(config, Progress(Console(file=StringIO())))
        events = read(lineage.run_folder(config))
        states = [trial["state"] for trial in trials(events)]
        assert states == ["complete"] * TRIALS, states
        assert not any(event["event"] == "stage_started" for event in events)
    return taken


def fill(config: "SweepConfig") -> None:
    """Put an evaluation into the store for every k: its record and a file of items."""
    from data.store import Store
    from evaluators.benchmark import Verdict
    from evaluators.entries import EVALUATIONS
    from sweeps import lineage
    from sweeps.loading import with_params

    store, known = Store(lineage.store_root(config)), lineage.identities(config)
    about = {"n": 8, "stderr": 0.1, "scale": "unit", "judge": None, "extras": {}, "items": "", "no_answer_rate": 0.0}
    for k in KS:
        path = lineage.lineage(with_params(config, {"k": k}), known)
        for order in path.orders:
            record = {"scores": {order.name: about | {"value": k}}, "device_seconds": 1.0}
            with store.writing(EVALUATIONS, order.evaluation, record) as folder:
                lines = (json.dumps(asdict(Verdict(str(i), float(i < 8 * k), group=str(i)))) + "\n" for i in range(8))
                (folder / f"{order.name}.jsonl").write_text("".join(lines), encoding="utf-8")


def bare() -> dict[str, float]:
    """Ray Tune with OptunaSearch, two objectives, and the settings of a sweep for what holds no devices."""
    import optuna
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    from sweeps.tasks import ON_THE_HEAD

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    ray.init(address="local", log_to_driver=False, logging_level="ERROR")

    def report(settings: dict[str, float]) -> None:
        tune.report({"specialist": settings["k"], "general": 1 - settings["k"]})

    search = OptunaSearch(space={"k": tune.uniform(0, 1)}, metric=["specialist", "general"], mode=["max", "max"], seed=0)
    with tempfile.TemporaryDirectory() as storage:
        tuner = tune.Tuner(
            tune.with_resources(report, {"CPU": 0, **ON_THE_HEAD}),
            tune_config=tune.TuneConfig(search_alg=search, num_samples=TRIALS, max_concurrent_trials=AT_ONCE),
            run_config=tune.RunConfig(storage_path=storage, verbose=0),
        )
        with timed() as taken:
            found = tuner.fit()
        assert len(found) == TRIALS and not found.errors
    ray.shutdown()
    return taken


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Seconds, and CPU seconds of this process, per trial inside `Tuner.fit`; there when the block ends."""
    from ray import tune

    taken: dict[str, float] = {}
    fit = tune.Tuner.fit

    def clocked(self: tune.Tuner) -> tune.ResultGrid:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            return fit(self)
        finally:
            taken["seconds"] = (time.perf_counter() - wall) / TRIALS
            taken["driver"] = (time.process_time() - cpu) / TRIALS

    tune.Tuner.fit = clocked  # type: ignore[method-assign]
    yield taken


def main() -> None:
    """Run both in turns and print medians and their ratio."""
    runs: dict[str, list[dict[str, float]]] = {"bare": [], "ours": []}
    for _ in range(ROUNDS):
        for side, taken in runs.items():
            told = subprocess.run([sys.executable, __file__, side], capture_output=True, text=True, check=True).stdout
            taken.append(json.loads(told.splitlines()[-1]))
    print(f"Ray Tune, {TRIALS} trials with nothing to do, {AT_ONCE} at once, medians of {ROUNDS} runs in turns")
    for what in ("seconds", "driver"):
        middle = {side: median(run[what] for run in taken) for side, taken in runs.items()}
        name = "seconds per trial" if what == "seconds" else "CPU seconds of the driver"
        print(f"  {name}: bare {middle['bare']:.3f}, ours {middle['ours']:.3f}: {middle['ours'] / middle['bare']:.2f}")
    print("  (target: at most 1.2)")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    if sys.argv[1:]:
        print(json.dumps({"bare": bare, "ours": ours}[sys.argv[1]]()))
    else:
        main()
