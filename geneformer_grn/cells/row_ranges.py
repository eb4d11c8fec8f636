"""Blocks of a count file cut into ranges of rows, for threads, in the number types of the compiled passes.

Ranges are small enough that what is converted of them stays in a processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from geneformer_grn.cells.row_kernels import Columns, Rows

FLOAT32_WHOLE = 2**24  # the largest whole number up to which float32 skips none
MOST_TOKENS = 1 << 16  # of a vocabulary, and so of a cell
_RANGE_VALUES = 1 << 18  # values a thread takes at a time


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


def describe_columns(column_tokens: np.ndarray, medians: np.ndarray) -> Columns:
    """Check what columns mean, and note which share a token."""
    from geneformer_grn.cells.row_kernels import Columns

    known = np.flatnonzero(column_tokens >= 0)
    tokens = column_tokens[known]
    if len(medians) > MOST_TOKENS or (len(tokens) and int(tokens.max()) >= len(medians)):
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


def check_width(block: sparse.csr_matrix, columns: Columns) -> None:
    """Refuse a block that has not one column for each meaning."""
    if block.shape[1] != len(columns.tokens):
        raise ValueError(
            f"a block of {block.shape[1]:,} columns was given, but {len(columns.tokens):,} have a meaning"
        )


def row_ranges(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield (first, last) rows of ranges of about 2^18 values, of one row at least."""
    first, n_rows = 0, len(offsets) - 1
    while first < n_rows:
        last = int(np.searchsorted(offsets, offsets[first] + _RANGE_VALUES, side="right")) - 1
        last = min(max(last, first + 1), n_rows)
        yield first, last
        first = last


def read_rows(
    block: sparse.csr_matrix, first: int, last: int, *, undo_log: bool = False
) -> tuple[Rows, StoredValues]:
    """Return a range of rows in the number types that the passes know, and what its values are.

    Raises
    ------
    ValueError
        Rows overlap, or values are missing.
    """
    from geneformer_grn.cells.row_kernels import Rows

    start, stop = int(block.indptr[first]), int(block.indptr[last])
    offsets = block.indptr[first : last + 1].astype(np.int64) - start
    data = np.ascontiguousarray(_as_float(block.data[start:stop]))
    if (np.diff(offsets) < 0).any() or len(data) != stop - start:
        raise ValueError(f"rows {first} to {last} of the matrix do not follow each other; it is damaged")
    summary = _stored_values(data)
    if undo_log:
        with np.errstate(invalid="ignore", over="ignore"):
            data = np.expm1(data, dtype=np.float64)
    rows = Rows(
        data=data,
        indices=np.ascontiguousarray(block.indices[start:stop], dtype=np.int32),
        offsets=offsets,
    )
    return rows, summary


def _as_float(values: np.ndarray) -> np.ndarray:
    """Return values as float32 where that is exact, else as float64; without a copy where they are."""
    if values.dtype.kind == "f":
        narrow = values.dtype.itemsize <= 4
    else:
        low, high = int(values.min(initial=0)), int(values.max(initial=0))
        narrow = values.dtype.itemsize <= 2 or max(-low, high) <= FLOAT32_WHOLE
    return values.astype(np.float32 if narrow else np.float64, copy=False)


def _stored_values(data: np.ndarray) -> StoredValues:
    """Return what values, float32 or float64, are."""
    from geneformer_grn.cells.row_kernels import inspect

    if len(data) == 0:
        return StoredValues(minimum=0.0, maximum=0.0, n_not_finite=0, first_fraction=None)
    bits = np.uint32 if data.dtype == np.float32 else np.uint64
    low, high, n_fractions = inspect(data, data.view(bits))
    if not n_fractions and high < np.array(np.inf, dtype=data.dtype).view(bits):
        minimum, maximum = (float(np.array(end, dtype=bits).view(data.dtype)) for end in (low, high))
        return StoredValues(minimum=minimum, maximum=maximum, n_not_finite=0, first_fraction=None)
    finite = np.isfinite(data)
    broken = np.flatnonzero(finite & (data != np.floor(data)))
    return StoredValues(
        minimum=float(np.fmin.reduce(data)),
        maximum=float(np.fmax.reduce(data)),
        n_not_finite=int(len(data) - np.count_nonzero(finite)),
        first_fraction=float(data[broken[0]]) if len(broken) else None,
    )


def merge_values(summaries: list[StoredValues]) -> StoredValues:
    """Return what the values of several ranges, in order, are together."""
    fractions = [one.first_fraction for one in summaries if one.first_fraction is not None]
    return StoredValues(
        minimum=min((one.minimum for one in summaries), default=0.0),
        maximum=max((one.maximum for one in summaries), default=0.0),
        n_not_finite=sum(one.n_not_finite for one in summaries),
        first_fraction=fractions[0] if fractions else None,
    )


def in_threads(threads: int, work: Callable[..., Any], *arguments: list[Any]) -> list[Any]:
    """Do `work` for each of the arguments, in order."""
    if threads == 1 or len(arguments[0]) < 2:
        return list(map(work, *arguments))
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, *arguments))
