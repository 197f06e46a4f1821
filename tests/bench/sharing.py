"""Device-seconds of a study of ten values of k, with stages shared between its trials and without.

`make bench`, or `python tests/bench/sharing.py`. The sources have the proportions of the paper (110k problems with their
augmentation, 20k programs, 86k conversations), at a toy's size. What sharing can save follows from the tokens alone: the first
stage once instead of ten times. What it does save is less, because a stage also has to load its model.
"""

import os
import tempfile

from sweeps import cluster, lineage
from sweeps.actor import StageGraph
from sweeps.budget import Spent
from sweeps.config import SweepConfig
from sweeps.inputs import prepare_sources
from sweeps.loading import parse, with_params
from sweeps.terms import Terms
from sweeps.trial import known

KS = (0, *(2.0**-power for power in range(8, 0, -1)), 1)
ROWS = {"math": 1650, "code": 300, "chat": 1290}
ROLES = {"math": "specialist", "code": "specialist", "chat": "general"}
TOY = {
    "name": "bench",
    "model": {"path": "toy"},
    "train": {"epochs": 1, "lr": 2e-3, "batch_size": 16, "max_length": 128, "rows": 16},
    "resources": {"workers": 0},
    "evaluate": {
        "toy_math": {"role": "specialist", "limit": 8, "max_new_tokens": 12},
        "toy_chat": {"role": "general", "limit": 8, "max_new_tokens": 12},
    },
    "search": {"sampler": "grid", "space": {"k": {"type": "grid", "values": list(KS)}}},
}


def sources(rows: dict[str, int]) -> dict:
    """The toy sources with so many rows."""
    return {
        name: {"path": f"toy:{name}", "format": "messages", "role": ROLES[name], "limit": count} for name, count in rows.items()
    }


class Quiet:
    def say(self, text: str) -> None:
        pass

    doing = say


def main() -> None:
    """Print device-seconds, their ratio and the ratio that the tokens allow."""
    import ray

    with cluster.joined(_config("unused"), None), tempfile.TemporaryDirectory() as work:
        _trained(ray, _config(f"{work}/warm", rows=dict.fromkeys(ROWS, 32)), (0,))  # imports are nobody's cost
        shared = _trained(ray, _config(f"{work}/shared"), KS)
        alone = [event for k in KS for event in _trained(ray, _config(f"{work}/{k}"), (k,))]
    seconds = [sum(event["device_seconds"] for event in events) for events in (alone, shared)]
    tokens = [sum(event["tokens"] for event in events) for events in (alone, shared)]
    measured, ideal = seconds[0] / seconds[1], tokens[0] / tokens[1]
    print(f"sharing: {len(KS)} values of k, {len(alone)} stages alone and {len(shared)} shared")
    print(f"  device-seconds {seconds[0]:.1f} alone, {seconds[1]:.1f} shared: {measured:.2f} x")
    print(f"  tokens {tokens[0]} alone, {tokens[1]} shared: {ideal:.2f} x is the ideal")
    print(f"  {measured / ideal:.1%} of the ideal (target: at least 95%)")


def _config(storage: str, rows: dict[str, int] = ROWS) -> SweepConfig:
    return lineage.absolute(parse(TOY | {"storage": storage, "sources": sources(rows)}))


def _trained(ray, config: SweepConfig, ks: tuple[float, ...]) -> list[dict]:
    """The ends of all stages that some values of k need, one stage at a time."""
    prepare_sources(config, Quiet())
    one = [{"CPU": 1.0}]  # one stage at a time: device-seconds of two on shared cores would be those of both
    graph = StageGraph.remote(Terms("bench", config.resources, config.budget), one, Spent())
    names = lineage.identities(config)
    for trial, k in enumerate(ks):
        path = lineage.lineage(with_params(config, {"k": k}), names)
        ray.get(graph.want_stages.remote(trial, path, known(path)))
    events = ray.get(graph.news.remote("", 0, one, Spent())).events
    ray.kill(graph)
    return [event for event in events if event["event"] == "stage_finished"]


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
