"""Stored matrices, read in blocks of rows: sparse by row, dense by row, dense by column.

The arrays behind them may lie in HDF5, in zarr or in memory: all that is asked of them is a shape, a dtype
and slices. A block is as large as the caller allows, so that memory does not grow with the file; every block
is checked as it is read, because a damaged index would otherwise become a wrong gene.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from scipy import sparse

# Rows whose pointers are read at once: 2 MiB of int64, whatever the number of cells.
_POINTER_ROWS = 1 << 18
# A dense slice holds this many times the values that a block may store: most of them are zeros.
_DENSE_FACTOR = 8
_SAMPLE_PLACES = 4


class StoredMatrix(Protocol):
    """A matrix of cells × genes that can be read in blocks of rows."""

    shape: tuple[int, int]
    dtype: np.dtype
    layout: str
    nnz: int | None
    # Whether a range of rows can be read without reading what lies before it.
    seekable: bool

    def blocks(self, start: int, stop: int, max_values: int) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """Yield (first row, block) for the rows from `start` to `stop`."""

    def sample(self, n_values: int) -> np.ndarray:
        """Return up to about `n_values` stored values from several places."""


def readable_dtype(dtype: np.dtype, what: str) -> np.dtype:
    """Return the dtype in which values are handed on: native, float16 as float32, bool as uint8.

    Raises
    ------
    ValueError
        The values are no real numbers.
    """
    dtype = np.dtype(dtype)
    if dtype.kind not in "biuf":
        raise ValueError(f"{what} holds {dtype} values; raw counts are numbers")
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    return np.dtype(np.float32) if dtype == np.float16 else dtype.newbyteorder("=")


def as_csr(matrix: Any, what: str) -> sparse.csr_matrix:
    """Return `matrix` in rows, without copying where it already is; ``(n_cells, n_genes)``.

    Half precision becomes float32.

    Raises
    ------
    TypeError
        It is neither a scipy matrix nor a numpy array.
    ValueError
        It holds no numbers.
    """
    if not (sparse.issparse(matrix) or isinstance(matrix, np.ndarray)):
        raise TypeError(
            f"{what} is a {type(matrix).__name__}; load it into memory first (numpy array or scipy sparse "
            "matrix)"
        )
    values: Any = matrix
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{what} holds {values.dtype} values; raw counts are numbers")
    if values.dtype == np.float16:  # which scipy does not know
        values = values.astype(np.float32)
    return sparse.csr_matrix(values)


def block_of(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, n_columns: int) -> sparse.csr_matrix:
    """Return a csr block of these arrays as they are, with 32-bit indices."""
    block = sparse.csr_matrix((len(indptr) - 1, n_columns), dtype=data.dtype)
    # Not through the constructor, which copies arrays that are a small part of larger ones.
    block.data = data
    block.indices, block.indptr = indices.astype(np.int32, copy=False), indptr.astype(np.int32, copy=False)
    return block


def check_indices(indices: np.ndarray, n: int, what: str) -> None:
    """Refuse positions outside ``0..n``.

    Raises
    ------
    ValueError
        An index is negative or too large.
    """
    if len(indices) == 0:
        return
    # Seen as unsigned, a negative number is larger than any: one look instead of two.
    unsigned = np.ascontiguousarray(indices).view(f"u{indices.dtype.itemsize}")
    if int(unsigned.max()) >= max(n, 1):
        low, high = int(indices.min()), int(indices.max())
        raise ValueError(
            f"{what} is damaged: it holds the index {low if low < 0 else high}, where 0 to {n - 1:,} are "
            "possible. Write the file again"
        )


def check_pointers(pointers: np.ndarray, n_values: int, what: str) -> None:
    """Refuse pointers that descend or leave the values.

    Raises
    ------
    ValueError
        See above.
    """
    if pointers[0] < 0 or pointers[-1] > n_values or np.any(pointers[1:] < pointers[:-1]):
        raise ValueError(
            f"{what} is damaged: its row pointers (indptr) do not ascend from 0 to the {n_values:,} stored "
            "values. Write the file again"
        )


def check_sparse(data: Any, indices: Any, indptr: Any, *, n_major: int, what: str) -> None:
    """Refuse a sparse matrix whose three arrays do not fit together, by their lengths and end points.

    Raises
    ------
    ValueError
        They do not.
    """
    if any(len(array.shape) != 1 for array in (data, indices, indptr)):
        raise ValueError(f"{what} is damaged: data, indices and indptr of a sparse matrix have one dimension")
    if indptr.shape[0] != n_major + 1:
        raise ValueError(
            f"{what} is damaged: its indptr has {indptr.shape[0]:,} entries where its shape needs "
            f"{n_major + 1:,}"
        )
    first, last = int(indptr[:1][0]), int(indptr[-1:][0])
    if first != 0 or last != data.shape[0] or data.shape[0] != indices.shape[0]:
        raise ValueError(
            f"{what} is damaged: its indptr runs from {first:,} to {last:,}, but it holds {data.shape[0]:,} "
            f"values and {indices.shape[0]:,} indices. Write the file again"
        )


def spread_sample(read: Callable[[int, int], np.ndarray], length: int, n_values: int) -> np.ndarray:
    """Return about `n_values` of `length` values, from places spread evenly over them."""
    if length <= n_values:
        return read(0, length)
    each = max(1, n_values // _SAMPLE_PLACES)
    starts = np.linspace(0, length - each, _SAMPLE_PLACES).astype(np.int64)
    return np.concatenate([read(int(start), int(start) + each) for start in starts])


class SparseRows:
    """A matrix stored sparse, row by row (csr): each block is three slices.

    Parameters
    ----------
    data, indices, indptr
        Sliceable arrays (HDF5, zarr, numpy).
    shape
        (n_cells, n_genes).
    what
        What messages call the matrix.
    """

    layout = "csr"
    seekable = True

    def __init__(self, data: Any, indices: Any, indptr: Any, *, shape: tuple[int, int], what: str) -> None:
        self.data, self.indices, self.indptr = data, indices, indptr
        self.shape, self.what = shape, what
        self.dtype = readable_dtype(data.dtype, what)
        check_sparse(data, indices, indptr, n_major=shape[0], what=what)
        self.nnz: int | None = int(data.shape[0])

    def blocks(self, start: int, stop: int, max_values: int) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """Yield (first row, block); a block has at least one row, and at most 262,144."""
        for piece in range(start, stop, _POINTER_ROWS):
            end = min(piece + _POINTER_ROWS, stop)
            pointers = np.asarray(self.indptr[piece : end + 1]).astype(np.int64, copy=False)
            check_pointers(pointers, self.nnz or 0, self.what)
            for low, high in pairwise(row_cuts(pointers, max_values)):
                yield piece + low, self._read(pointers[low : high + 1])

    def _read(self, pointers: np.ndarray) -> sparse.csr_matrix:
        values = slice(int(pointers[0]), int(pointers[-1]))
        indices = np.asarray(self.indices[values])
        check_indices(indices, self.shape[1], self.what)
        data = np.asarray(self.data[values]).astype(self.dtype, copy=False)
        return block_of(data, indices, pointers - pointers[0], self.shape[1])

    def sample(self, n_values: int) -> np.ndarray:
        """Return stored values from four places."""
        return spread_sample(lambda a, b: np.asarray(self.data[a:b]), self.nnz or 0, n_values).astype(
            self.dtype, copy=False
        )


def row_cuts(pointers: np.ndarray, max_values: int) -> list[int]:
    """Return where to cut rows into blocks of at most `max_values` values, but at least one row."""
    cuts = [0]
    last = len(pointers) - 1
    while cuts[-1] < last:
        reach = np.searchsorted(pointers, pointers[cuts[-1]] + max_values, side="right") - 1
        cuts.append(min(max(int(reach), cuts[-1] + 1), last))
    return cuts


class DenseRows:
    """A dense matrix, whose slices become sparse blocks.

    Parameters
    ----------
    read
        Returns the rows from a to b as a numpy array or a scipy matrix.
    shape
        (n_cells, n_genes).
    dtype
        Of the values.
    what
        What messages call the matrix.
    step
        Cells that lie together on disk: slices are whole multiples of it, so that nothing is unpacked twice.
    """

    layout = "dense"
    seekable = True
    nnz: int | None = None

    def __init__(
        self,
        read: Callable[[int, int], Any],
        *,
        shape: tuple[int, int],
        dtype: np.dtype,
        what: str,
        step: int = 1,
    ) -> None:
        self.read, self.shape, self.what, self.step = read, shape, what, max(1, step)
        self.dtype = readable_dtype(dtype, what)

    def blocks(self, start: int, stop: int, max_values: int) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """Yield (first row, block); a slice on disk may be cut into several blocks."""
        rows = max(1, _DENSE_FACTOR * max_values // max(1, self.shape[1]))
        rows = max(self.step, rows // self.step * self.step)
        position = start
        while position < stop:
            end = min((position // rows + 1) * rows, stop)
            block = as_csr(self.read(position, end), self.what).astype(self.dtype, copy=False)
            for low, high in pairwise(row_cuts(block.indptr.astype(np.int64), max_values)):
                yield position + low, block if high - low == block.shape[0] else block[low:high]
            position = end

    def sample(self, n_values: int) -> np.ndarray:
        """Return the values other than zero of some rows."""
        rows = max(1, n_values // max(1, self.shape[1]) // _SAMPLE_PLACES)
        starts = np.unique(np.linspace(0, max(0, self.shape[0] - rows), _SAMPLE_PLACES).astype(int))
        parts = [as_csr(self.read(int(a), min(int(a) + rows, self.shape[0])), self.what).data for a in starts]
        return np.concatenate(parts).astype(self.dtype, copy=False)


class ChosenColumns:
    """Some columns of another matrix, such as the genes among a 10x file's features.

    Parameters
    ----------
    matrix
        The whole matrix.
    keep
        ``(n_columns,)`` bool.
    """

    nnz: int | None = None

    def __init__(self, matrix: StoredMatrix, keep: np.ndarray) -> None:
        self.matrix = matrix
        self.number = np.where(keep, np.cumsum(keep) - 1, -1).astype(np.int32)
        self.shape = (matrix.shape[0], int(keep.sum()))
        self.dtype, self.layout, self.seekable = matrix.dtype, matrix.layout, matrix.seekable

    def blocks(self, start: int, stop: int, max_values: int) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """Yield (first row, block) of the kept columns."""
        for first, block in self.matrix.blocks(start, stop, max_values):
            columns = self.number[block.indices]
            keep = columns >= 0
            pointers = np.concatenate([[0], np.cumsum(keep)])[block.indptr]
            yield first, block_of(block.data[keep], columns[keep], pointers, self.shape[1])

    def sample(self, n_values: int) -> np.ndarray:
        """Return stored values of the first kept cells; other features' values would mislead."""
        parts, found = [np.empty(0, dtype=self.dtype)], 0
        for _, block in self.blocks(0, self.shape[0], n_values):
            parts.append(block.data)
            found += block.nnz
            if found >= n_values:
                break
        return np.concatenate(parts)[:n_values]
