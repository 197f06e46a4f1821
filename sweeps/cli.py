"""The command line. Exit codes: 0 done, 1 failed, 2 wrong input (nothing was started), 130 interrupted."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from data.files import Folder
from sweeps import data_cli, loading, standalone, store_cli
from sweeps.budget import uncounted
from sweeps.checks.problem import Problem
from sweeps.config import SweepConfig
from sweeps.loading import ConfigError
from sweeps.simulate.cli import simulate

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
WIDTH = 200  # of tables that no terminal bounds
config_app = typer.Typer(no_args_is_help=True, help="Shipped configurations and the schema.")
app.add_typer(config_app, name="config")
app.add_typer(data_cli.app, name="data")
app.add_typer(store_cli.app, name="store")
app.command()(standalone.evaluate)
app.command()(simulate)
out = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
err = Console(stderr=True, highlight=False)

Config = Annotated[str, typer.Argument(metavar="CONFIG", help="Path of a configuration, or the name of a shipped one.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Fields to set, by dotted path.")]
RunDir = Annotated[str, typer.Argument(metavar="RUN_DIR", help="Folder of a run, or its s3:// or gs:// address.")]
Address = Annotated[str | None, typer.Option(help="Address of a Ray cluster; default RAY_ADDRESS, or one started here.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before something that costs money.")]


def main() -> None:
    """Entry of `fulcrum` and of `python -m sweeps`."""
    from sweeps.errors import INTERRUPTED, exit_code

    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # this process trains nothing; stages are told their own
    try:
        code = app(standalone_mode=False) or 0
    except BaseException as error:
        code = exit_code(error, err)
    if code == INTERRUPTED:
        err.print(f"interrupted; continue with: fulcrum {shlex.join(sys.argv[1:])}", markup=False, soft_wrap=True)
    sys.exit(code)


@app.command()
def run(config: Config, overrides: Overrides = None, address: Address = None, yes: Yes = False) -> None:
    """Run a sweep, or continue it where it was cut off."""
    from sweeps import results, show
    from sweeps.ledger import read
    from sweeps.lineage import run_folder
    from sweeps.progress import Progress
    from sweeps.run import sweep

    values = _load(config, overrides, address, joins=True)
    _two_sides(values)
    _ask_for_money(values, yes)
    with Progress(out) as progress:
        chosen = sweep(values, progress, address)
    folder = run_folder(values)
    show.trials(out, results.rows(read(folder), values), chosen)
    show.ending(out, folder, values, chosen)
    if chosen is None:
        raise typer.Exit(1)


@app.command()
def plan(config: Config, overrides: Overrides = None) -> None:
    """Show the stage graph, what is cached, device-hours and cost. Starts nothing."""
    from sweeps import show
    from sweeps.plan import plan as make

    show.plan(out, make(_load(config, overrides)))


@app.command()
def validate(config: Config, overrides: Overrides = None) -> None:
    """Check a configuration and tell every error at once."""
    values = _load(config, overrides)
    out.print(f"{values.name}: the configuration is valid", markup=False)


@app.command()
def status(run_dir: RunDir) -> None:
    """Show how far a run is."""
    from sweeps import show

    show.status(out, _run_dir(run_dir))


@app.command()
def report(run_dir: RunDir) -> None:
    """Write the tables, the balance point and the report of a run again, from its ledger."""
    from sweeps import show
    from sweeps.run import conclude

    folder = _run_dir(run_dir)
    values = SweepConfig.model_validate_json(folder.read("config.json") or b"")
    show.ending(out, folder, values, conclude(folder, values))


@app.command()
def train(config: Config, overrides: Overrides = None, address: Address = None, yes: Yes = False) -> None:
    """Train one recipe, without a search, and write the model to the run's folder."""
    from sweeps.progress import Progress
    from sweeps.single import train as train_one

    values = _load(config, overrides, address, joins=True)
    if values.strategy == "dmt" and values.k is None:
        raise ConfigError([Problem("k", "missing", "a recipe needs one value; write k=1/8, or take best.yaml of a run")])
    _ask_for_money(values, yes)
    with Progress(out) as progress:
        model = train_one(values, progress, address)
    out.print(f"model: {model}", markup=False, soft_wrap=True)


@config_app.command("list")
def list_configs() -> None:
    """Names of the shipped configurations."""
    for name in sorted(loading.shipped()):
        out.print(name)


@config_app.command()
def copy(name: str, to: Annotated[Path | None, typer.Argument(help="File to write; default NAME.yaml.")] = None) -> None:
    """Copy a shipped configuration into a file of your own."""
    if name not in loading.shipped():
        raise typer.BadParameter(f"{name!r} is not shipped; one of {', '.join(sorted(loading.shipped()))}")
    target = to or Path(f"{name}.yaml")
    if target.exists():
        raise typer.BadParameter(f"{target} exists; give another file")
    target.write_text(loading.shipped()[name].read_text(), encoding="utf-8")
    out.print(f"{target}", markup=False)


@config_app.command()
def schema() -> None:
    """The JSON schema of a configuration."""
    out.print_json(data=SweepConfig.model_json_schema())


def _load(config: str, overrides: list[str] | None, address: str | None = None, joins: bool = False) -> SweepConfig:
    values = loading.load(config, overrides or [])
    joined = address or os.environ.get("RAY_ADDRESS", "local")
    if joins and joined != "local" and "://" not in values.storage:
        remedy = "other nodes cannot see a local path; write s3:// or gs://, or file:///path of a folder that all nodes share"
        raise ConfigError([Problem("storage", values.storage, remedy)])
    for told in uncounted(values):
        err.print(f"warning: {told}", markup=False, soft_wrap=True)
    return values


def _two_sides(config: SweepConfig) -> None:
    roles = {benchmark.role for benchmark in config.evaluate.benchmarks.values()}
    if len(roles) < 2:
        remedy = "a sweep needs benchmarks of both roles, specialist and general; use `fulcrum train` without them"
        raise ConfigError([Problem("evaluate", sorted(config.evaluate.benchmarks), remedy)])


def _run_dir(path: str) -> Folder:
    folder = Folder(path)
    if not folder.exists("config.json"):
        raise typer.BadParameter(f"{path} is not the folder of a run; it holds no config.json")
    return folder


def _ask_for_money(config: SweepConfig, yes: bool) -> None:
    """A question is asked only on a terminal, and only where the plan has a price."""
    if yes or not config.resources.price or not sys.stdin.isatty():
        return
    from sweeps import show
    from sweeps.plan import plan as make

    show.plan(out, make(config))
    if not typer.confirm("Start?"):
        raise typer.Exit(1)
