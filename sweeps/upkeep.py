"""Keeping a store small and sound: what lies in it, what is still needed, and what may go.

Needed is what a live run can ask for, and everything that a chosen balance point was made from: its stages with all their
parents, their base and prepared data, its evaluation, and what belongs to one of those. All of it follows from the folders
of the runs beside the store. Where a folder cannot be read nothing is removed at all.
"""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from data.files import File, Folder
from data.prepare import KIND as PREPARED
from data.store import SET_ASIDE, Record, Store
from evaluators.entries import EVALUATIONS, GENERATIONS
from sweeps import beside, holder, lineage
from sweeps.config import SweepConfig
from sweeps.ledger import Event, read
from sweeps.lineage import Identities, Lineage
from sweeps.loading import with_params
from sweeps.results import simulated
from sweeps.scales import Params
from trainers import base
from trainers.job import KIND

DAY_S = 24 * 3600.0
SHARED_BY_CONTENT = ("generations", "judgments")
"""Kinds of which a live run may need any entry: its future checkpoints name them."""
OWNERS = ("stage", "parent", "evaluation")
"""Fields in which the record of an entry names the one that it belongs to."""

Key = tuple[str, str]


class Unreadable(ValueError):
    """It cannot be told what a run needs."""


@dataclass(frozen=True)
class Entry:
    """An entry of the store, or an attempt at one that was never published (`record` is None)."""

    kind: str
    key: str
    attempt: str
    record: Record | None
    size: int
    time: float

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.key}" + ("" if self.record else f"/{self.attempt}")


def entries(store: Store) -> list[Entry]:
    """Everything in a store, the oldest first."""
    found: list[Entry] = []
    for kind in [name for name in store.folder.names() if not name.startswith(".")]:
        attempts: dict[tuple[str, str], list[File]] = {}
        for file in store.folder.files(kind):
            _, key, attempt, *_ = [*file.name.split("/"), ""]
            attempts.setdefault((key, attempt), []).append(file)
        for (key, attempt), files in attempts.items():
            if attempt != "DONE":
                found.append(_entry(store, kind, key, attempt, files))
        marked = {key for key, attempt in attempts if attempt == "DONE"} - {e.key for e in found if e.kind == kind and e.record}
        found += [_entry(store, kind, key, "", attempts[key, "DONE"]) for key in marked]  # entries without files
    return sorted(found, key=lambda entry: entry.time)


def _entry(store: Store, kind: str, key: str, attempt: str, files: Iterable[File]) -> Entry:
    record = store.record(kind, key)
    mine = record if record and attempt in ("", record["attempt"]) else None
    return Entry(kind, key, attempt, mine, sum(f.size for f in files), max(f.time for f in files))


@dataclass(frozen=True)
class Needed:
    """The keys that must stay, with who needs them, and whether a run is live."""

    by: dict[Key, str]
    live: bool

    def why(self, entry: Entry) -> str | None:
        """Who needs an entry; None where nobody does."""
        owners = [entry.key, *(entry.key.rpartition(mark)[0] for mark in "-@")]  # of a resume point, of a rung
        owners += [str((entry.record or {}).get(name)) for name in OWNERS]
        for key in [(kind, owner) for owner in owners for kind in (entry.kind, KIND, EVALUATIONS)]:
            if key in self.by:
                return self.by[key]
        return "a live run" if self.live and entry.kind in SHARED_BY_CONTENT else None


def needed(storage: str) -> Needed:
    """What the runs of a storage need of its store. Raises Unreadable where one of them cannot be understood."""
    root = Folder(lineage.root(storage))
    store, live = Store(f"{root}/store"), False
    by: dict[Key, str] = {}
    for name in [name for name in root.names() if name != "store" and not name.startswith(".")]:
        folder = root / name
        held, chosen = _held(folder), json.loads(folder.read("balance.json") or b"{}")
        live |= held
        if held:
            by |= dict.fromkeys(_keys(folder, store, None), f"{name}, which is running")
        if chosen.get("params") is not None:
            by |= dict.fromkeys(_keys(folder, store, chosen["params"]), f"the balance point of {name}")
    return Needed(by, live)


def _held(folder: Folder) -> bool:
    """Whether a run may be live: elsewhere nobody can see its process, so there it is taken to be."""
    current = holder.read(folder)
    return current is not None and (not holder.here(current) or holder.alive(current))


def _keys(folder: Folder, store: Store, params: Params | None) -> Iterator[Key]:
    """The entries behind one trial of a run; with None behind all that it has asked for or plans."""
    try:
        config = SweepConfig.model_validate_json(folder.read("config.json") or b"")
        events = read(folder)
        known = _identities(events, config)
        rungs = config.search.pruner.rungs if config.search.pruner else (1.0,)
        for point, rung in product(_points(events, config) if params is None else [params], rungs):
            for path in lineage.repeats(with_params(config, point), known, rung):
                yield from _of(path, store)
        for path in _beside(config, known, events) if params is None and not simulated(events) else ():
            yield from _of(path, store)
    except Unreadable:
        raise
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise Unreadable(f"{folder}: what this run needs cannot be told ({error}); remove or repair its folder") from error


def _beside(config: SweepConfig, known: Identities, events: Sequence[Event]) -> list[Lineage]:
    try:
        return [path for measurement in beside.due(config, known, events) for path in measurement.paths]
    except (ValueError, OSError) as error:
        told = f"the test items of search.confirm are not found from here ({error}); prune from where the run was started"
        raise Unreadable(told) from error


def _of(path: Lineage, store: Store) -> Iterator[Key]:
    for order in path.orders:
        yield from ((EVALUATIONS, order.evaluation), (GENERATIONS, order.generation))
    for job in path.jobs:
        yield from ((PREPARED, share.prepared) for share in job.shares)
        yield from _ancestry(store, job.key)
        yield from ((KIND, key) for key in [job.merged] if key)
        yield base.KIND, job.base


def _ancestry(store: Store, key: str | None) -> Iterator[Key]:
    while key:
        yield KIND, key
        record = store.record(KIND, key) or {}
        yield base.KIND, str(record.get("base"))
        key = record.get("parent")


def _identities(events: list[Event], config: SweepConfig) -> Identities:
    named = [event["identities"] for event in events if "identities" in event]
    return Identities.of(named[-1]) if named else lineage.identities(config)


def _points(events: list[Event], config: SweepConfig) -> list[Params]:
    from sweeps.plan import points

    asked = [event["params"] for event in events if event["event"] == "trial_started"]
    return asked + points(config)[0]


def verify(store: Store) -> Iterator[tuple[Entry, str]]:
    """Read every published file; each entry with what is wrong, which is empty where it is sound. Damage is set aside."""
    for entry in entries(store):
        if entry.record is None:
            continue
        reason = ""
        for name, expected in entry.record["checksums"].items():
            found = store.folder.digest(f"{entry.kind}/{entry.key}/{entry.record['attempt']}/{name}")
            reason = reason or ("" if found == expected else f"{name} is missing" if found is None else f"{name} was altered")
        if reason:
            store.set_aside(entry.kind, entry.key, entry.record["attempt"], reason)
        yield entry, reason


def to_prune(found: list[Entry], needs: Needed, older_than_s: float | None, down_to: int | None, now: float) -> list[Entry]:
    """The entries that may go: interrupted attempts after a day, others by age, the oldest until the rest fits."""
    free = [entry for entry in found if needs.why(entry) is None]
    going = [e for e in free if e.record is None and now - e.time > DAY_S]
    published = [e for e in free if e.record is not None]
    if older_than_s is not None:
        going += [e for e in published if now - e.time > older_than_s]
    if down_to is not None:
        left = sum(e.size for e in found) - sum(e.size for e in going)
        for entry in (e for e in published if e not in going):
            if left <= down_to:
                break
            going.append(entry)
            left -= entry.size
    return going


def remove(store: Store, entry: Entry) -> None:
    """Remove an entry, or an attempt that was never published."""
    if entry.record is None:
        store.folder.remove(entry.name)
    else:
        store.delete(entry.kind, entry.key)


def remove_set_aside(store: Store, older_than_s: float) -> None:
    """Remove the notes on entries that were set aside long ago; their files go as interrupted attempts."""
    for file in list(store.folder.files(SET_ASIDE)):
        if time.time() - file.time > older_than_s:
            store.folder.remove(file.name)
