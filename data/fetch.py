"""Downloading the paper's public sets from the Hugging Face hub, with checksums."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data.config import Format
from data.fingerprint import file_digest

SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class PublicSet:
    """A data set on the hub: the files of it that are wanted, and their format."""

    hub_id: str
    files: str
    format: Format


SETS = {
    "math": PublicSet("openai/gsm8k", "main/train-*.parquet", "gsm8k"),
    "code": PublicSet("sahil2801/CodeAlpaca-20k", "*.json", "alpaca"),
    "general": PublicSet("anon8231489123/ShareGPT_Vicuna_unfiltered", "ShareGPT_V3_unfiltered_cleaned_split.json", "sharegpt"),
}
NOT_ON_THE_HUB = (
    "The paper's maths set, GSM8K RFT, is not on the hub: take data/rft/u33b.jsonl of github.com/OFA-Sys/gsm8k-ScRel "
    "and format gsm8k_rft"
)


class NotFetched(ValueError):
    """A data set that could not be downloaded; the message says why."""


def fetch(name: str, folder: Path) -> list[Path]:
    """Download a set to `folder/name` and write `folder/name/SHA256SUMS`, as `sha256sum` does.

    Raises NotFetched where the hub cannot be reached or does not give the files, or where a file that was fetched before
    has another checksum now.
    """
    from huggingface_hub import snapshot_download

    wanted, target = SETS[name], folder / name
    before = dict(_sums(target / SUMS))
    try:
        snapshot_download(wanted.hub_id, repo_type="dataset", allow_patterns=[wanted.files], local_dir=target)
    except Exception as error:  # the hub client and its HTTP library raise many kinds
        raise NotFetched(f"{wanted.hub_id}: {_reason(error)}") from error
    found = sorted(p for p in target.rglob("*") if p.is_file() and p.name != SUMS and ".cache" not in p.parts)
    if not found:
        raise NotFetched(f"{wanted.hub_id}: holds no file {wanted.files}")
    sums = {p.relative_to(target).as_posix(): file_digest(p) for p in found}
    changed = [file for file, known in before.items() if sums.get(file, known) != known]
    if changed:
        raise NotFetched(f"{target / changed[0]}: its checksum is no longer that in {SUMS}; remove both to fetch again")
    (target / SUMS).write_text("".join(f"{digest}  {file}\n" for file, digest in sums.items()))
    return found


def _sums(path: Path) -> Iterator[tuple[str, str]]:
    for line in path.read_text().splitlines() if path.exists() else ():
        digest, _, file = line.partition("  ")
        yield file, digest


def _reason(error: BaseException) -> str:
    """What went wrong, by the first cause: what lies below the client's own words."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    told = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if isinstance(error, OSError):
        return f"there is no network, or the hub cannot be reached through it ({told})"
    return f"the hub does not give it ({told})"
