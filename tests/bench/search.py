"""How many trials a search needs, what pruning saves, and what a trial costs the driver. On one core, without Ray's cluster:

python tests/bench/search.py [trials|pruning|cost]
"""

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from io import StringIO
from itertools import product
from tempfile import TemporaryDirectory

import numpy as np
import psutil
from rich.console import Console

from sweeps import budget
from sweeps.balance import front
from sweeps.config import SearchConfig, SweepConfig
from sweeps.loading import parse, with_params
from sweeps.objectives import objectives
from sweeps.progress import Progress
from sweeps.simulate.run import searched
from sweeps.simulate.surfaces import SHIPPED, Surface, open_surface
from sweeps.simulate.world import World
from sweeps.study import SweepStudy, Told

SEEDS = 20
CAP = 100  # trials after which a search counts as not having arrived
WITHIN = 0.01
LOW = 1 / 256
K = {"type": "loguniform", "low": LOW, "high": 1, "include_zero": True}
SHARE = {"type": "loguniform", "low": LOW, "high": 1}


def config(surface: str, **search: object) -> SweepConfig:
    dmt = surface.startswith("dmt")
    values = {
        "name": "bench",
        "model": {"path": "a/model"},
        "sources": {
            "skill": {"path": "skill.jsonl", "format": "messages", "role": "specialist"},
            "talk": {"path": "talk.jsonl", "format": "messages", "role": "general"},
        },
        "strategy": "dmt" if dmt else "multi_task",
        "evaluate": {
            "gsm8k": {"role": "specialist", "path": "a.jsonl"},
            "humaneval": {"role": "specialist", "path": "b.jsonl"},
            "mt_bench": {"role": "general", "path": "c.jsonl"},
        },
        "search": {"space": {"k": K} if dmt else {f"sources.{s}.fraction": SHARE for s in ("skill", "talk")}} | search,
    }
    return parse(values, inputs=False)


class Problem:
    """A surface with its noise: what a trial tells, and what it is worth."""

    def __init__(self, surface: str) -> None:
        self.config = config(surface)
        self.surface: Surface = open_surface(surface, self.config)
        columns = list(self.config.search.space)
        points = np.geomspace(LOW, 1, 257 if len(columns) == 1 else 49)
        grid = np.array([self.worth(dict(zip(columns, p, strict=True))) for p in product(*[points] * len(columns))])
        self.floors = {"0": np.zeros(2), "worst": grid.min(0)}
        self.best = {floor: self.volume(grid, floor) for floor in self.floors}

    def worth(self, params: dict[str, float]) -> tuple[float, float]:
        """Both objectives without noise."""
        made = with_params(self.config, params)
        truth = self.surface.truth(made, params)
        about = {"stderr": 0, "extras": {}, "judge": None, "items": ""}
        scores = {n: about | {"value": v, "scale": "ten" if n == "mt_bench" else "unit"} for n, v in truth.items()}
        told = objectives(made, scores)
        return told["specialist"], told["general"]

    def told(self, params: dict[str, float], world: int) -> tuple[float, float]:
        """Both objectives as a trial measures them."""
        made = with_params(self.config, params)
        world_, key = World(world, self.surface.size), repr(sorted(params.items()))
        truth = self.surface.truth(made, params)
        scores = {n: world_.measured(n, value, made, ("first", key), key) for n, value in truth.items()}
        told = objectives(made, scores)
        return told["specialist"], told["general"]

    def volume(self, table: np.ndarray, floor: str) -> float:
        """The hypervolume that points dominate: above 0, or above the worst of the surface, which is harder to fill."""
        low = self.floors[floor]
        ends = table[front(table)]
        ends = ends[np.argsort(-ends[:, 0])]
        return float(np.sum((ends[:, 0] - low[0]) * np.diff(np.concatenate([[low[1]], ends[:, 1]]))))

    def arrival(self, asked: Iterator[tuple[float, float]]) -> dict[str, int]:
        """Trials until the volume of what was tried is within 1 % of the best, by floor; CAP where it never is."""
        tried: list[tuple[float, float]] = []
        arrived: dict[str, int] = {}
        for worth in asked:
            tried.append(worth)
            for floor in self.floors.keys() - arrived:
                if self.volume(np.array(tried), floor) >= (1 - WITHIN) * self.best[floor]:
                    arrived[floor] = len(tried)
            if len(arrived) == len(self.floors):
                break
        return dict.fromkeys(self.floors, CAP) | arrived


def ours(problem: Problem, sampler: str, seed: int) -> Iterator[tuple[float, float]]:
    """The sweep's own search."""
    study = SweepStudy(SearchConfig(sampler=sampler, seed=seed, space=problem.config.search.space), ())
    for _ in range(CAP):
        number, params = study.ask()
        study.tell(number, Told("complete", problem.told(params, seed)))
        yield problem.worth(params)


def by_chance(problem: Problem, seed: int) -> Iterator[tuple[float, float]]:
    """Independent draws on a logarithmic scale."""
    random = np.random.default_rng(seed)
    for _ in range(CAP):
        yield problem.worth({name: float(np.exp(random.uniform(np.log(LOW), 0))) for name in problem.config.search.space})


def ray_tune(problem: Problem, seed: int) -> Iterator[tuple[float, float]]:
    """Ray Tune's OptunaSearch as it comes, without a cluster."""
    import optuna
    from optuna.distributions import FloatDistribution
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    searched = {name: FloatDistribution(LOW, 1, log=True) for name in problem.config.search.space}
    search = OptunaSearch(space=searched, metric=["specialist", "general"], mode=["max", "max"], seed=seed)
    for i in range(CAP):
        drawn = search.suggest(str(i))
        flat = {name: _at(drawn, name) for name in searched}
        told = dict(zip(("specialist", "general"), problem.told(flat, seed), strict=True))
        search.on_trial_complete(str(i), told)
        yield problem.worth(flat)


def _at(drawn: dict, name: str) -> float:
    for part in [name] if name in drawn else name.split("."):
        drawn = drawn[part]
    return float(drawn)


def ratio(mine: list[int], theirs: list[int]) -> tuple[float, float, float]:
    """The ratio of the means over seeds, with its bootstrap 95 % interval."""
    random = np.random.default_rng(0)
    a, b = np.array(mine, float), np.array(theirs, float)
    drawn = random.integers(0, len(a), (2, 4000, len(a)))
    ratios = a[drawn[0]].mean(1) / b[drawn[1]].mean(1)
    return a.mean() / b.mean(), *np.quantile(ratios, [0.025, 0.975])


def trials(samplers: tuple[str, ...] = ("tpe",)) -> None:
    """Trials until the hypervolume without noise is within 1 % of the best."""
    print(f"trials to a hypervolume within {WITHIN:.0%}, mean of {SEEDS} seeds (cap {CAP}); ratio with its 95 % interval")
    for name in SHIPPED:
        problem = Problem(name)
        peers: dict[str, Callable[[int], Iterator]] = {
            "random": lambda seed, p=problem: by_chance(p, seed),
            "OptunaSearch": lambda seed, p=problem: ray_tune(p, seed),
        }
        theirs = {peer: [problem.arrival(run(seed)) for seed in range(SEEDS)] for peer, run in peers.items()}
        for sampler in samplers:
            mine = [problem.arrival(ours(problem, sampler, seed)) for seed in range(SEEDS)]
            for floor in problem.floors:
                a = [one[floor] for one in mine]
                cells = [f"{name:10} above {floor:5} {sampler:6} {np.mean(a):6.1f}"]
                for peer, arrivals in theirs.items():
                    b = [one[floor] for one in arrivals]
                    middle, low, high = ratio(a, b)
                    cells.append(f"{peer} {np.mean(b):6.1f}  {middle:.2f} [{low:.2f}, {high:.2f}]")
                print("   ".join(cells), flush=True)


def pruning(trials: int = 48, seeds: int = 10) -> None:
    """The hypervolume of what was trained to the end, without noise, and device-seconds: with pruning and without."""
    about = f"{trials} trials, 4 at once, means of {seeds} seeds, beside no pruning"
    print(f"pruning at 1/4 and 1/2, keeping 2/5 and at least 4: {about}")
    rungs = {"rungs": [0.25, 0.5, 1], "keep": 0.4, "least": 4}
    for name in SHIPPED:
        problem = Problem(name)
        volumes: dict[tuple[str, str], list[float]] = {
            (how, floor): [] for how in ("whole", "pruned") for floor in problem.floors
        }
        seconds: dict[str, list[float]] = {"whole": [], "pruned": []}
        for seed, (how, pruner) in product(range(seeds), (("whole", None), ("pruned", rungs))):
            done = simulated(problem, name, trials=trials, seed=seed, concurrency=4, pruner=pruner)
            complete = [e["params"] for e in done if e["event"] == "trial_finished" and e["state"] == "complete"]
            worths = np.array([problem.worth(params) for params in complete])
            for floor in problem.floors:
                volumes[how, floor].append(problem.volume(worths, floor))
            seconds[how].append(budget.spent(done).device_seconds)
        ratios = [f"{np.mean(volumes['pruned', f]) / np.mean(volumes['whole', f]):.3f} above {f}" for f in problem.floors]
        spent = np.mean(seconds["pruned"]) / np.mean(seconds["whole"])
        print(f"{name:10} of no pruning: hypervolume {', '.join(ratios)}; device-seconds {spent:.2f}", flush=True)


def simulated(problem: Problem, name: str, **search: object) -> list[dict]:
    """The events of a simulated sweep."""
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # thousands of small files, each flushed
    with TemporaryDirectory(dir=memory) as scratch:
        made = problem.config.model_dump() | {"storage": scratch}
        made = parse(made | {"search": {**made["search"], **search}}, inputs=False)
        silent = Progress(Console(file=StringIO()))
        with searched(made, open_surface(name, made), int(str(search["seed"])), silent) as recorder:
            return recorder.events


def cost(trials: int = 10_000, window: int = 100) -> None:
    """What a trial costs the driver beside Optuna, whose ask and tell are those in memory and in study.db, early and late."""
    import optuna

    from sweeps import recorder as recorders
    from sweeps import samplers
    from sweeps.shown import ShownStudy

    spent = {"optuna": 0.0}
    theirs = ((optuna.Study, "ask"), (optuna.Study, "tell"), (samplers, "draw"), (ShownStudy, "put"), (ShownStudy, "tell"))
    for owner, function in theirs:
        setattr(owner, function, _timed(getattr(owner, function), spent))
    marks: list[tuple[float, float, float]] = []
    finish = recorders.Recorder.finish

    def marked(self: recorders.Recorder, *given: object) -> None:
        finish(self, *given)  # type: ignore[arg-type]
        memory = psutil.Process().memory_info().rss / 2**20 if len(marks) % window == 0 else 0.0
        marks.append((time.process_time(), spent["optuna"], memory))

    recorders.Recorder.finish = marked  # type: ignore[method-assign]
    simulated(Problem("dmt-7b"), "dmt-7b", sampler="random", trials=trials, seed=0, concurrency=4)
    print("CPU milliseconds of the driver per trial, Optuna's own apart; memory of the process")
    own = {}
    for at in (window, trials // 10, trials - window):
        (begun, theirs, memory), (ended, theirs_too, _) = marks[at], marks[at + window - 1]
        optunas = (theirs_too - theirs) / (window - 1) * 1000
        own[at] = (ended - begun) / (window - 1) * 1000 - optunas
        print(f"  at {at:6}: ours {own[at]:6.2f}   Optuna {optunas:6.2f}   {memory:.0f} MiB")
    print(f"  ratio {own[trials - window] / own[window]:.2f} (target: at most 1.5)")


def _timed(function: Callable, spent: dict[str, float]) -> Callable:
    def timed(*given: object, **more: object) -> object:
        begun, before = time.process_time(), spent["optuna"]
        try:
            return function(*given, **more)
        finally:
            spent["optuna"] = before + time.process_time() - begun  # with what was timed inside

    return timed


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    started = time.time()
    for part in sys.argv[1:] or ["trials", "pruning", "cost"]:
        {"trials": trials, "pruning": pruning, "cost": cost}[part]()
    print(f"{time.time() - started:.0f} s")
