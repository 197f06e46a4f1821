"""The Ray side of one evaluation: the actor that generates, and the task that scores. Each is handed plain values and keys.

A generation is published before it is scored, and each benchmark's scores as soon as they exist.
"""

from pathlib import Path
from typing import Any

import ray

from data.store import Record, Store
from sweeps.lineage import Order
from trainers import base


@ray.remote(max_restarts=0, max_task_retries=0)
class Generation:
    """Answers chunks with an engine that stays open."""

    def __init__(self) -> None:
        self._engine: Any = None
        self._config: Any = None

    @ray.method(num_returns=2)
    def generate(self, order: Order) -> tuple[dict[str, Any], Any]:
        """What answered, and the completions of the chunk."""
        from evaluators import evaluate
        from evaluators.generation import engines, interface
        from evaluators.subsets import subset

        how = (order.config.engine, order.config.batch_size, order.trust_remote_code)
        if self._config != how:
            self._engine, self._config = engines.make(*how), how
        self._engine.open(_checkpoint(order))
        benchmark = evaluate.benchmark(order.config, order.name)
        items = subset(benchmark.items(), order.share)[order.start : order.stop]
        return self._engine.about(), interface.answer(self._engine, items, benchmark.max_new_tokens, benchmark.sampling)


def _checkpoint(order: Order) -> Any:
    from data.checkpoints import in_folder, in_store

    store = Store(order.store)
    if order.base:
        return in_folder(Path(base.location(order.base, store)))
    return in_store(store, order.kind, order.stage)


@ray.remote(max_retries=1)
def score(order: Order, about: Record, *chunks: Any) -> Record:
    """Publish the generation that the chunks make up, none for one in the store; score it; the record of the evaluation."""
    from evaluators import entries, evaluate
    from evaluators.subsets import subset

    store = Store(order.store)
    if chunks:
        items = subset(evaluate.benchmark(order.config, order.name).items(), order.share)
        answers = [turns for chunk in chunks for turns in chunk]
        entries.keep_answers(store, order.generation, items, answers, {"stage": order.stage, **about})
    record = {"stage": order.stage, "device_seconds": about.get("device_seconds", 0.0)}
    return entries.publish_score(store, order.evaluation, order.name, order.config, order.generation, record, order.share)
