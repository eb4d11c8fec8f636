"""Rank the cells of a file block by block, straight from its rows, without a remapped or scaled copy of them.

The passes are compiled (``rank_kernels.py``) and run over ranges of rows on as many threads as asked for.
What comes out depends neither on the threads nor on how a file is cut into blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from geneformer_grn.cells.rank_kernels import Columns, Rows

_RANGE_VALUES = 1 << 18  # values a thread takes at a time
_TABLE_VALUES = 1 << 21  # values from which on a table of small counts pays
_SAMPLE_VALUES = 1 << 20  # values that tell which counts are usual
_FLOAT32_WHOLE = 2**24  # the largest whole number up to which float32 skips none
_UNENDING = np.iinfo(np.int64).max


@dataclass(frozen=True)
class StoredValues:
    """What the stored values of a block are; without any, the extremes are 0.

    Parameters
    ----------
    minimum, maximum
        Of all values but NaN.
    n_not_finite
        How many are NaN or infinite.
    first_fraction
        The first value, in the order of the file, that is not a whole number.
    """

    minimum: float
    maximum: float
    n_not_finite: int
    first_fraction: float | None


@dataclass(frozen=True)
class RankedBlock:
    """Ranked cells of a block.

    Parameters
    ----------
    tokens
        ``(k,)`` uint16, cell after cell, highest rank first, at most the longest asked for of each.
    offsets
        ``(n+1,)`` int64; cell ``i`` is ``tokens[offsets[i]:offsets[i + 1]]``.
    lengths
        ``(n,)`` int64 known genes of each cell, before the crop.
    totals
        ``(n,)`` float64 sum of each cell over all columns.
    known
        ``(n,)`` float64 sum of each cell over the columns with a token.
    values
        What the stored values are; the ranks mean nothing where some are negative or not finite.
    counts
        ``(k,)`` float64 count of each token, those of one gene summed; None unless asked for.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    totals: np.ndarray
    known: np.ndarray
    values: StoredValues
    counts: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.lengths)


class Ranker:
    """Ranks blocks of a file by ``float64(count) / float64(median)``, ties by ascending token id.

    Parameters
    ----------
    column_tokens
        ``(n_columns,)`` token of each column of the file, -1 where unknown; columns of one token are summed.
    medians
        ``(V,)`` float64 by token, positive for every token in `column_tokens`.
    threads
        Threads to rank with.
    longest
        Genes kept of each cell; None: all.
    with_counts
        Return the counts, too.
    undo_log
        Values are ``log1p``, which is undone in float64 first.

    Raises
    ------
    ValueError
        A token has no positive median, or does not exist.

    Examples
    --------
    >>> ranker = Ranker(np.array([2, -1, 1]), np.array([np.nan, 1.0, 4.0]))
    >>> ranker.rank(sparse.csr_matrix([[3.0, 9.0, 2.0], [4.0, 0.0, 1.0]])).tokens
    array([1, 2, 1, 2], dtype=uint16)
    """

    def __init__(
        self,
        column_tokens: np.ndarray,
        medians: np.ndarray,
        *,
        threads: int = 1,
        longest: int | None = None,
        with_counts: bool = False,
        undo_log: bool = False,
    ) -> None:
        from geneformer_grn.cells.rank_table import plain_table  # numba loads on first use only

        if threads < 1 or (longest is not None and longest < 1):
            raise ValueError(f"threads ({threads}) and longest ({longest}) must be at least 1")
        self._columns = _columns(np.asarray(column_tokens), np.asarray(medians, dtype=np.float64))
        self._table = plain_table(self._columns)
        self._n_seen = 0
        self._threads, self._with_counts, self._undo_log = threads, with_counts, undo_log
        self._longest = _UNENDING if longest is None else longest

    def rank(self, block: sparse.csr_matrix) -> RankedBlock:
        """Rank each row of a block, ``(n, n_columns)``, of any number type.

        Columns may be unsorted or stand twice (their values are summed), zeros may be stored. The block is
        left unchanged.

        Raises
        ------
        ValueError
            The block has another number of columns, or a column number outside of them.
        """
        _check_width(block, self._columns)
        self._choose_table(block)
        parts = _map_ranges(self._rank_range, block, self._threads, undo_log=self._undo_log)
        ranked, summaries = [part for part, _ in parts], [summary for _, summary in parts]
        starts = np.cumsum([0, *(len(part.tokens) for part in ranked)])
        ends = [part.ends + start for part, start in zip(ranked, starts, strict=False)]
        return RankedBlock(
            tokens=_joined([part.tokens for part in ranked], np.uint16),
            offsets=_joined([np.zeros(1, dtype=np.int64), *ends], np.int64),
            lengths=_joined([part.lengths for part in ranked], np.int64),
            totals=_joined([part.totals for part in ranked], np.float64),
            known=_joined([part.known for part in ranked], np.float64),
            values=_merged(summaries),
            counts=_joined([part.counts for part in ranked], np.float64) if self._with_counts else None,
        )

    def _choose_table(self, block: sparse.csr_matrix) -> None:
        """Build the table of small counts once enough values came to pay for it."""
        from geneformer_grn.cells.rank_table import build_table, largest_counts

        before, self._n_seen = self._n_seen, self._n_seen + block.nnz
        if self._undo_log or before >= _TABLE_VALUES or self._n_seen < _TABLE_VALUES:
            return
        some = slice(0, _SAMPLE_VALUES)
        self._table = build_table(
            largest_counts(block.data[some], block.indices[some], self._columns), self._columns
        )

    def _rank_range(self, rows: Rows) -> Any:
        from geneformer_grn.cells.rank_kernels import SLACK, Ranked, rank_rows

        n = len(rows.offsets) - 1
        room = int(np.minimum(np.diff(rows.offsets), self._longest).sum()) + SLACK
        out = Ranked(
            tokens=np.empty(room, dtype=np.uint16),
            counts=np.empty(room if self._with_counts else 0),
            ends=np.empty(n, dtype=np.int64),
            lengths=np.empty(n, dtype=np.int64),
            totals=np.empty(n),
            known=np.empty(n),
        )
        rank_rows(rows, self._columns, self._table, self._longest, out)
        used = int(out.ends[-1]) if n else 0
        return out._replace(tokens=out.tokens[:used], counts=out.counts[:used])


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
    columns = _columns(positions - n_unknown, np.ones(len(tokens)))
    _check_width(block, columns)

    def known_range(rows: Rows) -> tuple[np.ndarray, ...]:
        from geneformer_grn.cells.rank_kernels import known_rows

        n = len(rows.offsets) - 1
        data, indices = np.empty(len(rows.data)), np.empty(len(rows.data), dtype=np.int32)
        ends, totals = np.empty(n, dtype=np.int64), np.empty(n)
        known_rows(rows, columns, data, indices, ends, totals)
        used = int(ends[-1]) if n else 0
        sums: np.ndarray = data[:used]
        if np.all(sums == np.floor(sums)) and np.abs(sums).max(initial=0) <= _FLOAT32_WHOLE:
            sums = sums.astype(np.float32)
        return sums, indices[:used], np.diff(ends, prepend=0), totals

    parts = _map_ranges(known_range, block, threads, undo_log=undo_log)
    dtype = np.float64 if any(data.dtype == np.float64 for (data, *_), _ in parts) else np.float32
    data, indices, lengths, totals = (
        _joined([part[place] for part, _ in parts], kind)
        for place, kind in enumerate((dtype, np.int32, np.int64, np.float64))
    )
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    matrix = sparse.csr_matrix((data, indices, offsets), shape=(block.shape[0], len(tokens)))
    return matrix, tokens, totals, _merged([summary for _, summary in parts])


def _columns(column_tokens: np.ndarray, medians: np.ndarray) -> Columns:
    """Check what columns mean, and note which share a token."""
    from geneformer_grn.cells.rank_kernels import Columns

    known = np.flatnonzero(column_tokens >= 0)
    tokens = column_tokens[known]
    if len(medians) > 1 << 16 or (len(tokens) and int(tokens.max()) >= len(medians)):
        raise ValueError(
            f"tokens up to {tokens.max(initial=0)} in a vocabulary of {len(medians):,}; at most 65,536 are "
            "supported"
        )
    wrong = ~((medians[tokens] > 0) & np.isfinite(medians[tokens]))
    if wrong.any():
        token = tokens[wrong][0]
        raise ValueError(f"token {token} has the median {medians[token]}; a positive number is needed")
    column_of = np.zeros(len(medians), dtype=np.int32)
    column_of[tokens] = known
    shared = np.zeros(len(column_tokens), dtype=np.bool_)
    shared[known] = np.bincount(tokens, minlength=1)[tokens] > 1
    return Columns(
        tokens=np.where(column_tokens >= 0, column_tokens, -1).astype(np.int32),
        shared=shared, column_of=column_of, medians=medians,
    )  # fmt: skip


def _check_width(block: sparse.csr_matrix, columns: Columns) -> None:
    if block.shape[1] != len(columns.tokens):
        raise ValueError(
            f"a block of {block.shape[1]:,} columns was given, but {len(columns.tokens):,} have a meaning"
        )


def _map_ranges(
    work: Callable[[Rows], Any], block: sparse.csr_matrix, threads: int, *, undo_log: bool
) -> list[tuple[Any, StoredValues]]:
    """Do `work` on each range of rows, in order; return the results, and what the values of each are."""

    def one(bounds: tuple[int, int]) -> tuple[Any, StoredValues]:
        rows, summary = _rows(block, *bounds, undo_log=undo_log)
        return work(rows), summary

    ranges = list(_ranges(block.indptr))
    if threads == 1 or len(ranges) < 2:
        return [one(bounds) for bounds in ranges]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, ranges))


def _ranges(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield (first, last) rows of ranges of about 2^18 values, of one row at least."""
    first, n_rows = 0, len(offsets) - 1
    while first < n_rows:
        last = int(np.searchsorted(offsets, offsets[first] + _RANGE_VALUES, side="right")) - 1
        last = min(max(last, first + 1), n_rows)
        yield first, last
        first = last


def _rows(block: sparse.csr_matrix, first: int, last: int, *, undo_log: bool) -> tuple[Rows, StoredValues]:
    """Return a range of rows in the number types that the passes know, and what its values are."""
    from geneformer_grn.cells.rank_kernels import Rows, inspect

    start, stop = int(block.indptr[first]), int(block.indptr[last])
    data = _as_float(block.data[start:stop])
    low, high, n_wrong, fraction = inspect(data)
    summary = StoredValues(
        minimum=float(low) if len(data) else 0.0,
        maximum=float(high) if len(data) else 0.0,
        n_not_finite=n_wrong,
        first_fraction=float(data[fraction]) if fraction >= 0 else None,
    )
    if undo_log:
        with np.errstate(invalid="ignore", over="ignore"):
            data = np.expm1(data, dtype=np.float64)
    rows = Rows(
        data=np.ascontiguousarray(data),
        indices=np.ascontiguousarray(block.indices[start:stop], dtype=np.int32),
        offsets=block.indptr[first : last + 1].astype(np.int64) - start,
    )
    return rows, summary


def _as_float(values: np.ndarray) -> np.ndarray:
    """Return values as float32 where that is exact, else as float64; without a copy where they are."""
    if values.dtype.kind == "f":
        narrow = values.dtype.itemsize <= 4
    else:
        low, high = int(values.min(initial=0)), int(values.max(initial=0))
        narrow = values.dtype.itemsize <= 2 or max(-low, high) <= _FLOAT32_WHOLE
    return values.astype(np.float32 if narrow else np.float64, copy=False)


def _merged(summaries: list[StoredValues]) -> StoredValues:
    fractions = [one.first_fraction for one in summaries if one.first_fraction is not None]
    return StoredValues(
        minimum=min((one.minimum for one in summaries), default=0.0),
        maximum=max((one.maximum for one in summaries), default=0.0),
        n_not_finite=sum(one.n_not_finite for one in summaries),
        first_fraction=fractions[0] if fractions else None,
    )


def _joined(parts: list[np.ndarray], dtype: Any) -> np.ndarray:
    return (
        parts[0]
        if len(parts) == 1
        else np.concatenate([np.empty(0, dtype=dtype), *parts]).astype(dtype, copy=False)
    )
