"""Tables of any size as Arrow files: written batch by batch, read through memory maps."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

SHARD_BYTES = 1 << 28


class Writer:
    """Appends record batches to `<folder>/00000.arrow` and on; a new file begins where one has grown to SHARD_BYTES."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._schema = folder, schema
        self._files, self._bytes = 0, 0
        self._open: pa.ipc.RecordBatchFileWriter | None = None

    def __enter__(self) -> "Writer":
        self._next()  # a source without rows is a table, too
        return self

    def __exit__(self, *_: object) -> None:
        if self._open:
            self._open.close()

    def write(self, batch: pa.RecordBatch) -> None:
        if self._bytes >= SHARD_BYTES:
            self._next()
        assert self._open is not None
        self._open.write_batch(batch)
        self._bytes += batch.nbytes

    def _next(self) -> None:
        if self._open:
            self._open.close()
        self._open = pa.ipc.new_file(str(self._folder / f"{self._files:05}.arrow"), self._schema)
        self._files, self._bytes = self._files + 1, 0


def batches(folder: Path) -> Iterator[pa.RecordBatch]:
    """The batches of a table in order; they lie in the page cache, not in the process."""
    for path, number in places(folder):
        yield batch(path, number)


def places(folder: Path) -> list[tuple[str, int]]:
    """File and number of each batch, for processes that read them on their own."""
    files = sorted(folder.glob("*.arrow"))
    return [(str(file), i) for file in files for i in range(_opened(str(file)).num_record_batches)]


def batch(path: str, number: int) -> pa.RecordBatch:
    """One batch, memory-mapped."""
    return _opened(path).get_batch(number)


def table(folder: Path) -> pa.Table:
    """The whole table, memory-mapped."""
    return pa.concat_tables([_opened(str(file)).read_all() for file in sorted(folder.glob("*.arrow"))])


def _opened(path: str) -> pa.ipc.RecordBatchFileReader:
    return pa.ipc.open_file(pa.memory_map(path))
