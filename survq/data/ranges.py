"""Parquet files of a bucket, opened with few requests: each takes some 50 ms, however little it asks for."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from survq.data.location import Location

TAIL = 1 << 16  # bytes that pyarrow, too, reads first


@contextmanager
def opened_parquet(file: Location) -> Iterator[pq.ParquetFile]:
    """A Parquet file, verified by its page checksums. Of a bucket, the end is read in one request."""
    with file.filesystem.open_input_file(file.path) as source:
        known: dict = {"source": source}
        if file.local is None:
            tail = WithTail(source)
            metadata = pq.read_metadata(tail)
            # of a file of many slides, pyarrow reads several parts at a time
            known = {"source": tail if metadata.num_row_groups == 1 else source, "metadata": metadata}
        with pq.ParquetFile(**known, page_checksum_verification=True) as parquet:
            yield parquet


class WithTail:
    """A file whose last TAIL bytes are in memory. What lies before them is read when it is asked for."""

    closed = False

    def __init__(self, source: pa.NativeFile):
        self._source, self._size, self._at = source, source.size(), 0
        self._start = max(0, self._size - TAIL)
        self._tail = source.read_at(self._size - self._start, self._start)

    def read(self, count: int) -> bytes:
        first = self._at - self._start
        content = self._tail[first : first + count] if first >= 0 else self._source.read_at(count, self._at)
        self._at += len(content)
        return content

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        self.closed = True
