"""From an exception to what a person reads and to the exit code."""

import traceback

import typer
from rich.console import Console
from typer.exceptions import TyperException

from data.contamination import Contaminated
from data.prepare import TooManyBadRows
from data.sources import SourceUnusable
from evaluators.benchmark import ItemsUnusable
from evaluators.judge.reply import JudgeUnusable
from evaluators.sandbox import Escaped
from sweeps.failures import SurfaceUnusable
from sweeps.holder import Held
from sweeps.inputs import Changed
from sweeps.loading import ConfigError
from sweeps.shown import StorageUnusable

INTERRUPTED = 130
WRONG_INPUT = (
    ConfigError,
    Changed,
    SourceUnusable,
    TooManyBadRows,
    Contaminated,
    ItemsUnusable,
    JudgeUnusable,
    Held,
    Escaped,
    StorageUnusable,
    SurfaceUnusable,
)


class ClusterTooSmall(RuntimeError):
    """No stage of the sweep fits the cluster."""


class NotTrained(RuntimeError):
    """A recipe was not trained to its end, with the reason."""


def exit_code(error: BaseException, console: Console) -> int:
    """Print what a person needs and return the exit code."""
    if isinstance(error, SystemExit):
        return int(error.code or 0)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return INTERRUPTED
    if isinstance(error, TyperException):
        console.print(f"error: {error.format_message().rstrip('.')}; see fulcrum --help", markup=False, soft_wrap=True)
        return error.exit_code
    if not isinstance(error, (*WRONG_INPUT, ClusterTooSmall, NotTrained, FileNotFoundError, ValueError)):
        console.print("".join(traceback.format_exception(error)), markup=False, soft_wrap=True)
    console.print(f"error: {error}", markup=False, soft_wrap=True)
    return 2 if isinstance(error, WRONG_INPUT) else 1
