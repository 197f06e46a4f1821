"""A simulated sweep: the search, the stage graph, budget, ledger and run folder of a real one, in virtual time.

The clock starts at 0 and goes on, in a simulation that was cut off, at the last event of its ledger. All trials find room at
once, as many as `search.concurrency` says. The result depends on the configuration, the surface and the seed of the world.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from data.files import Folder
from data.fingerprint import digest
from sweeps import lineage, results
from sweeps.balance import BalancePoint
from sweeps.config import SweepConfig
from sweeps.failures import reason
from sweeps.graph import Graph
from sweeps.holder import Hold
from sweeps.inputs import Changed, refuse_changes
from sweeps.ledger import Ledger, read
from sweeps.lineage import EVALUATIONS, Identities, Lineage
from sweeps.loading import with_params
from sweeps.objectives import objectives
from sweeps.progress import Progress
from sweeps.pruner import EVENT as AT_RUNG
from sweeps.pruner import Pruner
from sweeps.recorder import Recorder
from sweeps.run import conclude, write_config
from sweeps.scales import Params
from sweeps.simulate import clock
from sweeps.simulate.surfaces import Surface
from sweeps.simulate.work import TOKENS_PER_DEVICE_SECOND, Past, SimulatedWork, Trial
from sweeps.simulate.world import World
from sweeps.terms import Known, Stopped, Terms
from trainers.job import KIND

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
    return Identities(
        base=digest({"simulation": about, "model": values["model"]}),
        sources={name: digest({"simulation": about, "source": source}) for name, source in values["sources"].items()},
        items=digest({"simulation": about, "evaluate": values["evaluate"]}),
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

    graph = SimulatedGraph(config, recorder, work, note)
    trial = Trials(config, known, graph, past, work, note, recorder.pruner)
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
    note: Callable[..., None]
    pruner: Pruner | None

    async def outcome(self, number: int, params: Params) -> dict[str, Any]:
        """What is told of a trial in the end."""
        try:
            config = with_params(self.base, params)
            path = lineage.lineage(config, self.known)
            for rung in self.pruner.rungs if self.pruner else ():
                if not await self._passes(rung, number, config, path, params):
                    return {"state": "pruned", "rung": rung, "stages": list(path.keys[:-1])}
            self.work.expect(path.evaluation, Trial(config, params))
            record = await self.graph.want(number, path, self._found(path))
            about = {"state": "complete", "stages": list(path.keys), "evaluation": path.evaluation}
            return about | objectives(config, record["scores"])
        except Stopped as stopped:
            return {"state": "stopped", "error": str(stopped)}
        except Exception as error:
            return {"state": "failed", "error": reason(error)}

    async def _passes(self, rung: float, number: int, config: SweepConfig, path: Lineage, params: Params) -> bool:
        """Train and score a trial up to a rung and decide whether it goes on. What was decided before is not asked again."""
        assert self.pruner is not None
        decided = self.pruner.decided(number, rung)
        if decided is not None:
            return decided
        part = at_rung(path, rung)
        self.work.expect(part.evaluation, Trial(config, params, rung))
        record = await self.graph.want(number, part, self._found(part))
        told = objectives(config, record["scores"])
        reached = (told["specialist"], told["general"])
        goes_on = self.pruner.goes_on(number, rung, reached)
        self.note(AT_RUNG, trial=number, rung=rung, specialist=reached[0], general=reached[1], goes_on=goes_on)
        return goes_on

    def _found(self, path: Lineage) -> Known:
        kinds = dict.fromkeys(path.keys, KIND) | {path.evaluation: EVALUATIONS}
        records = {key: record for key, kind in kinds.items() if (record := self.past.record(kind, key))}
        return Known(records, {job.key: self.work.tokens(job) for job in path.jobs})


def at_rung(path: Lineage, rung: float) -> Lineage:
    """A lineage that ends at a share of its last stage."""
    part = replace(path.jobs[-1], key=f"{path.jobs[-1].key}@{rung:g}")
    return replace(path, jobs=(*path.jobs[:-1], part), evaluation=f"{path.evaluation}@{rung:g}", share=rung)


class SimulatedGraph(Graph):
    """Tells what happens when it happens, and knows at once what was spent."""

    def __init__(self, config: SweepConfig, recorder: Recorder, work: SimulatedWork, note: Callable[..., None]) -> None:
        pools = config.resources.pool("train"), config.resources.pool("evaluate")
        one = {"device_seconds": 1.0, "tokens": TOKENS_PER_DEVICE_SECOND, "pool": pools[0].accelerator_name}
        measured = tuple(one | {"max_length": length} for length in lineage.lengths(config))
        room = dict.fromkeys(["CPU", "GPU", *(f"accelerator_type:{p.accelerator}" for p in pools if p.accelerator)], ROOM)
        super().__init__(Terms(config.name, config.resources, config.budget, measured), [room], recorder.spent, work)
        self._recorder = recorder
        self._tell = note

    def _note(self, event: str, about: dict[str, Any], **more: Any) -> None:
        self._tell(event, **about, **more)
        self._budget.spent = self._recorder.spent
