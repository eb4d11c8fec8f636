"""Matrices stored by gene, or in no order, handed on by cell without holding them.

The entries are read once, in the order of the file, and put in order of cells by ``sorting``. The price is
that nothing can be handed on before the whole matrix was read, and the disk for temporary files where it is
large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
from scipy import sparse

from geneformer_grn.cells.formats import sorting
from geneformer_grn.cells.formats.matrices import (
    SparseRows,
    check_indices,
    check_pointers,
    check_sparse,
    readable_dtype,
)

Entries = Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]


class GeneMajorMatrix:
    """A matrix whose entries are stored by gene or in no order.

    Parameters
    ----------
    entries
        Returns an iterator over lots of entries: (cell numbers, gene numbers, values), each checked.
    shape
        (n_cells, n_genes).
    dtype
        Of the values.
    layout
        As stored.
    n_expected
        About how many entries there are; decides how many buckets are made.
    what
        What messages call the matrix.
    resources
        Deletes the temporary files when it is closed.
    """

    seekable = False
    nnz: int | None = None

    def __init__(
        self,
        entries: Callable[[], Entries],
        *,
        shape: tuple[int, int],
        dtype: np.dtype,
        layout: str,
        n_expected: int,
        what: str,
        resources: ExitStack,
    ) -> None:
        self.entries, self.shape, self.layout, self.what = entries, shape, layout, what
        self.dtype = readable_dtype(dtype, what)
        self.n_expected, self.resources = n_expected, resources
        self._sorted: tuple[int, int, sorting.RowSorter] | None = None

    def blocks(self, start: int, stop: int, max_values: int) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """Yield (first row, block); what was put in order is kept for rows asked for again."""
        if start == stop:
            return
        if self._sorted is None or not (self._sorted[0] <= start and stop <= self._sorted[1]):
            sorter = sorting.RowSorter(
                rows=(start, stop), n_columns=self.shape[1], dtype=self.dtype,
                n_expected=self.n_expected * (stop - start) // self.shape[0], resources=self.resources,
            )  # fmt: skip
            for rows, columns, values in self.entries():
                sorter.add(rows, columns, values)
            self._sorted = (start, stop, sorter)
        yield from self._sorted[2].blocks(start, stop, max_values)

    def sample(self, n_values: int) -> np.ndarray:
        """Return the values first read."""
        parts, found = [np.empty(0, dtype=self.dtype)], 0
        for _, _, values in self.entries():
            parts.append(values)
            found += len(values)
            if found >= n_values:
                break
        return np.concatenate(parts)[:n_values].astype(self.dtype, copy=False)


def sparse_columns(
    data: Any, indices: Any, indptr: Any, *, shape: tuple[int, int], what: str, resources: ExitStack
) -> GeneMajorMatrix:
    """Return the reader of a matrix stored sparse, column by column (csc).

    Parameters
    ----------
    data, indices, indptr
        Sliceable arrays (HDF5, zarr, numpy).
    shape
        (n_cells, n_genes).
    what
        What messages call it.
    resources
        Deletes temporary files.

    Raises
    ------
    ValueError
        The arrays do not fit together.
    """
    check_sparse(data, indices, indptr, n_major=shape[1], what=what)
    n_values = int(data.shape[0])
    # A csc matrix is the csr matrix of its transpose, which samples well.
    transposed = SparseRows(data, indices, indptr, shape=(shape[1], shape[0]), what=what)

    def entries() -> Entries:
        pointers = np.asarray(indptr[:]).astype(np.int64, copy=False)
        check_pointers(pointers, n_values, what)
        for low in range(0, n_values, sorting.LOT):
            high = min(low + sorting.LOT, n_values)
            rows = np.asarray(indices[low:high])
            check_indices(rows, shape[0], what)
            first, last = np.searchsorted(pointers, [low, high - 1], side="right") - 1
            edges = np.clip(pointers[first : last + 2], low, high)
            columns = np.repeat(np.arange(first, last + 1), np.diff(edges))
            yield rows, columns, np.asarray(data[low:high])

    matrix = GeneMajorMatrix(
        entries, shape=shape, dtype=data.dtype, layout="csc", n_expected=n_values, what=what,
        resources=resources,
    )  # fmt: skip
    matrix.nnz = n_values
    matrix.sample = transposed.sample  # type: ignore[method-assign]
    return matrix
