"""Exact non-zero medians of more values than memory holds.

Medians are exact and not sketched: the order of a cell's genes hangs on their last bits. Few values (30 M by
default: 240 MB) are collected and sorted. More are counted, pass after pass over the files, as a radix sort
would: positive doubles order as their bits do, so a histogram over a range of bit patterns says in which bin
a gene's middle values lie, and the next pass divides that bin. Once few enough values are left in the bins of
all genes, one last pass collects these; at the latest all 64 bits are known. What comes out has the bits of
``numpy.median`` over all values: the bound on the error is 0. Histograms of files add up in any order and are
whole numbers, so files may be counted on any number of machines. The price is that files are read several
times; the memory of a pass is bounded by that of its bins (400 MB) or of its values (16 bytes each).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from geneformer_grn.cells.median_kernels import Tracks

MOST_VALUES = 30_000_000  # collected at once; a file's own part takes as much again while it is read
_HISTOGRAM_BYTES = 400_000_000
_MOST_BITS = 11

# The first pass has four bins for every power of two from 2^-32 to 2^32; the outermost hold all beyond.
_FIRST_LOW, _FIRST_SHIFT, _FIRST_BITS = np.uint64((1023 - 32) << 52), 50, 8
_INFINITY = np.uint64(0x7FF0000000000000)

Kind = Literal["count", "refine", "collect"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Search:
    """What one pass over the files asks of every value, and what earlier passes found.

    A *track* is a range of bit patterns of one gene's values in which one of its middle values lies, or both.

    Parameters
    ----------
    kind
        ``count`` (first pass), ``refine`` or ``collect``.
    n
        ``(n_genes,)`` int64 values of each gene; 0 where not known yet, or where the gene is left out.
    found
        ``(n_genes, 2)`` uint64 bits of the lower and the upper middle value; 0 where not known yet.
    track_of
        ``(n_genes, 2)`` int32 track of the lower and of the upper middle value; -1: none. The second is -1,
        too, where both are in the first.
    low, high
        ``(T,)`` uint64, the ends of the tracks, both included.
    below
        ``(T,)`` int64, values of the gene that are smaller than `low`.
    """

    kind: Kind
    n: np.ndarray
    found: np.ndarray
    track_of: np.ndarray
    low: np.ndarray
    high: np.ndarray
    below: np.ndarray

    @property
    def n_tracks(self) -> int:
        """Number of tracks."""
        return len(self.low)

    @property
    def bits(self) -> int:
        """Logarithm of the bins of a track; chosen so that all bins fit in 400 MB (12 bytes each)."""
        if self.kind == "count":
            return _FIRST_BITS
        return max(1, min(_MOST_BITS, int(np.log2(_HISTOGRAM_BYTES / 12 / max(self.n_tracks, 1)))))

    @property
    def shift(self) -> np.ndarray:
        """``(T,)`` uint64: bin = (bits of the value - low) >> shift."""
        if self.kind == "count":
            return np.full(self.n_tracks, _FIRST_SHIFT, dtype=np.uint64)
        span, shift = self.high - self.low, np.zeros(self.n_tracks, dtype=np.uint64)
        while len(wide := np.flatnonzero((span >> shift) >> np.uint64(self.bits))):
            shift[wide] += np.uint64(1)
        return shift

    @property
    def is_done(self) -> bool:
        """Whether every median is known."""
        return self.kind != "count" and self.n_tracks == 0

    def medians(self) -> np.ndarray:
        """Return the medians of a finished search, ``(n_genes,)`` float64; NaN for genes without values."""
        lower, upper = self.found.view(np.float64).T
        with np.errstate(invalid="ignore"):
            middle = np.where(self.n % 2 == 1, lower, (lower + upper) / 2)
        return np.where(self.n > 0, middle, np.nan)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return everything as arrays, for ``numpy.savez``."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Search:
        """Return what :meth:`arrays` came from."""
        values = {field.name: arrays[field.name] for field in fields(cls)}
        return cls(**{**values, "kind": str(values["kind"])})  # type: ignore[arg-type]


class Answer(Protocol):
    """What :meth:`Tally.arrays` returns, in memory or in a file."""

    def __getitem__(self, name: str, /) -> np.ndarray: ...


def new_search(n_genes: int, *, collect: bool) -> Search:
    """Return the first pass's question: collect all values, or count them."""
    one_each = np.full((n_genes, 2), -1, dtype=np.int32)
    one_each[:, 0] = np.arange(n_genes)
    return Search(
        kind="collect" if collect else "count",
        n=np.zeros(n_genes, dtype=np.int64), found=np.zeros((n_genes, 2), dtype=np.uint64), track_of=one_each,
        low=np.full(n_genes, 0 if collect else _FIRST_LOW, dtype=np.uint64),
        high=np.full(n_genes, _INFINITY, dtype=np.uint64), below=np.zeros(n_genes, dtype=np.int64),
    )  # fmt: skip


class Tally:
    """The answer to a search of some blocks of cells, in the memory that one pass may take.

    Parameters
    ----------
    search
        The question.
    target_sum
        Counts that a cell is scaled to: values are ``count / n_counts * target_sum`` in float64.
    """

    def __init__(self, search: Search, target_sum: float) -> None:
        self._search, self._target_sum = search, float(target_sum)
        self._bits, self._tracks = search.bits, _tracks(search)
        collect = search.kind == "collect"
        self._histogram = np.zeros(0 if collect else search.n_tracks << self._bits, dtype=np.uint32)
        self._collected: list[dict[str, np.ndarray]] = []

    def add(self, matrix: sparse.csr_matrix, n_counts: np.ndarray, genes: np.ndarray) -> None:
        """Add a block of cells.

        Parameters
        ----------
        matrix
            ``(n, n_columns)`` csr, counts of one gene a column; stored zeros are no values.
        n_counts
            ``(n,)`` total counts of each cell.
        genes
            ``(n_columns,)`` int; which gene each column is, no gene twice.

        Raises
        ------
        ValueError
            A cell with counts has no positive total, or a gene has two columns.
        """
        genes = np.asarray(genes, dtype=np.int32)
        n_counts = np.asarray(n_counts, dtype=np.float64)
        if len(np.unique(genes)) != len(genes):
            raise ValueError("two columns hold the same gene; add them up before taking medians")
        if n_wrong := int((~(n_counts > 0) & (np.diff(matrix.indptr) > 0)).sum()):
            raise ValueError(f"{n_wrong} cells have no positive total count")
        from geneformer_grn.cells.median_kernels import (  # numba, on first use
            Cells,
            collect_values,
            count_values,
        )

        indptr = matrix.indptr.astype(np.int64)
        cells = Cells(matrix.data, matrix.indices, indptr, n_counts, self._target_sum, genes)
        search, tracks = self._search, self._tracks
        if search.kind != "collect":
            count_values(cells, tracks, self._bits, search.kind == "count", self._histogram)
            return
        lengths = np.zeros(search.n_tracks, dtype=np.uint32)
        collect_values(cells, tracks, lengths, np.empty(0, dtype=np.int64), np.empty(0))
        values = np.empty(int(lengths.sum()))
        collect_values(cells, tracks, lengths, _starts(lengths)[:-1], values)
        self._collected.append({"values": values, "lengths": lengths})

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the answer as arrays, for ``numpy.savez``."""
        if self._search.kind != "collect":
            places = np.flatnonzero(self._histogram)
            return {"places": places.astype(np.int64), "counts": self._histogram[places]}
        values, lengths = _join_collected(self._search, self._collected)
        return {"values": values, "lengths": lengths}


def next_search(
    search: Search,
    answers: Sequence[Answer],
    *,
    most_values: int = MOST_VALUES,
    keep: np.ndarray | None = None,
) -> Search:
    """Return what the next pass asks, given the answers of all files to this one.

    Parameters
    ----------
    search
        This pass's question.
    answers
        The :meth:`Tally.arrays` of every file, in any order; each array may be loaded when asked for.
    most_values
        Collect the values that are left once there are no more than this.
    keep
        ``(n_genes,)`` bool, the genes to go on with; None: all.

    Raises
    ------
    ValueError
        The answers do not belong to the question.
    """
    if search.kind == "collect":
        return _search_collected(search, answers)
    from geneformer_grn.cells.median_kernels import Middles, find_bins

    counts = np.zeros(search.n_tracks << search.bits, dtype=np.int64)
    for answer in answers:
        counts[answer["places"]] += answer["counts"]
    bins = counts.reshape(search.n_tracks, 1 << search.bits)
    n = bins.sum(axis=1) if search.kind == "count" else search.n
    if keep is not None:
        n = np.where(keep, n, 0)
    low, high = np.zeros((2, len(n), 2), dtype=np.uint64)
    below, inside = np.zeros((2, len(n), 2), dtype=np.int64)
    middles = Middles(low, high, below, inside)
    if not find_bins(bins, n, search.found, _tracks(search), search.kind == "count", middles):
        raise ValueError("the counts of this pass do not add up to those of the first; start again")
    found = np.where((search.found == 0) & (low == high), low, search.found)
    missing = (found == 0) & (n > 0)[:, None]
    shared = missing.all(axis=1) & (low[:, 0] == low[:, 1])
    own = missing & ~np.stack([np.zeros_like(shared), shared], axis=1)
    # An upper middle value whose lower one is known has its track in the second place, and none in the first.
    track_of = np.full((len(n), 2), -1, dtype=np.int32)
    track_of[own] = np.arange(int(own.sum()))
    return Search(
        kind="collect" if int(inside[own].sum()) <= most_values else "refine",
        n=n, found=found, track_of=track_of, low=low[own], high=high[own], below=below[own],
    )  # fmt: skip


def _search_collected(search: Search, answers: Sequence[Answer]) -> Search:
    """Return the finished search, with the middle values among those that were collected."""
    values, lengths = _join_collected(search, answers)
    starts = _starts(lengths)
    direct = not search.n.any()
    n = lengths.astype(np.int64) if direct else search.n
    found = search.found.copy()
    for gene in np.flatnonzero((n > 0) & (found == 0).any(axis=1)):
        for which, rank in enumerate(((n[gene] - 1) // 2, n[gene] // 2)):
            track = search.track_of[gene, which]
            if found[gene, which]:
                continue
            track = track if track >= 0 else search.track_of[gene, 0]
            inside = values[starts[track] : starts[track + 1]]
            rank -= search.below[track]
            if not 0 <= rank < len(inside):
                raise ValueError("the values of the last pass do not add up to those counted; start again")
            inside.partition(rank)
            found[gene, which] = inside[rank : rank + 1].view(np.uint64)[0]
    none = np.empty(0, dtype=np.uint64)
    return Search(
        kind="collect", n=n, found=found, track_of=np.full_like(search.track_of, -1), low=none, high=none,
        below=np.empty(0, dtype=np.int64),
    )  # fmt: skip


def _join_collected(search: Search, parts: Sequence[Answer]) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of several parts, track after track, and how many each track has."""
    from geneformer_grn.cells.median_kernels import place_values

    lengths = np.zeros(search.n_tracks, dtype=np.uint32)
    for part in parts:
        lengths += part["lengths"]
    values, cursor = np.empty(int(lengths.sum(dtype=np.int64))), _starts(lengths)[:-1].copy()
    for part in parts:
        place_values(part["values"], part["lengths"], cursor, values)
    return values, lengths


def _tracks(search: Search) -> Tracks:
    from geneformer_grn.cells.median_kernels import Tracks

    shift = np.empty(0, dtype=np.uint64) if search.kind == "collect" else search.shift
    return Tracks(search.track_of, search.low, search.high, search.below, shift)


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
