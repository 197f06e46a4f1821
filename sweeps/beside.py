"""What is measured beside the search, when its trials have ended: anchors, and the confirmation of the best candidates.

An anchor is a model that the balance point is compared with, on the items of the search. A confirmation is a candidate trained
again with seeds that no trial had and scored on the test items: what was chosen because it came out well comes out worse when
it is measured again, and by how much is seen only on items that chose nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evaluators import evaluate
from evaluators.config import EvaluateConfig, Gsm8kConfig
from sweeps import lineage, results
from sweeps.balance import candidates
from sweeps.config import Anchor, ConfirmConfig, SweepConfig
from sweeps.confirmation import ANCHOR, CONFIRMATION
from sweeps.ledger import Event
from sweeps.lineage import Identities, Lineage
from sweeps.loading import with_params


@dataclass(frozen=True)
class Measurement:
    """Lineages to score together, one for each seed; `trial` is charged, None for an anchor."""

    event: str
    about: dict[str, Any]
    trial: int | None
    config: SweepConfig
    paths: tuple[Lineage, ...]

    @property
    def evaluations(self) -> list[dict[str, str]]:
        """Names all that is measured."""
        return [path.evaluations for path in self.paths]


def due(config: SweepConfig, known: Identities, events: Sequence[Event]) -> list[Measurement]:
    """The measurements of a finished search that the ledger does not hold."""
    found = [*anchors(config, known), *_confirmations(config, known, events)]
    measured = [e["measured"] for e in events if e["event"] in (ANCHOR, CONFIRMATION) and e["state"] == "complete"]
    return [measurement for measurement in found if measurement.evaluations not in measured]


def on_test(evaluates: EvaluateConfig, confirm: ConfirmConfig) -> EvaluateConfig:
    """The benchmarks on their test items. One without a split has no others: it is asked the same ones."""
    values = evaluates.model_dump()
    for name, benchmark in evaluates.benchmarks.items():
        if isinstance(benchmark, Gsm8kConfig) and benchmark.shots:
            values[name]["shots_path"] = benchmark.shots_path or benchmark.path  # examples stay those of the training set
        if "split" in values[name]:
            values[name]["split"] = "test"
        values[name] |= confirm.evaluate.get(name, {})
    return EvaluateConfig.model_validate(values)


def anchors(config: SweepConfig, known: Identities) -> Iterator[Measurement]:
    """What is asked for to compare the balance point with."""
    for name in config.search.anchors:
        made = lineage.absolute(anchored(config, name))
        paths = (lineage.untrained(made, known),) if name == "base" else lineage.repeats(made, known)
        yield Measurement(ANCHOR, {"anchor": name}, None, made, paths)


def anchored(config: SweepConfig, anchor: Anchor) -> SweepConfig:
    """The configuration that trains an anchor."""
    values: dict[str, Any] = config.model_dump() | {"stages": (), "k": None, "strategy": "multi_task"}
    if anchor == "k0":
        values |= {"strategy": "dmt", "k": 0.0}
    if anchor in ("general", "specialist"):
        values["sources"] = {name: s for name, s in values["sources"].items() if s["role"] == anchor}
    return SweepConfig.model_validate(values)


def _confirmations(config: SweepConfig, known: Identities, events: Sequence[Event]) -> Iterator[Measurement]:
    confirm = config.search.confirm
    if confirm is None:
        return
    evaluates = on_test(config.evaluate, confirm)
    tested = lineage.absolute(config.model_copy(update={"evaluate": evaluates}))
    known = replace(known, items=evaluate.identities(evaluates), judges=evaluate.judges(evaluates))
    fresh = config.search.repeats
    for point in candidates(results.points(events), config.balance, confirm.top):
        made = with_params(tested, point.params)
        paths = tuple(lineage.lineage(lineage.reseeded(made, fresh + seed), known) for seed in range(confirm.seeds))
        asked = {name: identity.evaluation("") for name, identity in known.items.items()}
        about = {"trial": point.trial, "params": dict(point.params), "asked": asked}
        yield Measurement(CONFIRMATION, about, point.trial, made, paths)
