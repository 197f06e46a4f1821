"""What a concurrent trial costs on the head: our trials beside the pattern that Ray documents, with 1, 4 and 8 at a time.

`make bench`, or `python tests/bench/head.py`. The documented pattern is a Tune function that runs `TorchTrainer.fit()` with a
TuneReportCallback; its training loop does nothing. Ours train stages of the toy model, one device each: in the task that holds
the device (`workers: 0`), and with a Train worker as stages of many devices do (`workers: 1`). All trials are in training when
it is measured. Counted are the processes that would lie on the head: all that Ray started but what holds a device, which is on
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
WAIT_S = 400.0


def main() -> None:
    """Print processes and MiB per trial, and the ratios."""
    if len(sys.argv) > 1:
        made = {"documented": documented, "task": partial(ours, workers=0), "worker": partial(ours, workers=1)}
        print(json.dumps(made[sys.argv[1]](int(sys.argv[2]))))
        return
    print("head: processes and MiB of each concurrent trial, without what Ray runs anyway (target: half the MiB at most)")
    for trials in TRIALS:
        peer = _in_a_process("documented", trials)
        print(f"  {trials} at a time: documented   {peer['processes']:4.1f}  {peer['mib']:5.0f} MiB   {peer['names']}")
        for which, label in (("task", "workers: 0"), ("worker", "workers: 1")):
            here = _in_a_process(which, trials)
            told = f"{here['processes']:4.1f}  {here['mib']:5.0f} MiB   ratio {here['mib'] / peer['mib']:.2f}   {here['names']}"
            print(f"               ours, {label} {told}")


def ours(trials: int, workers: int) -> dict:
    """Trials of a sweep, each with a last stage of its own in training."""
    import ray
    from rich.console import Console
    from sharing import TOY, sources

    from sweeps import loading, run
    from sweeps.progress import Progress

    devices, before = ("RayTrainWorker",) if workers else ("train_stage",), {}
    seeds = {"sampler": "grid", "space": {"train.seed": {"type": "grid", "values": list(range(trials))}}}
    rows = {"math": 64, "code": 32, "chat": 64}
    values = TOY | {"storage": tempfile.mkdtemp(), "resources": {"workers": workers}, "sources": sources(rows), "search": seeds}
    config = loading.parse(values | {"strategy": "multi_task", "train": TOY["train"] | {"epochs": 10_000}})

    started = ray.init

    def init(**options):
        started(**options, num_cpus=trials)
        before.update(measured(devices))

    def stages(self, running, waiting=None):  # called between Tune's steps
        if len(running) == trials:
            print(json.dumps(difference(before, measured(devices), trials)), flush=True)
            os._exit(0)

    Progress.stages, ray.init = stages, init
    with Progress(Console(file=open(os.devnull, "w"))) as progress:
        run.sweep(config, progress)
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

    ray.init("local", num_cpus=trials, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    before = measured(("RayTrainWorker",))

    class Measure(tune.Callback):
        def on_step_end(self, **info):
            if len(list(folder.glob("in-training-*"))) == trials:
                time.sleep(5)
                print(json.dumps(difference(before, measured(("RayTrainWorker",)), trials)), flush=True)
                os._exit(0)

    tune.Tuner(
        tune.with_resources(trial, {"CPU": 0, "node:__internal_head__": 0.001}),
        param_space={"trial": tune.grid_search(list(range(trials)))},
        tune_config=tune.TuneConfig(max_concurrent_trials=trials),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0, callbacks=[Measure()]),
    ).fit()
    raise RuntimeError("the trials ended before they were measured")


def measured(devices: tuple[str, ...]) -> dict:
    """Proportional set size in bytes by process, of all below this one but those that hold devices."""
    import psutil

    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            name = process.cmdline()[0] if process.cmdline() else process.name()
            if not any(device in name for device in devices):
                found[process.pid] = (name.split("/")[-1].split("(")[0][:40], process.memory_full_info().pss)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def difference(before: dict, after: dict, trials: int) -> dict:
    """Processes and MiB that came with the trials, each divided by their number. Idle workers count once they are used."""
    idle = {pid for pid, (name, _) in before.items() if "IDLE" in name}
    new = {pid: e for pid, e in after.items() if (pid not in before or pid in idle) and "IDLE" not in e[0]}
    sizes: dict = {}
    for name, size in new.values():
        sizes.setdefault(name, []).append(size / 2**20)
    return {
        "processes": len(new) / trials,
        "mib": sum(size for _, size in new.values()) / 2**20 / trials,
        "names": ", ".join(f"{len(mib)} {name} {sum(mib) / len(mib):.0f} MiB" for name, mib in sorted(sizes.items())),
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
