"""`fulcrum simulate`: a sweep against a response surface, before it costs anything."""

import sys
from typing import Annotated

import typer
from rich.console import Console

from sweeps import loading

Config = Annotated[str, typer.Argument(metavar="CONFIG", help="Path of a configuration, or the name of a shipped one.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Fields to set, by dotted path.")]
Named = Annotated[
    str, typer.Option("--surface", help="dmt-7b, dmt-13b, ratio-7b, mixing-7b, -13b, -33b, or a .csv or .parquet of trials.")
]
World = Annotated[int, typer.Option("--world", min=0, help="Seed of the made-up noise and durations.")]
WIDTH = 200


def simulate(config: Config, surface: Named, overrides: Overrides = None, world: World = 0) -> None:
    """Run a sweep against a response surface in place of training: nothing is read, trained or paid for."""
    from sweeps import results, show
    from sweeps.ledger import read
    from sweeps.lineage import run_folder
    from sweeps.progress import Progress
    from sweeps.simulate.run import simulate as run
    from sweeps.simulate.surfaces import open_surface

    out = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    values = loading.load(config, overrides or [], inputs=False)
    opened = open_surface(surface, values)
    with Progress(out) as progress:
        chosen = run(values, opened, world, progress)
    folder = run_folder(values)
    events = read(folder)
    show.trials(out, results.rows(events, values), chosen)
    show.ending(out, folder, values, chosen)
    if chosen:
        truth = opened.truth(loading.with_params(values, chosen.params), dict(chosen.params))
        told = ", ".join(f"{name} {value:.4g}" for name, value in truth.items())
        out.print(f"without noise the surface says of it: {told}", markup=False, soft_wrap=True)
    hours = max(event["time"] for event in events) / 3600
    out.print(f"SIMULATED time: {hours:.3g} hours with {values.search.concurrency or 2} trials at once", markup=False)
    if chosen is None:
        raise typer.Exit(1)
