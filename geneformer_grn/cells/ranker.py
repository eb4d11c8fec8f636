"""Rank the cells of a file block by block, straight from its rows, without a remapped or scaled copy of them.

The passes are compiled (``rank_kernels.py``) and run over ranges of rows on as many threads as asked for.
What comes out depends neither on the threads nor on how a file is cut into blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from geneformer_grn.cells.row_ranges import (
    MOST_TOKENS,
    StoredValues,
    check_width,
    describe_columns,
    in_threads,
    merge_values,
    read_rows,
    row_ranges,
)

if TYPE_CHECKING:
    from geneformer_grn.cells.rank_kernels import Ranked

_NOTED_VALUES = 1 << 19  # values that tell which counts are usual
_TABLE_VALUES = 1 << 21  # values from which on a table pays


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
    wrap
        Special tokens to write before and behind each cell; their count is 0.

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
        wrap: tuple[int, int] | None = None,
    ) -> None:
        from geneformer_grn.cells.rank_table import plain_table  # numba loads on first use only

        if threads < 1 or (longest is not None and longest < 1):
            raise ValueError(f"threads ({threads}) and longest ({longest}) must be at least 1")
        self._columns = describe_columns(np.asarray(column_tokens), np.asarray(medians, dtype=np.float64))
        self._table = plain_table(self._columns)
        self._largest = np.zeros(len(self._columns.tokens), dtype=np.int64)  # what the table is to hold
        self._n_seen = self._n_noted = 0
        self._threads, self._with_counts, self._undo_log = threads, with_counts, undo_log
        self._wrap = wrap or (-1, -1)
        self._longest = MOST_TOKENS if longest is None else min(longest, MOST_TOKENS)

    def rank(self, block: sparse.csr_matrix) -> RankedBlock:
        """Rank each row of a block, ``(n, n_columns)``, of any number type.

        Columns may be unsorted or stand twice (their values are summed), zeros may be stored. The block is
        left unchanged.

        Raises
        ------
        ValueError
            The block has another number of columns, or a column number outside of them.
        """
        check_width(block, self._columns)
        self._choose_table(block)
        ranges = list(row_ranges(block.indptr))
        rooms = [self._room(block, *rows) for rows in ranges]
        starts = np.cumsum([0, *rooms])
        out = self._new_output(block.shape[0], int(starts[-1]))

        def rank_range(rows: tuple[int, int], start: int, room: int) -> tuple[int, StoredValues]:
            return self._rank_range(block, *rows, out=_part(out, *rows, start=start, room=room))

        done = in_threads(self._threads, rank_range, ranges, starts[:-1].tolist(), rooms)
        n_written = [written for written, _ in done]
        for array in (out.tokens, out.counts) if self._with_counts else (out.tokens,):
            _close_gaps(array, starts[:-1].tolist(), n_written)
        offsets = np.zeros(block.shape[0] + 1, dtype=np.int64)
        before = np.cumsum([0, *n_written])
        for (first, last), shift in zip(ranges, before.tolist(), strict=False):
            offsets[first + 1 : last + 1] = out.ends[first:last] + shift
        return RankedBlock(
            tokens=out.tokens, offsets=offsets, lengths=out.lengths, totals=out.totals, known=out.known,
            values=merge_values([values for _, values in done]),
            counts=out.counts if self._with_counts else None,
        )  # fmt: skip

    def _room(self, block: sparse.csr_matrix, first: int, last: int) -> int:
        """Return how many tokens rows can have at most, and what is written behind them."""
        from geneformer_grn.cells.rank_kernels import SLACK

        lengths = np.diff(block.indptr[first : last + 1].astype(np.int64))
        n_around = sum(token >= 0 for token in self._wrap)
        return int((np.minimum(lengths, self._longest) + n_around).sum()) + SLACK

    def _new_output(self, n_rows: int, room: int) -> Ranked:
        from geneformer_grn.cells.rank_kernels import Ranked

        return Ranked(
            tokens=np.empty(room, dtype=np.uint16),
            counts=np.empty(room if self._with_counts else 0),
            ends=np.empty(n_rows, dtype=np.int64),
            lengths=np.empty(n_rows, dtype=np.int64),
            totals=np.empty(n_rows),
            known=np.empty(n_rows),
        )

    def _choose_table(self, block: sparse.csr_matrix) -> None:
        """Note which counts are usual, and build the table of small counts once enough came to pay for it."""
        from geneformer_grn.cells.rank_table import build_table, note_counts

        if self._undo_log or self._n_seen >= _TABLE_VALUES:
            return
        self._n_seen += block.nnz
        for first, last in row_ranges(block.indptr):
            if self._n_noted >= _NOTED_VALUES:
                break
            rows, _ = read_rows(block, first, last)
            note_counts(rows, self._columns, self._largest)
            self._n_noted += len(rows.data)
        if self._n_seen >= _TABLE_VALUES:
            self._table = build_table(self._largest, self._columns)

    def _rank_range(
        self, block: sparse.csr_matrix, first: int, last: int, *, out: Ranked
    ) -> tuple[int, StoredValues]:
        """Rank rows into `out`; return how many tokens were written."""
        from geneformer_grn.cells.rank_kernels import rank_rows

        rows, values = read_rows(block, first, last, undo_log=self._undo_log)
        rank_rows(rows, self._columns, self._table, self._longest, self._wrap, out)
        return int(out.ends[-1]), values


def _part(out: Ranked, first: int, last: int, *, start: int, room: int) -> Ranked:
    """Return the part of the output that belongs to a range of rows, as views."""
    from geneformer_grn.cells.rank_kernels import Ranked

    return Ranked(
        out.tokens[start : start + room], out.counts[start : start + room],
        *(array[first:last] for array in out[2:]),
    )  # fmt: skip


def _close_gaps(array: np.ndarray, starts: list[int], lengths: list[int]) -> None:
    """Move parts of an array that no other shares to its front, and shorten it, in place."""
    end = 0
    for start, length in zip(starts, lengths, strict=True):
        if start != end:
            array[end : end + length] = array[start : start + length]
        end += length
    array.resize(end, refcheck=False)
