"""Compiled kernels that find the same cell in two files: signatures of counts, counts compared."""

from __future__ import annotations

import numba
import numpy as np

N_BANDS = 16
"""Genes are dealt into so many bands; two cells are compared where one whole band agrees."""


@numba.njit(cache=True, inline="always")
def _mixed(value: np.uint64) -> np.uint64:
    """Scramble 64 bits (the finalizer of splitmix64), so that sums of them do not collide."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@numba.njit(cache=True, parallel=True)
def signatures(
    indptr: np.ndarray, genes: np.ndarray, counts: np.ndarray, shared: np.ndarray, least: int
) -> np.ndarray:
    """Return ``(n, N_BANDS)`` uint64: a sum over the band's (gene, count) pairs; 0 where it holds too few.

    Parameters
    ----------
    indptr, genes, counts
        Cells in CSR; ``counts`` float64, in any order of genes.
    shared
        ``(V,)`` bool: the genes that both files measured; all others are passed over.
    least
        Genes with counts that a band needs.
    """
    n_cells = len(indptr) - 1
    table = np.zeros((n_cells, N_BANDS), dtype=np.uint64)
    for cell in numba.prange(n_cells):
        held = np.zeros(N_BANDS, dtype=np.int64)
        for place in range(indptr[cell], indptr[cell + 1]):
            gene = genes[place]
            if shared[gene] and counts[place] > 0:
                key = _mixed(np.uint64(gene) + np.uint64(0x9E3779B97F4A7C15))
                band = np.int64(key % np.uint64(N_BANDS))
                held[band] += 1
                table[cell, band] += _mixed(key ^ _mixed(np.uint64(counts[place] * 16.0)))
        for place in range(N_BANDS):
            if held[place] < least:
                table[cell, place] = np.uint64(0)
    return table


@numba.njit(cache=True, parallel=True)
def compared(
    pairs: np.ndarray, indptr_a: np.ndarray, genes_a: np.ndarray, counts_a: np.ndarray,
    indptr_b: np.ndarray, genes_b: np.ndarray, counts_b: np.ndarray, shared: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return for each pair of cells the shared genes that either expresses, and how many have equal counts.

    Parameters
    ----------
    pairs
        ``(k, 2)`` int64 cells of a and of b.
    indptr_a, genes_a, counts_a, indptr_b, genes_b, counts_b
        Cells in CSR, genes ascending within a cell.
    shared
        ``(V,)`` bool: genes that both files measured.
    """
    n_pairs = len(pairs)
    either, equal = np.zeros(n_pairs, dtype=np.int64), np.zeros(n_pairs, dtype=np.int64)
    for pair in numba.prange(n_pairs):
        a, b = int(indptr_a[pairs[pair, 0]]), int(indptr_b[pairs[pair, 1]])
        end_a, end_b = indptr_a[pairs[pair, 0] + 1], indptr_b[pairs[pair, 1] + 1]
        while a < end_a or b < end_b:
            if b == end_b or (a < end_a and genes_a[a] < genes_b[b]):
                either[pair] += shared[genes_a[a]] and counts_a[a] > 0
                a += 1
            elif a == end_a or genes_b[b] < genes_a[a]:
                either[pair] += shared[genes_b[b]] and counts_b[b] > 0
                b += 1
            else:
                if shared[genes_a[a]] and (counts_a[a] > 0 or counts_b[b] > 0):
                    either[pair] += 1
                    equal[pair] += counts_a[a] == counts_b[b]
                a += 1
                b += 1
    return either, equal
