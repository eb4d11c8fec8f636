"""Entries in any order, put in order of rows: partitioned into buckets of rows first, then bucket by bucket.

Few entries stay in memory between the two steps, more go to temporary files (``TMPDIR``), about five bytes
each: values are kept in the smallest type that holds them exactly. The rows of a bucket are few enough for
the processor's caches, which makes two steps faster than one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
from scipy import sparse

from geneformer_grn.cells.formats.matrices import block_of, row_cuts

IN_MEMORY = 20_000_000  # entries that are kept in memory between the passes
LOT = 1 << 22  # entries that are taken at once, and about those of a bucket
_MOST_ROWS = 16  # log2 of the rows of a bucket: their numbers are uint16


@dataclass(frozen=True)
class _Lot:
    """Entries partitioned into buckets: three arrays, or where they lie in three files."""

    starts: np.ndarray
    dtypes: tuple[np.dtype, ...]
    arrays: tuple[np.ndarray, ...] | None
    offsets: tuple[int, ...] = ()


class RowSorter:
    """Takes entries in any order and hands them back by row; those of one row keep their order.

    Parameters
    ----------
    rows
        First row and the one after the last; entries of other rows are dropped.
    n_columns
        Columns of the matrix.
    dtype
        Of the values handed back.
    n_expected
        About how many entries will come.
    resources
        Deletes the temporary files when it is closed.
    """

    def __init__(
        self,
        *,
        rows: tuple[int, int],
        n_columns: int,
        dtype: np.dtype,
        n_expected: int,
        resources: ExitStack,
    ) -> None:
        self.rows, self.n_columns, self.dtype, self.resources = rows, n_columns, dtype, resources
        per_row = max(1.0, n_expected / (rows[1] - rows[0]))
        self.shift = min(_MOST_ROWS, max(0, int(np.log2(max(1.0, LOT / per_row)))))
        self.n_buckets = -(-(rows[1] - rows[0]) // (1 << self.shift))
        self.column_type = np.dtype(np.uint16 if n_columns <= 1 << 16 else np.int32)
        self.lots: list[_Lot] = []
        self.held = 0
        self.files: list[BinaryIO] = []

    def add(self, rows: np.ndarray, columns: np.ndarray, values: np.ndarray) -> None:
        """Take entries: ``(n,)`` row numbers, column numbers and values.

        Raises
        ------
        ValueError
            There is no room for the temporary files.
        """
        partition, _ = _kernels()
        values = _narrow(values.astype(self.dtype, copy=False))
        starts = np.zeros(self.n_buckets + 1, dtype=np.int64)
        arrays = (
            np.empty(len(rows), dtype=np.uint16),
            np.empty(len(rows), dtype=self.column_type),
            np.empty_like(values),
        )
        bits = np.dtype(f"u{values.itemsize}")
        partition(
            rows.astype(np.int32, copy=False), columns.astype(self.column_type, copy=False),
            values.view(bits), self.rows[0], self.rows[1], self.shift, starts,
            arrays[0], arrays[1], arrays[2].view(bits),
        )  # fmt: skip
        count = int(starts[-1])
        if count == 0:
            return
        arrays = tuple(array[:count] for array in arrays)  # type: ignore[assignment]
        self.lots.append(_Lot(starts, tuple(array.dtype for array in arrays), arrays))
        self.held += count
        if self.held > IN_MEMORY or self.files:
            self._spill()

    def _spill(self) -> None:
        folder = tempfile.gettempdir()
        try:
            if not self.files:
                folder = self.resources.enter_context(tempfile.TemporaryDirectory(prefix="geneformer-grn-"))
                self.files = [
                    self.resources.enter_context((Path(folder) / name).open("w+b"))
                    for name in ("rows", "columns", "values")
                ]
            for place, lot in enumerate(self.lots):
                if lot.arrays is not None:
                    offsets = tuple(file.seek(0, 2) for file in self.files)
                    for file, array in zip(self.files, lot.arrays, strict=True):
                        array.tofile(file)
                    self.lots[place] = _Lot(lot.starts, lot.dtypes, None, offsets)
        except OSError as error:
            raise ValueError(
                f"no temporary files can be written in {folder} ({error.strerror or error}); a matrix that "
                "is not stored by cell needs about 5 bytes there for each stored value. Set TMPDIR to a "
                "larger disk"
            ) from error
        self.held = 0

    def blocks(self, start: int, stop: int, max_values: int) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """Yield (first row, block) for the rows from `start` to `stop`."""
        width = 1 << self.shift
        last = (stop - 1 - self.rows[0]) >> self.shift
        for bucket in range((start - self.rows[0]) >> self.shift, last + 1):
            first = self.rows[0] + bucket * width
            low, high = max(first, start), min(first + width, stop, self.rows[1])
            data, columns, pointers = self._ordered(bucket)
            for a, b in pairwise(row_cuts(pointers[low - first : high - first + 1], max_values)):
                ends = pointers[low - first + a : low - first + b + 1]
                chosen = slice(ends[0], ends[-1])
                yield low + a, block_of(data[chosen], columns[chosen], ends - ends[0], self.n_columns)

    def _ordered(self, bucket: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the values, columns and row pointers of a bucket."""
        _, order = _kernels()
        total = sum(int(lot.starts[bucket + 1] - lot.starts[bucket]) for lot in self.lots)
        parts = (
            np.empty(total, dtype=np.uint16),
            np.empty(total, dtype=self.column_type),
            np.empty(total, dtype=self.dtype),
        )
        filled = 0
        for lot in self.lots:
            low, high = int(lot.starts[bucket]), int(lot.starts[bucket + 1])
            for kind, part in enumerate(parts):
                part[filled : filled + high - low] = self._fetch(lot, kind, low, high)
            filled += high - low
        pointers = np.zeros((1 << self.shift) + 1, dtype=np.int64)
        columns, values = np.empty(total, dtype=np.int32), np.empty_like(parts[2])
        bits = np.dtype(f"u{values.itemsize}")
        order(parts[0], parts[1], parts[2].view(bits), pointers, columns, values.view(bits))
        return values, columns, pointers

    def _fetch(self, lot: _Lot, kind: int, low: int, high: int) -> np.ndarray:
        if lot.arrays is not None:
            return lot.arrays[kind][low:high]
        file, dtype = self.files[kind], lot.dtypes[kind]
        file.seek(lot.offsets[kind] + low * dtype.itemsize)
        return np.fromfile(file, dtype=dtype, count=high - low)


def _narrow(values: np.ndarray) -> np.ndarray:
    """Return values in the smallest unsigned type that holds them exactly, or as they are."""
    if values.itemsize == 1 or len(values) == 0:
        return values
    low, high = values.min(), values.max()
    for dtype in (np.uint8, np.uint16, np.uint32):
        if np.dtype(dtype).itemsize < values.itemsize and low >= 0 and high <= np.iinfo(dtype).max:
            narrow = values.astype(dtype)
            return narrow if values.dtype.kind in "iu" or np.array_equal(narrow, values) else values
    return values


def _partition(rows, columns, values, first, stop, shift, starts, rows_out, columns_out, values_out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Move the entries of rows first..stop into buckets of 2**shift rows, stably."""
    for row in rows:
        if first <= row < stop:
            starts[((row - first) >> shift) + 1] += 1
    for bucket in range(1, len(starts)):
        starts[bucket] += starts[bucket - 1]
    places = starts[:-1].copy()
    mask = (1 << shift) - 1
    for index in range(len(rows)):
        row = rows[index]
        if first <= row < stop:
            bucket = (row - first) >> shift
            place = places[bucket]
            places[bucket] = place + 1
            rows_out[place] = (row - first) & mask
            columns_out[place] = columns[index]
            values_out[place] = values[index]


def _order(rows, columns, values, pointers, columns_out, values_out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Put entries in the order of their rows, stably, and fill the row pointers."""
    for row in rows:
        pointers[row + 1] += 1
    for row in range(1, len(pointers)):
        pointers[row] += pointers[row - 1]
    places = pointers[:-1].copy()
    for index in range(len(rows)):
        row = rows[index]
        place = places[row]
        places[row] = place + 1
        columns_out[place] = columns[index]
        values_out[place] = values[index]


@lru_cache(maxsize=1)
def _kernels() -> tuple[Callable[..., None], Callable[..., None]]:
    from geneformer_grn.cells.radix import compiled

    return compiled(_partition), compiled(_order)
