"""What a concurrent trial costs on the head: our trials beside the pattern that Ray documents, with 1, 4 and 8 at a time.

`make bench`, or `python tests/bench/head.py`. The documented pattern is a Tune function that runs `TorchTrainer.fit()` with a
TuneReportCallback; its training loop does nothing. Ours train stages of the toy model. All trials are in training when it is
measured. Counted are the processes that would lie on the head: all that Ray started but the training workers, which are on
other nodes of a cluster. Memory is the proportional set size, so that shared pages count once.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

TRIALS = (1, 4, 8)
ON_OTHER_NODES = ("RayTrainWorker", "train_stage_here")
WAIT_S = 400.0


def main() -> None:
    """Print processes and MiB per trial, and the ratio."""
    if len(sys.argv) > 1:
        print(json.dumps({"ours": ours, "documented": documented}[sys.argv[1]](int(sys.argv[2]))))
        return
    print("head: processes and MiB of each concurrent trial, without what Ray runs anyway")
    for trials in TRIALS:
        here, there = (_in_a_process(which, trials) for which in ("ours", "documented"))
        print(
            f"  {trials} at a time: documented {there['processes']:4.1f}, {there['mib']:5.0f} MiB   "
            f"ours {here['processes']:4.1f}, {here['mib']:5.0f} MiB   ratio {here['mib'] / there['mib']:.2f} (at most 0.50)"
        )
        print(f"    documented: {there['names']}\n    ours: {here['names']}")


def ours(trials: int) -> dict:
    """Trials of a sweep, each with a last stage of its own in training."""
    import ray
    from rich.console import Console
    from sharing import TOY, sources

    from sweeps import loading, run
    from sweeps.progress import Progress

    before: dict = {}
    seeds = {"sampler": "grid", "space": {"train.seed": {"type": "grid", "values": list(range(trials))}}}
    rows = {"math": 64, "code": 32, "chat": 64}
    values = TOY | {"storage": tempfile.mkdtemp(), "resources": {"workers": 1}, "sources": sources(rows), "search": seeds}
    config = loading.parse(values | {"strategy": "multi_task", "train": TOY["train"] | {"epochs": 10_000}})
    original = Progress.stages

    def stages(self, running, waiting=None):  # called between Tune's steps
        if not before:
            before.update(measured(set()))
        if len(running) == trials:
            result = difference(before, measured(set()), trials)
            print(json.dumps(result), flush=True)
            os._exit(0)

    Progress.stages = stages
    ray.init = partial(ray.init, num_cpus=trials)
    with Progress(Console(file=open(os.devnull, "w"))) as progress:
        run.sweep(config, progress)
    Progress.stages = original
    raise RuntimeError("the trials ended before they were measured")


def documented(trials: int) -> dict:
    """The pattern of Ray's guide: a Train run inside each Tune trial."""
    import ray
    from ray import tune

    folder = Path(tempfile.mkdtemp())

    def loop(config):
        (folder / f"in-training-{config['trial']}").write_text("")
        while not (folder / "over").exists():
            time.sleep(0.5)
        ray.train.report({"loss": 0.0})

    def trial(config):
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
        from ray.tune.integration.ray_train import TuneReportCallback

        TorchTrainer(
            loop,
            train_loop_config=config,
            scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(name=f"t{config['trial']}", storage_path=str(folder), callbacks=[TuneReportCallback()]),
        ).fit()

    ray.init(num_cpus=trials, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    before, result = measured(set()), {}

    class Measure(tune.Callback):
        def on_step_end(self, iteration, trials_now, **info):
            if len(list(folder.glob("in-training-*"))) == trials:
                time.sleep(5)
                print(json.dumps(difference(before, measured(set()), trials)), flush=True)
                os._exit(0)

    tune.Tuner(
        tune.with_resources(trial, {"CPU": 0, "node:__internal_head__": 0.001}),
        param_space={"trial": tune.grid_search(list(range(trials)))},
        tune_config=tune.TuneConfig(max_concurrent_trials=trials),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0, callbacks=[Measure()]),
    ).fit()
    return result


def measured(known: set) -> dict:
    """Proportional set size in bytes by process, of all below this one but training workers."""
    import psutil

    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            name = process.cmdline()[0] if process.cmdline() else process.name()
            if not any(other in name for other in ON_OTHER_NODES):
                found[process.pid] = (name.split("/")[-1].split("(")[0][:40], process.memory_full_info().pss)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def difference(before: dict, after: dict, trials: int) -> dict:
    """Processes and MiB that came with the trials, each divided by their number; idle workers are nobody's."""
    new = {pid: entry for pid, entry in after.items() if pid not in before and "IDLE" not in entry[0]}
    names: dict = {}
    for name, _ in new.values():
        names[name] = names.get(name, 0) + 1
    return {
        "processes": len(new) / trials,
        "mib": sum(size for _, size in new.values()) / 2**20 / trials,
        "names": ", ".join(f"{count} {name}" for name, count in sorted(names.items())),
    }


def _in_a_process(which: str, trials: int) -> dict:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "RAY_TRAIN_V2_ENABLED": "1"}
    ended = subprocess.run(
        [sys.executable, __file__, which, str(trials)], capture_output=True, text=True, timeout=WAIT_S, env=environment
    )
    if ended.returncode:
        raise RuntimeError(ended.stdout + ended.stderr)
    return json.loads(ended.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
