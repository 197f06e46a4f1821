"""The judges of a sweep: what they were paid, who may not stand beside whom, and what a reader must know of each."""

from collections.abc import Mapping, Sequence
from typing import Any

from evaluators.judge.cost import total
from evaluators.judge.offline import NAME as OFFLINE
from sweeps import results
from sweeps.accounts import Accounts
from sweeps.ledger import Event


def bill(events: Sequence[Event]) -> str | None:
    """The sentence on what the judge of a sweep was paid; None where nobody was asked."""
    accounts = Accounts(events)
    payers = [None, *(trial["trial"] for trial in results.trials(events))]  # anchors are nobody's
    costs = [cost for payer in payers if (cost := accounts.judges(payer))]
    if not costs:
        return None
    spent = total(costs)
    money = "" if spent["usd"] is None else f", {spent['usd']:.2f} US dollars"
    tokens = f"{spent['prompt_tokens']} + {spent['completion_tokens']} tokens"
    return f"The judge replied {spent['calls']} times ({tokens}{money}); {spent['cached']} judgments were there already."


def refusal(earlier: Event, outcome: Event) -> str | None:
    """Why a completed trial cannot stand beside an earlier one: another judge rated it, or other items were scored."""
    for name in outcome["scores"]:
        before, now = _measure(earlier, name), _measure(outcome, name)
        if before != now:
            return f"{name} was measured by {now} and in trial {earlier['trial']} by {before}; scores are never mixed"
    return None


def warnings(events: Sequence[Event]) -> list[str]:
    """What a reader must know of the judge of each column."""
    trials = results.trials(events)
    judges = {name: judge for trial in trials for name, judge in (trial.get("judges") or {}).items()}
    asked = {name: [about for trial in trials if (about := _about(trial, name))] for name in judges}
    return [line for name in sorted(judges) for line in _column(name, judges[name], asked[name])]


def _column(name: str, judge: str, asked: Sequence[Mapping[str, Any]]) -> list[str]:
    if judge == OFFLINE:
        return [f"The column {name} was rated by {judge!r}, which looks at form only: it is no MT-Bench score."]
    if not asked:
        return [f"The column {name} was rated by the {judge}, a fixed rule."]
    told = [f"The column {name} was rated by {judge}; it answered as {asked[-1]['model']}."]
    if asked[-1]["local"]:
        told.append(f"The judge of {name} is a local model: its ratings rank these trials and are no MT-Bench scores.")
    if asked[-1]["own_words"]:
        told.append(f"The judge of {name} was asked in our own words: its ratings are not those of published MT-Bench scores.")
    if asked[-1]["wrong_references"]:
        wrong = ", ".join(map(str, asked[-1]["wrong_references"]))
        told.append(f"{name}: the reference answers to questions {wrong} are known to be wrong (corrected_references).")
    if flagged := sum(len(about["injections"]) for about in asked):
        told.append(f"{name}: {flagged} answers hold a rating of their own and may have swayed the judge (`injection`).")
    if dropped := sum(about.get("dropped", 0) for about in asked):
        told.append(f"{name}: {dropped} judgments without a rating were left out of the means, as FastChat does.")
    return told


def _about(trial: Event, benchmark: str) -> dict[str, Any]:
    """What a trial tells of a model that was asked; {} where none was."""
    about: dict[str, Any] = trial.get("extras", {}).get(benchmark, {}).get("judge", {})
    return about


def _measure(trial: Event, benchmark: str) -> str:
    """What a score is a measurement of: the judge as configured and as it named itself, and the set of items."""
    named = (trial.get("judges", {}).get(benchmark), _about(trial, benchmark).get("model"))
    return f"{' answering as '.join(filter(None, named)) or 'rule'} on items {trial.get('items', {}).get(benchmark, '')[:8]}"
