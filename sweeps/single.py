"""Training one recipe without a search."""

from pathlib import Path
from typing import Any

from data.files import Folder
from data.store import Store
from sweeps import lineage
from sweeps.budget import spent
from sweeps.config import SweepConfig
from sweeps.errors import NotTrained
from sweeps.holder import Hold
from sweeps.inputs import refuse_changes
from sweeps.interrupt import interruptible
from sweeps.ledger import Ledger, read
from sweeps.progress import Progress
from sweeps.run import prepare
from trainers.job import KIND

POLL_S = 0.5


def train(config: SweepConfig, progress: Progress, address: str | None = None) -> Folder:
    """Train the recipe of a configuration, or continue; the folder of the model. Stages in the store are not redone."""
    folder = lineage.run_folder(config)
    known = lineage.identities(config)
    refuse_changes(folder, config, known)
    with Hold(folder, progress.say):
        prepare(folder, config, progress)
        ledger = Ledger(folder)
        ledger.append("run_continued" if read(folder) else "run_started", identities=known.plain())
        path = lineage.lineage(lineage.absolute(config), known)
        store = Store(lineage.store_root(config))
        if store.record(KIND, path.keys[-1]) is None:
            _train(config, path, ledger, progress, address)
        return _hand_over(store.fetch(KIND, path.keys[-1]), folder / "model")


def _train(config: SweepConfig, path: lineage.Lineage, ledger: Ledger, progress: Progress, address: str | None) -> None:
    from sweeps import cluster

    with cluster.joined(config, address) as mark, interruptible():
        import ray
        from ray.exceptions import RayTaskError

        from sweeps.driver import Follow, start_graph
        from sweeps.failures import reason
        from sweeps.trial import known, until_answered

        cluster.require_room(config.resources)
        events = read(ledger.folder)
        graph = start_graph(config, spent(events))

        def note(event: str, **values: object) -> None:
            events.append(ledger.append(event, **values))
            progress.event(events[-1])

        follow = Follow(graph, note, progress, lambda: spent(events), mark)

        def trained() -> Any:
            wanted = graph.want_stages.remote(0, path, known(path))
            while not ray.wait([wanted], timeout=POLL_S)[0]:
                follow.drain()
            return ray.get(wanted)

        try:
            until_answered(trained)
        except RayTaskError as error:
            raise NotTrained(reason(error)) from None
        finally:
            follow.stop()
            ledger.close()


def _hand_over(model: Path, target: Folder) -> Folder:
    """Copy a published model into the run's folder; whoever takes it from there needs no store."""
    target.remove("")
    for file in model.rglob("*"):
        if file.is_file():
            target.put(file, file.relative_to(model).as_posix())
    return target
