"""Reading rows from files, local or in a bucket: one code for both, row by row, so that memory stays flat.

A reader gives pairs of a line number (or row number) and a row; a row that cannot be read is the BadRow that says why.
"""

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.fs as pafs

from data.formats import BadRow

Rows = Iterator[tuple[int, Any]]
Reader = Callable[[BinaryIO], Rows]
BUFFER = 1 << 20
LONGEST_WORD = 16  # letters of JSON's longest word or escape that a window may cut, with room
csv.field_size_limit(1 << 30)


def reader(name: str) -> Reader | None:
    """The reader for a file's ending, None where there is none."""
    return next((read for ending, read in READERS.items() if name.lower().endswith(ending)), None)


def location(path: str) -> tuple[pafs.FileSystem, str]:
    """File system and path in it of a local path or of a URI that pyarrow knows (s3://, gs://, file://)."""
    if "://" in path:
        system, inside = pafs.FileSystem.from_uri(path)
        return system, inside
    return pafs.LocalFileSystem(), str(Path(path).resolve())


def found(path: str) -> list[pafs.FileInfo]:
    """The file at a path, or those directly in a folder that can be read, by name. Raises OSError where nothing is there."""
    system, inside = location(path)
    info = system.get_file_info(inside)
    if info.type == pafs.FileType.NotFound:
        raise FileNotFoundError("no such file or folder")
    if info.type == pafs.FileType.File:
        return [info]
    inner = system.get_file_info(pafs.FileSelector(inside))
    return sorted((i for i in inner if i.type == pafs.FileType.File and reader(i.base_name)), key=lambda i: i.base_name)


def opened(system: pafs.FileSystem, inside: str) -> BinaryIO:
    """A file as a buffered binary stream that can seek."""
    return io.BufferedReader(system.open_input_file(inside), BUFFER)


def read_jsonl(stream: BinaryIO) -> Rows:
    """One JSON value a line, numbered from 1; blank lines are skipped, a line that does not parse is a BadRow."""
    yield from ((number, _json_line(line)) for number, line in enumerate(stream, 1) if line.strip())


def _read_gzip(stream: BinaryIO) -> Rows:
    with gzip.open(stream, "rb") as unpacked:
        yield from read_jsonl(unpacked)  # type: ignore[arg-type]


def _json_line(line: bytes) -> Any:
    try:
        return json.loads(line)
    except UnicodeDecodeError as error:
        return BadRow("broken_utf8", str(error))
    except (ValueError, RecursionError) as error:
        return BadRow("unparsable_json", str(error))


def _read_json(stream: BinaryIO) -> Rows:
    """A list of rows, numbered from 1, decoded one by one: ShareGPT is one list of 650 MB."""
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape")
    window = _Window(text)
    if window.next_letter() != "[":
        raise ValueError("a JSON source is a list of rows, this is none; use .jsonl for one object a line")
    window.skip(1)
    number = 0
    while window.next_letter() != "]":
        number += 1
        if number > 1 and window.next_letter() != ",":
            raise ValueError(f"not a JSON file (after row {number - 1} neither , nor ]); use .jsonl for one object a line")
        window.skip(number > 1)
        yield number, window.value(number)
    window.skip(1)
    if window.next_letter():
        raise ValueError("not a JSON file (text follows the list)")


class _Window:
    """The part of a JSON text that is being decoded."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._held, self._at = "", 0
        self._decoder = json.JSONDecoder()

    def next_letter(self) -> str:
        """The next letter that is no space, "" at the end."""
        while True:
            while self._at < len(self._held):
                if not self._held[self._at].isspace():
                    return self._held[self._at]
                self._at += 1
            if not self._more(BUFFER):
                return ""

    def skip(self, letters: int) -> None:
        self._at += letters

    def value(self, number: int) -> Any:
        """The next value. Raises ValueError where the text ends or breaks within it."""
        self.next_letter()
        size = BUFFER
        while True:
            try:
                value, end = self._decoder.raw_decode(self._held, self._at)
            except (ValueError, RecursionError) as error:
                if self._broken(error) or not self._more(size):
                    raise ValueError(f"not a JSON file (row {number}: {error}); use .jsonl for one object a line") from error
                size *= 2  # so that one huge row is not decoded again and again
            else:
                if self._ended(end) or not self._more(BUFFER):
                    self._at = end
                    return value

    def _ended(self, end: int) -> bool:
        """Whether a value ends there whatever follows: a number at the edge of the window may go on."""
        return end < len(self._held) - LONGEST_WORD or self._held[end : end + 1] in {",", "]", " ", "\n", "\r", "\t"}

    def _broken(self, error: Exception) -> bool:
        """Whether more text could not repair what the decoder stumbled over."""
        if not isinstance(error, json.JSONDecodeError):
            return True
        return not error.msg.startswith("Unterminated") and error.pos < len(self._held) - LONGEST_WORD

    def _more(self, size: int) -> bool:
        more = self._text.read(size)
        if more:
            self._held, self._at = self._held[self._at :] + more, 0
        return bool(more)


def _read_parquet(stream: BinaryIO) -> Rows:
    import pyarrow.parquet as parquet

    number = 0
    for batch in parquet.ParquetFile(stream).iter_batches(batch_size=1024):
        for row in _plain(batch):
            number += 1
            yield number, row


def _plain(batch: pa.RecordBatch) -> list[Any]:
    """Rows as plain values; a row whose text is no UTF-8 is a BadRow."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError as error:
        if len(batch) == 1:
            return [BadRow("broken_utf8", str(error))]
        return [row for i in range(len(batch)) for row in _plain(batch.slice(i, 1))]


def _read_csv(stream: BinaryIO) -> Rows:
    """Rows under a header, numbered by the line on which they begin."""
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    rows = csv.DictReader(text)
    line = 2
    for row in rows:
        extra = row.pop(None, None)
        yield line, BadRow("too_many_columns", f"{extra!r:.100} stands behind the last column") if extra else row
        line = rows.line_num + 1


READERS: dict[str, Reader] = {
    ".jsonl": read_jsonl,
    ".jsonl.gz": _read_gzip,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
}
