"""A sweep from start to end, or from wherever it was cut off: there is no other way to restore it."""

import json
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import yaml

from data.files import Folder
from sweeps import beside, inputs, lineage, report, results
from sweeps.balance import BalancePoint
from sweeps.beside import Measurement
from sweeps.config import SweepConfig
from sweeps.holder import Hold
from sweeps.interrupt import interruptible
from sweeps.ledger import Ledger
from sweeps.ledger import read as read_ledger
from sweeps.lineage import Identities
from sweeps.progress import Progress
from sweeps.recorder import Recorder
from sweeps.space import Params

LOOK_EVERY_S = 1.0


def sweep(config: SweepConfig, progress: Progress, address: str | None = None) -> BalancePoint | None:
    """Run or continue a sweep; the balance point, None where no trial was completed.

    Before anything is started it raises Changed, Held, SourceUnusable, TooManyBadRows, ItemsUnusable, JudgeUnusable or
    sandbox.Escaped.
    """
    folder = lineage.run_folder(config)
    known = lineage.identities(config)
    inputs.refuse_changes(folder, config, known)
    inputs.try_benchmarks(config)
    for note in inputs.notes(config):
        progress.say(note)
    with Hold(folder, progress.say) as held:
        prepare(folder, config, progress)
        ledger = Ledger(folder)
        try:
            recorder = Recorder(config, ledger, progress, held.last_seen)
            begun = "run_continued" if recorder.events else "run_started"
            recorder.note(begun, identities=known.plain(), start=recorder.start)
            if recorder.unfinished or recorder.open or beside.due(config, known, recorder.events):
                _search(config, known, recorder, progress, address)
            chosen = conclude(folder, config)
            recorder.end(chosen.trial if chosen else None)
            return chosen
        finally:
            ledger.close()


def _search(config: SweepConfig, known: Identities, recorder: Recorder, progress: Progress, address: str | None) -> None:
    """Let Tune run the trials that are left."""
    from sweeps import cluster

    with (
        cluster.joined(config, address) as mark,
        interruptible(),
        tempfile.TemporaryDirectory(prefix="fulcrum-tune-") as scratch,
    ):
        from ray import tune

        from sweeps.driver import Follow, start_graph
        from sweeps.scheduler import RungScheduler
        from sweeps.searcher import StudySearcher
        from sweeps.tasks import ON_THE_HEAD
        from sweeps.trial import Context, run_trial

        cluster.require_room(config.resources)
        graph = start_graph(config, recorder.spent)
        follow = Follow(graph, recorder.note, progress, lambda: recorder.spent, mark, lambda: recorder.reconcile(time.time()))
        bound = config.search.concurrency

        failures: list[Exception] = []

        def finish(number: int, outcome: dict[str, Any]) -> None:
            try:
                follow.drain()  # what the graph noted before comes first
                recorder.finish(number, outcome)
                follow.leave(number)
            except Exception as error:  # Tune would run the trial again, for what is no fault of its own
                failures.append(error)

        waiting = list(recorder.unfinished)

        def ask() -> tuple[int, Params] | None:
            if failures or recorder.stopped:
                return None
            return waiting.pop(0) if waiting else recorder.ask()

        def goes_on(number: int, rung: float, objectives: tuple[float, float]) -> bool:
            follow.drain()  # what it cost to get there comes first
            return recorder.at_rung(number, rung, objectives)

        def room() -> int:
            return min(bound, follow.room()) if bound else follow.room()

        searcher = StudySearcher(ask, finish, room)
        rungs = recorder.pruner.rungs if recorder.pruner else ()
        context = Context(lineage.absolute(config), known, graph, rungs)
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(run_trial, context=context),
                {"CPU": 0, **ON_THE_HEAD},
            ),
            tune_config=tune.TuneConfig(
                reuse_actors=True,  # a trial keeps nothing; a new process would import everything again
                search_alg=searcher,
                scheduler=RungScheduler(goes_on),
                num_samples=-1,  # until the searcher has no more
                trial_name_creator=lambda trial: f"{trial.config['trial']:04d}",
                trial_dirname_creator=lambda trial: f"{trial.config['trial']:04d}-{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name=config.name,
                storage_path=scratch,
                verbose=0,
                callbacks=[follow],
                failure_config=tune.FailureConfig(max_failures=0),  # the searcher asks for them again
            ),
        )
        try:
            if recorder.unfinished or recorder.open:
                tuner.fit()
            if not failures and not recorder.stopped:
                _measure_beside(beside.due(config, known, recorder.events), graph, follow, recorder)
        finally:
            follow.stop()
            recorder.reconcile(time.time())
        if failures:
            raise failures[0]


def _measure_beside(due: Sequence[Measurement], graph: Any, follow: Any, recorder: Recorder) -> None:
    """Have the graph make what is measured beside the search, all of it at once, and write it down as it comes."""
    import ray

    from sweeps.tasks import HOLDS_NOTHING
    from sweeps.trial import measure

    task = measure.options(**HOLDS_NOTHING)
    asked = {task.remote(graph, one.trial, one.paths, one.config): one for one in due}
    while asked:
        done, _ = ray.wait(list(asked), timeout=LOOK_EVERY_S)
        follow.drain()
        for ref in done:
            measurement = asked.pop(ref)
            recorder.measured(measurement, ray.get(ref))
            if measurement.trial is not None:
                follow.leave(measurement.trial)  # where one seed failed, the others need not train on


def prepare(folder: Folder, config: SweepConfig, progress: Progress) -> None:
    """Write down what the run needs, so that `store prune` spares it, and prepare its sources. A run that cannot begin leaves
    no file."""
    write_config(folder, config)
    try:
        inputs.prepare_sources(config, progress)
    except BaseException:
        for name in ("config.json", "sweep.yaml") if not read_ledger(folder) else ():
            folder.remove(name)
        raise


def conclude(folder: Folder, config: SweepConfig) -> BalancePoint | None:
    """Write tables, balance point and report from the ledger alone."""
    events = read_ledger(folder)
    chosen, compared = results.write(folder, events, config)
    report.write(folder, events, config, chosen, compared)
    return chosen


def write_config(folder: Folder, config: SweepConfig) -> None:
    """`config.json`, every value, and `sweep.yaml`, those that were set."""
    values = config.model_dump(mode="json")
    folder.write("config.json", json.dumps(values, indent=2).encode())
    given = config.model_dump(mode="json", exclude_unset=True)
    folder.write("sweep.yaml", yaml.safe_dump(given, sort_keys=False, allow_unicode=True).encode())
