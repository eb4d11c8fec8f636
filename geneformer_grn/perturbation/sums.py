"""Sums over cells for every (perturbation, affected gene) pair.

Means and spreads over cells are taken at the very end. Until then a run keeps only sums, which add over its
parts however it was cut, so that memory grows with the pairs that occur and not with the cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from geneformer_grn.genes.vocabulary import GeneVocabulary

_LEAST_BUFFER = 1 << 20  # values that are held before they are merged


class PairSums:
    """Running sums over cells of values of (request, affected gene) pairs.

    New values are buffered, and merged into one sorted table whenever the buffer outgrows it.

    Parameters
    ----------
    n_tokens
        Size of the vocabulary.
    columns
        Names of the values.

    Examples
    --------
    >>> sums = PairSums(100, ["shift"])
    >>> sums.add(np.array([0, 0, 0]), np.array([7, 9, 7]), np.array([[1.0], [2.0], [3.0]]))
    >>> sums.frame().to_dict("list")
    {'request': [0, 0], 'affected': [7, 9], 'n_cells': [2, 1], 'shift': [4.0, 2.0]}
    """

    def __init__(self, n_tokens: int, columns: Sequence[str]) -> None:
        self._n_tokens = n_tokens
        self._columns = tuple(columns)
        self._pairs = np.empty(0, dtype=np.int64)
        self._counts = np.empty(0, dtype=np.int64)
        self._totals = np.empty((0, len(self._columns)))
        self._buffer: list[tuple[np.ndarray, np.ndarray]] = []
        self._buffered = 0

    def add(self, request: np.ndarray, affected: np.ndarray, values: np.ndarray) -> None:
        """Take numbers of requests ``(K,)``, affected tokens ``(K,)`` and their values ``(K, c)`` float64."""
        self._buffer.append((request.astype(np.int64) * self._n_tokens + affected, values))
        self._buffered += len(values)
        if self._buffered > max(len(self._pairs), _LEAST_BUFFER):
            self._merge()

    def frame(self) -> pd.DataFrame:
        """Return ``request`` int64, ``affected`` int32, ``n_cells`` int64 and the sums, sorted by pair."""
        self._merge()
        request, affected = np.divmod(self._pairs, self._n_tokens)
        keys = {"request": request, "affected": affected.astype(np.int32), "n_cells": self._counts}
        return pd.DataFrame(keys | dict(zip(self._columns, self._totals.T.copy(), strict=True)))

    def _merge(self) -> None:
        if not self._buffer:
            return
        pairs = np.concatenate([self._pairs, *(pairs for pairs, _ in self._buffer)])
        counts = np.concatenate([self._counts, np.ones(self._buffered, dtype=np.int64)])
        values = np.concatenate([self._totals, *(values for _, values in self._buffer)])
        order = np.argsort(pairs, kind="stable")
        pairs = pairs[order]
        (first,) = np.nonzero(np.diff(pairs, prepend=-1))
        self._pairs = pairs[first]
        self._counts = np.add.reduceat(counts[order], first)
        self._totals = np.add.reduceat(values[order], first, axis=0)
        self._buffer, self._buffered = [], 0


def pair_columns(
    sums: pd.DataFrame, names: np.ndarray, kinds: np.ndarray, groups: np.ndarray, vocabulary: GeneVocabulary
) -> dict[str, np.ndarray]:
    """Return what the rows of `sums` are about: the columns ``gene``, ``affected``, ``kind`` and ``group``.

    Parameters
    ----------
    sums
        With ``request`` and ``affected``.
    names, kinds, groups
        ``(n,)`` str: name of the gene set, kind and cell group of each request.
    vocabulary
        What the affected tokens mean.
    """
    request = sums["request"].to_numpy()
    return {
        "gene": names[request],
        "affected": vocabulary.ensembl_ids[sums["affected"].to_numpy()],
        "kind": kinds[request],
        "group": groups[request],
    }


def mean_and_sd(sums: pd.DataFrame, column: str, *, count: str = "n_cells") -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation over cells of `column`, given its sum and the sum of its squares.

    The deviation is that of the cells themselves (divided by n). Both are NaN where nothing was counted.
    """
    n = sums[count].to_numpy(dtype=np.float64)
    nothing = np.full(len(sums), np.nan)
    mean = np.divide(sums[column].to_numpy(), n, out=nothing.copy(), where=n > 0)
    square = np.divide(sums[f"{column}_squared"].to_numpy(), n, out=nothing, where=n > 0)
    return mean, np.sqrt(np.maximum(square - mean**2, 0.0))
