"""`fulcrum store`: what lies in the store of a storage, whether it is sound, and what may go."""

import re
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from data.store import Store
from sweeps import lineage, upkeep

app = typer.Typer(no_args_is_help=True, help="The store that the runs of a storage share.")
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
PERIODS = {"h": 3600.0, "d": 24 * 3600.0, "w": 7 * 24 * 3600.0}

Storage = Annotated[str, typer.Argument(metavar="STORAGE", help="Where the runs lie: a folder, s3:// or gs://.")]
Kind = Annotated[str | None, typer.Option(help="Only this kind: bases, prepared, stages, evaluations ...")]
Older = Annotated[str | None, typer.Option(help="Remove what is older, for example 12h, 30d or 8w.")]
DownTo = Annotated[str | None, typer.Option(help="Remove the oldest until the store is no larger, for example 500G.")]
Dry = Annotated[bool, typer.Option(help="Show what would go, and remove nothing.")]


@app.command("list")
def list_entries(storage: Storage = "runs", kind: Kind = None) -> None:
    """Every entry with its size, its age and who needs it."""
    store, needs = _store(storage), upkeep.needed(storage)
    found = [entry for entry in upkeep.entries(store) if kind in (None, entry.kind)]
    table = Table("entry", "size", "age", "state", "needed by", box=None, pad_edge=False)
    for entry in found:
        state = "published" if entry.record else "not published"
        cells = [entry.name, size(entry.size), age(time.time() - entry.time), state, needs.why(entry) or "nobody"]
        table.add_row(*map(Text, cells))
    out = _console()
    out.print(table)
    out.print(f"{len(found)} entries, {size(sum(entry.size for entry in found))}; set aside: {len(store.damage())}")


@app.command()
def verify(storage: Storage = "runs") -> None:
    """Read every file and compare it with its checksum. Damaged entries are set aside; the next run makes them again."""
    out, checked, damaged = _console(), 0, 0
    for entry, reason in upkeep.verify(_store(storage)):
        checked, damaged = checked + 1, damaged + bool(reason)
        if reason:
            out.print(f"{entry.name}: {reason}; set aside, the next run that needs it makes it again", markup=False)
    out.print(f"{checked} entries read, {damaged} damaged")
    if damaged:
        raise typer.Exit(1)


@app.command()
def prune(storage: Storage = "runs", older_than: Older = None, down_to: DownTo = None, dry_run: Dry = False) -> None:
    """Remove what nobody needs: interrupted attempts after a day, the rest by age or size.

    Never an entry that a live run or a balance point needs.
    """
    store = _store(storage)
    period = _number(older_than, PERIODS, "--older-than", "12h, 30d or 8w")
    limit = _number(down_to, UNITS, "--down-to", "500G, 20M or a number of bytes")
    found = upkeep.entries(store)
    try:
        needs = upkeep.needed(storage)  # after the listing, which takes long: a run that began meanwhile is seen
    except upkeep.Unreadable as error:
        raise typer.BadParameter(str(error)) from error
    going = upkeep.to_prune(found, needs, period, None if limit is None else int(limit), time.time())
    out = _console()
    for entry in going:
        out.print(f"{'would remove' if dry_run else 'removed'} {entry.name}, {size(entry.size)}", markup=False)
        if not dry_run:
            upkeep.remove(store, entry)
    if period is not None and not dry_run:
        upkeep.remove_set_aside(store, period)
    left = sum(entry.size for entry in found) - sum(entry.size for entry in going)
    out.print(f"{len(going)} of {len(found)} entries, {size(sum(entry.size for entry in going))}; {size(left)} stay")


def size(count: float) -> str:
    """Bytes for a person."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"


def age(seconds: float) -> str:
    """A time span for a person."""
    hours = seconds / 3600
    return f"{hours / 24:.0f} d" if hours >= 48 else f"{hours:.0f} h" if hours >= 2 else f"{seconds / 60:.0f} min"


def _store(storage: str) -> Store:
    store = Store(f"{lineage.root(storage)}/store")
    if not store.folder.exists(""):
        raise typer.BadParameter(f"{storage} holds no store; give the `storage` of a configuration")
    return store


def _number(text: str | None, units: dict[str, float] | dict[str, int], option: str, example: str) -> float | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]?)", text)
    if not found or found[2] not in units:
        raise typer.BadParameter(f"{option} {text!r}: write {example}")
    return float(found[1]) * units[found[2]]


def _console() -> Console:
    from sweeps.cli import out

    return out
