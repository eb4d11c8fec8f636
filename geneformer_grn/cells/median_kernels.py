"""The compiled passes of the exact medians: from rows of counts to bins or values of each gene's tracks.

All of them work on the bits of ``float64(count) / n_counts * target_sum``, computed in this order, so that
they equal what NumPy computes of the same arrays. A track is a range of bits of one gene, see ``medians.py``.
"""

# ruff: noqa: ANN001, ANN202

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from geneformer_grn.cells.radix import compiled

_INFINITY = np.uint64(0x7FF0000000000000)
_NONE, _ONE = np.uint64(0), np.uint64(1)


class Cells(NamedTuple):
    """A block of cells: csr counts, ``(n,)`` float64 totals, what they are scaled to, each column's gene."""

    data: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray
    n_counts: np.ndarray
    target_sum: float
    genes: np.ndarray


class Tracks(NamedTuple):
    """The tracks of a ``Search``, by the names there; `shift` is empty where values are collected."""

    track_of: np.ndarray
    low: np.ndarray
    high: np.ndarray
    below: np.ndarray
    shift: np.ndarray


class Middles(NamedTuple):
    """Where the middle values lie, ``(n_genes, 2)`` each: ends, smaller values, and values `inside`."""

    low: np.ndarray
    high: np.ndarray
    below: np.ndarray
    inside: np.ndarray


def _count_values(cells, tracks, bits, clamp, histogram):  # type: ignore[no-untyped-def]
    """Count every value in the bins of its gene's tracks; `clamp`: what is outside goes to the outermost."""
    last = (_ONE << np.uint64(bits)) - _ONE
    for row in range(len(cells.indptr) - 1):
        total = cells.n_counts[row]
        for index in range(cells.indptr[row], cells.indptr[row + 1]):
            key = np.float64(np.float64(cells.data[index]) / total * cells.target_sum).view(np.uint64)
            if key == _NONE:
                continue
            gene = cells.genes[cells.indices[index]]
            for which in range(2):
                track = tracks.track_of[gene, which]
                if track < 0:
                    continue
                if key < tracks.low[track]:
                    if not clamp:
                        continue
                    place = _NONE
                elif key > tracks.high[track] and not clamp:
                    continue
                else:
                    place = min((key - tracks.low[track]) >> tracks.shift[track], last)
                histogram[(np.int64(track) << bits) + np.int64(place)] += np.uint32(1)


count_values = compiled(_count_values)


def _collect_values(cells, tracks, lengths, cursor, values):  # type: ignore[no-untyped-def]
    """Count the values inside of each track into `lengths`, or with a `cursor` put them there in `values`."""
    placing = len(cursor) > 0
    for row in range(len(cells.indptr) - 1):
        total = cells.n_counts[row]
        for index in range(cells.indptr[row], cells.indptr[row + 1]):
            value = np.float64(cells.data[index]) / total * cells.target_sum
            key = np.float64(value).view(np.uint64)
            if key == _NONE:
                continue
            gene = cells.genes[cells.indices[index]]
            for which in range(2):
                track = tracks.track_of[gene, which]
                if track < 0 or key < tracks.low[track] or key > tracks.high[track]:
                    continue
                if placing:
                    values[cursor[track]] = value
                    cursor[track] += 1
                else:
                    lengths[track] += np.uint32(1)


collect_values = compiled(_collect_values)


def _place_values(part, lengths, cursor, values):  # type: ignore[no-untyped-def]
    """Put a part's values, track after track, behind those of the parts before."""
    start = 0
    for track in range(len(lengths)):
        for index in range(start, start + np.int64(lengths[track])):
            values[cursor[track]] = part[index]
            cursor[track] += 1
        start += np.int64(lengths[track])  # type: ignore[assignment]


place_values = compiled(_place_values)


def _find_bins(bins, n, found, tracks, clamp, middles):  # type: ignore[no-untyped-def]
    """Find the bin of each middle value that is not known yet; return False where the bins hold too few."""
    last = bins.shape[1] - 1
    for gene in range(len(n)):
        if n[gene] == 0:
            continue
        for which in range(2):
            if found[gene, which] != _NONE:
                continue
            track = tracks.track_of[gene, which]
            if track < 0:
                track = tracks.track_of[gene, 0]
            rank = (n[gene] - 1 + which) // 2 - tracks.below[track]
            before, place = 0, 0
            while place < last and before + bins[track, place] <= rank:
                before += bins[track, place]
                place += 1
            if rank < 0 or before + bins[track, place] <= rank:
                return False
            start = tracks.low[track] + (np.uint64(place) << tracks.shift[track])
            middles.low[gene, which] = start
            middles.high[gene, which] = min(start + (_ONE << tracks.shift[track]) - _ONE, tracks.high[track])
            if clamp and place == 0:
                middles.low[gene, which] = _NONE
            if clamp and place == last:
                middles.high[gene, which] = _INFINITY
            middles.below[gene, which] = tracks.below[track] + before
            middles.inside[gene, which] = bins[track, place]
    return True


find_bins = compiled(_find_bins)
