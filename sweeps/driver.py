"""The driver's side of a running sweep: the graph's events and progress are fetched between Tune's steps."""

import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.tune import Callback

from data.store import Store
from sweeps import cluster, costs, lineage
from sweeps.actor import StageGraph
from sweeps.budget import Spent
from sweeps.config import SweepConfig
from sweeps.progress import Progress
from sweeps.reaper import Reaper
from sweeps.terms import News, Terms

ANSWER_WITHIN_S = 30.0
LOOK_EVERY_S = 2.0
REAP_EVERY_S = 10.0


def start_graph(config: SweepConfig, spent: Spent) -> Any:
    """The stage graph's actor, on the head."""
    limited = config.budget.device_hours or config.budget.usd
    measured = costs.measured(config, Store(lineage.store_root(config))) if limited else []
    terms = Terms(config.name, config.resources, config.budget, tuple(measured))
    return StageGraph.remote(terms, cluster.nodes(), spent)  # type: ignore[attr-defined]


class Follow(Callback):
    """A Tune callback that writes down what the graph tells, and tells it which nodes there are and what was spent."""

    def __init__(
        self,
        graph: Any,
        note: Callable[..., None],
        progress: Progress,
        spent: Callable[[], Spent],
        mark: str,
        died: Callable[[], None] = lambda: None,
    ) -> None:
        self._graph = graph
        self._note = note
        self._progress = progress
        self._spent = spent
        self._died = died
        self._seen = 0
        self._life = ""
        self._looked = self._reaped = 0.0
        self._reaper = Reaper(mark)
        self.news: News | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks and never reads this one back

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.drain()

    def room(self) -> int:
        """How many trials are worth running at once: those whose stages can train, and those that wait for a judge."""
        return max(1, self.news.can_train + self.news.judging) if self.news else 1

    def drain(self) -> None:
        """Fetch and record what is new. A graph that has just died has nothing to tell; it comes back."""
        if time.monotonic() - self._looked > LOOK_EVERY_S:
            self._looked, self._nodes = time.monotonic(), cluster.nodes()
        if time.monotonic() - self._reaped > REAP_EVERY_S:
            self._reaped = time.monotonic()
            self._reap()
        asked = self._graph.news.remote(self._life, self._seen, self._nodes, self._spent())
        try:
            self.news = news = ray.get(asked, timeout=ANSWER_WITHIN_S)
        except (RayActorError, GetTimeoutError):
            return
        if news.life != self._life:
            self._seen = 0
            if self._life:
                self._died()
        self._life = news.life
        for event in news.events:
            name = event.pop("event")
            self._note(name, **event)
            self._seen += 1
            if name.endswith(("_failed", "_stopped")):
                self._reaper.search()
        self._progress.stages(news.progress, news.waiting)

    def leave(self, trial: int) -> None:
        """A trial has ended: the graph stops what nobody else wants."""
        self._graph.leave.remote(trial)

    def stop(self) -> None:
        """End the graph, and with it every stage and evaluation that it has started."""
        self.drain()
        ray.kill(self._graph)

    def _reap(self) -> None:
        for what in self._reaper.reap():
            self._note("leak_removed", what=what)
