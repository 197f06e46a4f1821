"""What a person sees while a sweep runs: plain lines, and on a terminal one live line more."""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.status import Status

EVERY_S = 30.0


class Progress:
    """Prints an event a line. On a terminal a status line follows the stages in training; elsewhere a line now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = Status("", console=console) if console.is_terminal else None
        self._told = time.monotonic()

    def __enter__(self) -> "Progress":
        if self._status:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def say(self, text: str) -> None:
        """One plain line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def doing(self, text: str) -> None:
        """What goes on before there is a stage: the live line of a terminal, a plain line now and then elsewhere."""
        if self._status:
            self._status.update(text)
        elif time.monotonic() - self._told > EVERY_S:
            self._told = time.monotonic()
            self.say(f"  {text}")

    def event(self, event: Mapping[str, Any]) -> None:
        """The line of a ledger event, where it has one."""
        line = LINES.get(event["event"])
        if line:
            self.say(line(event))

    def stages(self, running: Mapping[str, Mapping[str, Any]], waiting: Mapping[str, str] | None = None) -> None:
        """The stages in training, and why others cannot be."""
        told = "   ".join([_stage(key, progress) for key, progress in running.items()] + [*(waiting or {}).values()])
        if self._status:
            self._status.update(told or "waiting")
        elif told and time.monotonic() - self._told > EVERY_S:
            self._told = time.monotonic()
            self.say(f"  {told}")


def _stage(key: str, progress: Mapping[str, Any]) -> str:
    told = [f"stage {key[:8]}: step {progress['step']}/{progress['steps']}", f"loss {progress['loss']:.3f}"]
    known = {name: value for name, value in progress.items() if value is not None}
    told += [f"{known['tokens_per_second']:.0f} tokens/s"] if "tokens_per_second" in known else []
    told += [f"MFU {known['mfu']:.0%}"] if "mfu" in known else []
    told += [f"{_duration(known['seconds_left'])} left"] if "seconds_left" in known else []
    return ", ".join(told)


def _duration(seconds: float) -> str:
    """The two largest units, as a person would say it."""
    minutes, hours = round(seconds / 60), round(seconds / 60) // 60
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if hours < 2 else f"{hours} h {minutes % 60:02d} min"


def _params(event: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in event["params"].items()
    )


def _finished(event: Mapping[str, Any]) -> str:
    if event["state"] == "pruned":
        return f"trial {event['trial']} ({_params(event)}) pruned after {event['rung']:g} of its last stage"
    if event["state"] != "complete":
        return f"trial {event['trial']} {event['state']}: {event.get('error')}"
    return f"trial {event['trial']} ({_params(event)}): specialist {event['specialist']:.3f}, general {event['general']:.3f}"


def _mixture(event: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {fraction:g}" for name, fraction in event["mixture"].items())


def _measured(event: Mapping[str, Any]) -> str:
    what = f"anchor {event['anchor']}" if "anchor" in event else f"trial {event['trial']} ({_params(event)}) on the test items"
    if event["state"] != "complete":
        return f"{what} {event['state']}: {event.get('error')}"
    return f"{what}: specialist {event['specialist']:.3f}, general {event['general']:.3f}"


LINES = {
    "anchor_measured": _measured,
    "confirmation_measured": _measured,
    "stage_started": lambda e: f"stage {e['key'][:8]} trains on {_mixture(e)}",
    "stage_finished": lambda e: f"stage {e['key'][:8]} finished, {e['device_seconds']:.0f} device-seconds",
    "stage_elsewhere": lambda e: f"stage {e['key'][:8]} is trained by another run on this storage; waiting for it",
    "stage_stopped": lambda e: f"stage {e['key'][:8]} stopped at step {e['step']}: {e['reason']}",
    "trial_stopped": lambda e: f"trial {e['trial']} stays open: {e['reason']}",
    "run_stopped": lambda e: f"stopped with {e['open']} trials left: {e['reason']}; raise the limit and run the command again",
    "entry_set_aside": lambda e: f"damaged in the store: {e['kind']}/{e['key']} ({e['reason']}); it will be made again",
    "leak_removed": lambda e: f"removed what nobody owned any more: {e['what']}",
    "stage_note": lambda e: f"stage {e['key'][:8]}: {e['text']}",
    "stage_failed": lambda e: f"stage {e['key'][:8]} failed: {e['error']}",
    "rung_failed": lambda e: f"evaluation of stage {e['key'][:8]} failed: {e['error']}",
    "trial_started": lambda e: f"trial {e['trial']} asked: {_params(e)}",
    "trial_finished": _finished,
}
