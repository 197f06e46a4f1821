"""`fulcrum data`: look at sources before anything is trained on them, filter one, fetch the paper's."""

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, help="Look at sources, filter them by tag, fetch the paper's public sets.")

Config = Annotated[str, typer.Argument(metavar="CONFIG", help="Path of a configuration, or the name of a shipped one.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Fields to set, by dotted path.")]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the new source; must not exist.")]
Field = Annotated[str | None, typer.Option(help="Tags stand in this field of each row.")]
Keyword = Annotated[list[str] | None, typer.Option(metavar="TAG=REGEX", help="A tag for what matches; may be repeated.")]
Model = Annotated[str | None, typer.Option(help="Folder or hub id of a tagger model, such as OFA-Sys/InsTagger.")]
Device = Annotated[str, typer.Option(help="Where the tagger runs.")]
BatchSize = Annotated[int, typer.Option(help="Conversations that the tagger tags together.")]
Prompt = Annotated[str | None, typer.Option(help="Prompt of the tagger with {query} in it; default InsTag's.")]
Storage = Annotated[str, typer.Option(help="Storage whose store keeps the tags.")]


@app.command()
def inspect(config: Config, overrides: Overrides = None) -> None:
    """Rows, quarantine, tokens, what fractions take, and two examples with the loss mask. Trains nothing."""
    from data.store import Store
    from sweeps import describe, inputs, lineage, loading
    from sweeps.cli import out
    from sweeps.progress import Progress

    values = loading.load(config, overrides or [])
    store = Store(lineage.store_root(values))
    for name, source in values.sources.items():
        with Progress(out) as progress:
            record = inputs.prepared(
                values, values.model, source, values.train.max_length, store, inputs.telling(progress, name)
            )
        for line in describe.lines(describe.describe(values, name, record, store)):
            out.print(line, soft_wrap=True)


@app.command("filter")
def filter_source(
    path: Annotated[str, typer.Argument(metavar="PATH", help="The source: file, folder, bucket or hub id.")],
    target: Out,
    format: Annotated[str, typer.Option(help="gsm8k, gsm8k_rft, alpaca, sharegpt or messages.")],
    exclude_tags: Annotated[str, typer.Option(help='Drop conversations with a tag that matches, for example "code|math".')],
    field: Field = None,
    keyword: Keyword = None,
    model: Model = None,
    device: Device = "cpu",
    batch_size: BatchSize = 8,
    prompt: Prompt = None,
    storage: Storage = "runs",
) -> None:
    """Tag conversations and drop those whose tags match a pattern; writes a new source and a record of the drops."""
    from data import filtered
    from data.store import Store
    from sweeps.cli import out
    from sweeps.lineage import root
    from sweeps.progress import Progress

    if target.exists():
        raise typer.BadParameter(f"{target} exists; give another folder")
    tagger = _tagger(field, keyword, {"path": model, "device": device, "batch_size": batch_size, "prompt": prompt})
    source = _source({"path": path, "format": format, "role": "general", "tagger": tagger, "exclude_tags": exclude_tags})
    with Progress(out) as progress:
        summary = filtered.write(source, target, Store(f"{root(storage)}/store"), progress.doing)
    bad = sum(summary["quarantined"].values())
    out.print(f"{summary['rows']} rows: {summary['kept']} kept, {summary['dropped']} dropped, {bad} in quarantine")
    out.print(f"new source: {target} (format messages); what was dropped and why: {target / 'record'}", soft_wrap=True)


@app.command()
def fetch(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to download to.")],
    name: Annotated[list[str] | None, typer.Option("--set", help="math, code, general; default all.")] = None,
) -> None:
    """Download the paper's public data sets from the hub, with checksums."""
    from data.fetch import NOT_ON_THE_HUB, SETS
    from data.fetch import fetch as fetch_one
    from sweeps.cli import out

    unknown = sorted(set(name or ()) - SETS.keys())
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is no set; one of {', '.join(SETS)}")
    for wanted in name or SETS:
        for file in fetch_one(wanted, folder):
            out.print(f"{wanted}: {file} (format {SETS[wanted].format})", markup=False, soft_wrap=True)
    out.print(NOT_ON_THE_HUB, markup=False, soft_wrap=True)


def _tagger(field: str | None, keywords: list[str] | None, model: dict[str, Any]) -> dict[str, Any]:
    """The tagger that the options name. Raises BadParameter where they name none or two."""
    named = [given for given in (field, keywords, model["path"]) if given]
    if len(named) != 1:
        raise typer.BadParameter("say where tags come from: one of --field, --keyword or --model")
    if field:
        return {"kind": "field", "field": field}
    if keywords:
        pairs = dict(entry.partition("=")[::2] for entry in keywords)
        return {"kind": "keywords", "keywords": pairs}
    return {"kind": "model"} | {name: value for name, value in model.items() if value is not None}


def _source(values: dict[str, Any]) -> Any:
    from pydantic import ValidationError

    from data import sources
    from data.config import SourceConfig

    if not sources.exists(values["path"]):
        raise typer.BadParameter(f"{values['path']}: no such file or folder, and no hub id")
    try:
        return SourceConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise typer.BadParameter(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
