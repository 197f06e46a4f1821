"""What the measurements beside the search say: the anchors, and the best candidates on test items."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from sweeps.balance import Point, choose
from sweeps.config import Balance
from sweeps.ledger import Event

ANCHOR, CONFIRMATION = "anchor_measured", "confirmation_measured"


def anchors(events: Iterable[Event]) -> list[dict[str, Any]]:
    """The anchors by name with their scores, objectives and errors, on the items of the search."""
    return [{"anchor": event["anchor"], "seeds": event["seeds"], **_told(event)} for event in _latest(events, ANCHOR)]


def confirmation(events: Iterable[Event], rule: Balance, searched: Sequence[Point], chosen: int) -> dict[str, Any] | None:
    """Each confirmed trial on the items of the search and on the test items, and which one the rule chooses on these.

    None where nothing was confirmed. The choice stays: it is made where it was not seen what it is tested on. `winner` says
    what the test items would have chosen among the confirmed: None where none of them satisfies the rule, where the choice is
    not among them, or where it is alone and nothing could be chosen in its place.
    """
    found = _latest(events, CONFIRMATION)
    # Other seeds or items than those of the newest are another measurement.
    found = [event for event in found if _measure(event) == _measure(found[-1])]
    if not found:
        return None
    before = {point.trial: point for point in searched}
    winner = None
    if len(found) > 1 and chosen in {event["trial"] for event in found}:
        with suppress(ValueError):
            winner = choose([_point(event) for event in found], rule).trial
    trials = [
        {"trial": e["trial"], "params": e["params"], "seeds": e["seeds"], "dev": _dev(before[e["trial"]]), "test": _told(e)}
        for e in found
    ]
    return {"winner": winner, "changed": winner not in (None, chosen), "trials": trials}


def _latest(events: Iterable[Event], kind: str) -> list[Event]:
    """The measurements of a kind that were completed, the last one of each anchor or trial."""
    found: dict[Any, Event] = {}
    for event in events:
        if event["event"] == kind and event["state"] == "complete":
            name = event.get("anchor", event.get("trial"))
            found.pop(name, None)  # the newest come last
            found[name] = event
    return list(found.values())


def failed(events: Iterable[Event]) -> list[str]:
    """What could not be measured beside the search, and why: the last word on each."""
    last = {(e["event"], e.get("anchor", e.get("trial"))): e for e in events if e["event"] in (ANCHOR, CONFIRMATION)}
    return [
        f"The {'anchor' if kind == ANCHOR else 'confirmation of trial'} {name} failed: {event['error']}"
        for (kind, name), event in last.items()
        if event["state"] != "complete"
    ]


def _measure(event: Event) -> tuple[Any, ...]:
    return event["seeds"], event["asked"]


def _told(event: Mapping[str, Any]) -> dict[str, Any]:
    roles = {name: event[name] for role in ("specialist", "general") for name in (role, f"{role}_stderr")}
    return roles | {"scores": event["scores"], "stderr": event["stderr"]}


def _dev(point: Point) -> dict[str, Any]:
    (specialist, general), (error, other) = point.objectives, point.stderr
    return {"specialist": specialist, "specialist_stderr": error, "general": general, "general_stderr": other}


def _point(event: Mapping[str, Any]) -> Point:
    objectives, errors = (event["specialist"], event["general"]), (event["specialist_stderr"], event["general_stderr"])
    return Point(event["trial"], event["params"], event["scores"], objectives, errors)
