"""Counts of known genes by token, without ranking them: what the other methods read.

Sums go through a bitmap over tokens, in place of a sort.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from geneformer_grn.cells.row_ranges import (
    FLOAT32_WHOLE,
    StoredValues,
    check_width,
    describe_columns,
    in_threads,
    merge_values,
    read_rows,
    row_ranges,
)

if TYPE_CHECKING:
    from geneformer_grn.cells.row_kernels import Columns, Rows


def known_counts(
    block: sparse.csr_matrix, column_tokens: np.ndarray, *, threads: int = 1, undo_log: bool = False
) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray, StoredValues]:
    """Return the counts of the columns with a token, by token, without ranking them.

    Parameters
    ----------
    block
        ``(n, n_columns)``, as :meth:`Ranker.rank` takes it.
    column_tokens
        ``(n_columns,)`` token of each column, -1 where unknown.
    threads, undo_log
        As of :class:`Ranker`.

    Returns
    -------
    matrix
        ``(n, n_tokens)`` csr, columns ascending by token, those of one token summed in float64, no stored
        zeros; float32 where every sum is a whole number that it holds exactly, else float64.
    tokens
        ``(n_tokens,)`` int32 token of each column.
    totals
        ``(n,)`` float64 sum of each row over all columns of the block.
    values
        What the stored values are.

    Raises
    ------
    ValueError
        As :meth:`Ranker.rank`.
    """
    found, positions = np.unique(column_tokens, return_inverse=True)
    n_unknown = int(np.count_nonzero(found < 0))
    tokens = found[n_unknown:].astype(np.int32)
    columns = describe_columns(positions - n_unknown, np.ones(len(tokens)))
    check_width(block, columns)

    def known_range(bounds: tuple[int, int]) -> tuple[tuple[np.ndarray, ...], StoredValues]:
        rows, values = read_rows(block, *bounds, undo_log=undo_log)
        return _known_range(rows, columns), values

    parts = in_threads(threads, known_range, list(row_ranges(block.indptr)))
    dtype = np.float64 if any(data.dtype == np.float64 for (data, *_), _ in parts) else np.float32
    data, indices, lengths, totals = (
        _joined([part[place] for part, _ in parts], kind)
        for place, kind in enumerate((dtype, np.int32, np.int64, np.float64))
    )
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    matrix = sparse.csr_matrix((data, indices, offsets), shape=(block.shape[0], len(tokens)))
    return matrix, tokens, totals, merge_values([summary for _, summary in parts])


def _known_range(rows: Rows, columns: Columns) -> tuple[np.ndarray, ...]:
    """Return sums, float32 where that is exact, their columns, the lengths of rows, and the totals."""
    from geneformer_grn.cells.row_kernels import known_rows

    n = len(rows.offsets) - 1
    data, indices = np.empty(len(rows.data)), np.empty(len(rows.data), dtype=np.int32)
    ends, totals = np.empty(n, dtype=np.int64), np.empty(n)
    known_rows(rows, columns, data, indices, ends, totals)
    sums: np.ndarray = data[: ends[-1]]
    if np.all(sums == np.floor(sums)) and np.abs(sums).max(initial=0) <= FLOAT32_WHOLE:
        sums = sums.astype(np.float32)
    return sums, indices[: ends[-1]], np.diff(ends, prepend=0), totals


def _joined(parts: list[np.ndarray], dtype: Any) -> np.ndarray:
    return (
        parts[0]
        if len(parts) == 1
        else np.concatenate([np.empty(0, dtype=dtype), *parts]).astype(dtype, copy=False)
    )
