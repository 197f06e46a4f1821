"""The driver's side of a running sweep: the graph's events and progress are fetched between Tune's steps."""

from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.tune import Callback

from sweeps.graph import StageGraph
from sweeps.progress import Progress
from trainers.config import ResourcesConfig

ANSWER_WITHIN_S = 30.0


def start_graph(resources: ResourcesConfig, slots: int) -> Any:
    """The stage graph's actor, on the head."""
    return StageGraph.remote(resources, slots)  # type: ignore[attr-defined]


class Follow(Callback):
    """A Tune callback that writes down what the graph tells."""

    def __init__(self, graph: Any, note: Callable[..., None], progress: Progress) -> None:
        self._graph = graph
        self._note = note
        self._progress = progress
        self._seen = 0
        self._life = ""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks and never reads this one back

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.drain()

    def drain(self) -> None:
        """Fetch and record what is new. A graph that has just died has nothing to tell; it comes back."""
        try:
            life, events, running = ray.get(self._graph.news.remote(self._life, self._seen), timeout=ANSWER_WITHIN_S)
        except (RayActorError, GetTimeoutError):
            return
        self._seen, self._life = (self._seen if life == self._life else 0), life
        for event in events:
            self._note(event.pop("event"), **event)
            self._seen += 1
        self._progress.stages(running)

    def stop(self) -> None:
        """End the graph, and with it every stage and evaluation that it has started."""
        self.drain()
        ray.kill(self._graph)
