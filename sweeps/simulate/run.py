"""A simulated sweep: the search, the stage graph, budget, ledger and run folder of a real one, in virtual time.

The clock starts at 0 and goes on, in a simulation that was cut off, at the last event of its ledger. All trials find room at
once, as many as `search.concurrency` says. The result depends on the configuration, the surface and the seed of the world.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

from data.files import Folder
from data.fingerprint import digest
from evaluators.entries import EVALUATIONS
from evaluators.evaluate import Identity
from sweeps import lineage, results
from sweeps.balance import BalancePoint
from sweeps.config import SweepConfig
from sweeps.failures import reason
from sweeps.graph import Graph
from sweeps.holder import Hold
from sweeps.inputs import Changed, refuse_changes
from sweeps.ledger import Ledger, read
from sweeps.lineage import Identities, Lineage
from sweeps.loading import with_params
from sweeps.objectives import objectives, pooled
from sweeps.progress import Progress
from sweeps.recorder import Recorder
from sweeps.run import conclude, write_config
from sweeps.scales import Params
from sweeps.simulate import clock
from sweeps.simulate.surfaces import Surface
from sweeps.simulate.work import TOKENS_PER_DEVICE_SECOND, Past, SimulatedWork
from sweeps.simulate.world import World
from sweeps.terms import Known, Stopped, Terms
from trainers.job import kind_of

CONCURRENCY = 2
"""Trials at once where the configuration leaves it to the cluster: there is none."""
ROOM = 1e9


def simulate(config: SweepConfig, surface: Surface, seed: int, progress: Progress) -> BalancePoint | None:
    """Simulate or continue to simulate a sweep; the balance point, None where no trial was completed.

    Raises Changed, Held or SurfaceUnusable before anything is started.
    """
    folder = lineage.run_folder(config)
    about = named(surface, seed)
    refuse_the_real(folder, about)
    refuse_changes(folder, config, identities(config, about))
    with Hold(folder, progress.say):
        write_config(folder, config)
        with searched(config, surface, seed, progress) as recorder:
            chosen = conclude(folder, config)
            recorder.end(chosen.trial if chosen else None)
            return chosen


@contextmanager
def searched(config: SweepConfig, surface: Surface, seed: int, progress: Progress) -> Iterator[Recorder]:
    """The record of a simulation whose trials have been run, or as many of them as the budget allows."""
    folder, about = lineage.run_folder(config), named(surface, seed)
    events, known = read(folder), identities(config, about)
    loop = clock.VirtualLoop(max((event["time"] for event in events), default=0.0))
    ledger, past = Ledger(folder, loop.time), Past(events)
    try:
        recorder = Recorder(config, ledger, progress, store=past)
        begun = "run_continued" if events else "run_started"
        recorder.note(begun, simulation=about, identities=known.plain(), start=recorder.start)
        progress.say(str(results.simulated(recorder.events)))
        if config.search.anchors or config.search.confirm:
            progress.say("search.anchors and search.confirm are not simulated: the surface knows the searched trials alone")
        work = SimulatedWork(config, surface, World(seed, surface.size), events, past)
        clock.run(_search(config, known, recorder, past, work), loop)
        yield recorder
    finally:
        ledger.close()


def named(surface: Surface, seed: int) -> dict[str, Any]:
    """What a simulation is of."""
    return {"surface": surface.name, "world": seed}


def identities(config: SweepConfig, about: Mapping[str, Any]) -> Identities:
    """What a simulation calls its inputs: it reads none, and its keys are those of no real stage."""
    values = config.model_dump(mode="json")
    benchmarks = {name: values["evaluate"][name] for name in config.evaluate.benchmarks}
    searched = [str(model.path) for model in lineage.models(config)[1:]]
    return Identities(
        base=digest({"simulation": about, "model": values["model"]}),
        bases={path: digest({"simulation": about, "model": path}) for path in searched},
        sources={name: digest({"simulation": about, "source": source}) for name, source in values["sources"].items()},
        items={name: Identity(digest({"simulation": about, name: asked}), "", None) for name, asked in benchmarks.items()},
    )


def refuse_the_real(folder: Folder, about: Mapping[str, Any]) -> None:
    """A simulation is continued as the same one. Raises Changed."""
    started = next((e for e in read(folder) if e["event"] == "run_started"), None)
    if started and started.get("simulation") != about:
        was = started.get("simulation") or "no simulation"
        raise Changed(f"{folder} was started as {was}, not as {dict(about)}; give the simulation another `name`")


async def _search(config: SweepConfig, known: Identities, recorder: Recorder, past: Past, work: SimulatedWork) -> None:
    def note(event: str, **values: Any) -> None:
        recorder.note(event, **values)
        past.take(recorder.events[-1])

    graph = SimulatedGraph(config, known, recorder, work, note)
    trial = Trials(config, known, graph, past, work, recorder)
    waiting = list(recorder.unfinished)

    async def slot() -> None:
        while not recorder.stopped and (asked := waiting.pop(0) if waiting else recorder.ask()):
            number, params = asked
            recorder.finish(number, await trial.outcome(number, params))
            await graph.leave(number)

    await asyncio.gather(*(slot() for _ in range(config.search.concurrency or CONCURRENCY)))


@dataclass(frozen=True)
class Trials:
    """Runs trials as sweeps/trial.py does those of a real sweep."""

    base: SweepConfig
    known: Identities
    graph: "SimulatedGraph"
    past: Past
    work: SimulatedWork
    recorder: Recorder

    async def outcome(self, number: int, params: Params) -> dict[str, Any]:
        """What is told of a trial in the end."""
        try:
            config = with_params(self.base, params)
            pruner = self.recorder.pruner
            for rung in pruner.rungs if pruner else ():
                paths = lineage.repeats(config, self.known, rung)
                if not await self._passes(number, paths, config, params):
                    return {"state": "pruned", "rung": rung, "stages": _stages(paths)}
            paths = lineage.repeats(config, self.known)
            told = await self._scored(number, paths, config, params)
            return {"state": "complete", "stages": _stages(paths), "evaluations": paths[0].evaluations} | told
        except Stopped as stopped:
            return {"state": "stopped", "error": str(stopped)}
        except Exception as error:
            return {"state": "failed", "error": reason(error)}

    async def _passes(self, number: int, paths: Sequence[Lineage], config: SweepConfig, params: Params) -> bool:
        """Train and score a trial up to a rung and decide whether it goes on. What was decided before is not asked again."""
        assert self.recorder.pruner is not None
        rung = paths[0].share
        decided = self.recorder.pruner.decided(number, rung)
        if decided is not None:
            return decided
        told = await self._scored(number, paths, config, params)
        return self.recorder.at_rung(number, rung, (told["specialist"], told["general"]))

    async def _scored(self, number: int, paths: Sequence[Lineage], config: SweepConfig, params: Params) -> dict[str, Any]:
        for path in paths:
            self.work.expect(path, config, params)
        records = await asyncio.gather(*(self.graph.want(number, path, self._found(path)) for path in paths))
        return objectives(config, pooled([record["scores"] for record in records]))

    def _found(self, path: Lineage) -> Known:
        kinds = {key: kind_of(key) for key in path.keys} | dict.fromkeys(path.evaluations.values(), EVALUATIONS)
        records = {key: record for key, kind in kinds.items() if (record := self.past.record(kind, key))}
        return Known(records, {job.end: self.work.tokens(job) for job in path.jobs})


def _stages(paths: Sequence[Lineage]) -> list[str]:
    return list(dict.fromkeys(key for path in paths for key in path.keys))


class SimulatedGraph(Graph):
    """Tells what happens when it happens, and knows at once what was spent."""

    def __init__(
        self, config: SweepConfig, known: Identities, recorder: Recorder, work: SimulatedWork, note: Callable[..., None]
    ) -> None:
        pools = config.resources.pool("train"), config.resources.pool("evaluate")
        one = {"device_seconds": 1.0, "tokens": TOKENS_PER_DEVICE_SECOND, "pool": pools[0].accelerator_name}
        bases = {known.base_of(model) for model in lineage.models(config)}
        measured = tuple(one | {"base": b, "max_length": n} for b, n in product(bases, lineage.lengths(config)))
        room = dict.fromkeys(["CPU", "GPU", *(f"accelerator_type:{p.accelerator}" for p in pools if p.accelerator)], ROOM)
        terms = Terms(config.name, config.resources, config.budget, measured)
        super().__init__(terms, [room], recorder.spent, lambda slots: work)
        self._recorder = recorder
        self._say = note

    def _note(self, event: str, about: dict[str, Any], **more: Any) -> None:
        self._say(event, **about, **more)
        self._budget.spent = self._recorder.spent
