"""What the measurements beside the search say: the anchors, and the best candidates on test items."""

from collections.abc import Iterable, Mapping, Sequence
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
    what the test items would have chosen among the confirmed, None where none of them satisfies the rule.
    """
    found = _latest(events, CONFIRMATION)
    if not found:
        return None
    before = {point.trial: point for point in searched}
    try:
        winner = choose([_point(event) for event in found], rule).trial
    except ValueError:
        winner = None
    trials = [
        {"trial": e["trial"], "params": e["params"], "seeds": e["seeds"], "dev": _dev(before[e["trial"]]), "test": _told(e)}
        for e in found
    ]
    return {"winner": winner, "changed": winner != chosen, "trials": trials}


def _latest(events: Iterable[Event], kind: str) -> list[Event]:
    """The measurements of a kind that were completed, the last one of each anchor or trial."""
    found = {e.get("anchor", e.get("trial")): e for e in events if e["event"] == kind and e["state"] == "complete"}
    return list(found.values())


def _told(event: Mapping[str, Any]) -> dict[str, Any]:
    roles = {name: event[name] for role in ("specialist", "general") for name in (role, f"{role}_stderr")}
    return roles | {"scores": event["scores"], "stderr": event["stderr"]}


def _dev(point: Point) -> dict[str, Any]:
    (specialist, general), (error, other) = point.objectives, point.stderr
    return {"specialist": specialist, "specialist_stderr": error, "general": general, "general_stderr": other}


def _point(event: Mapping[str, Any]) -> Point:
    objectives, errors = (event["specialist"], event["general"]), (event["specialist_stderr"], event["general_stderr"])
    return Point(event["trial"], event["params"], event["scores"], objectives, errors)
