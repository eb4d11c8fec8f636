"""Rank-value encoding: a cell is the list of its genes, ordered by count over the gene's non-zero median.

Method of Geneformer (Theodoris et al., Nature 2023). The order of ``count / n_counts * target_sum / median``
within a cell is that of ``count / median``, which is what is sorted, in float64: float32 swaps genes that are
not tied. Ties come in ascending token id, so that a ranking is one thing on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from geneformer_grn.cells.ranker import Ranker
from geneformer_grn.genes.vocabulary import GeneVocabulary

if TYPE_CHECKING:
    from geneformer_grn.cells.counts import CellCounts


@dataclass(frozen=True)
class RankedCells:
    """Cells as ranked genes: untruncated, without special tokens.

    Parameters
    ----------
    tokens
        ``(nnz,)`` uint16, cell after cell, highest rank first.
    offsets
        ``(n+1,)`` int64; cell ``i`` is ``tokens[offsets[i]:offsets[i + 1]]``.
    n_counts
        ``(n,)`` float64 total counts of each cell.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    n_counts: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """``(n,)`` int64 number of genes in each cell."""
        return np.diff(self.offsets)

    def cell(self, index: int) -> np.ndarray:
        """Return the ``(L,)`` uint16 tokens of one cell, a view."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    def cropped(self, room: int) -> RankedCells:
        """Return the first `room` genes of every cell."""
        lengths = self.lengths
        place = np.arange(len(self.tokens)) - np.repeat(self.offsets[:-1], lengths)
        offsets = np.concatenate([[0], np.cumsum(np.minimum(lengths, room))]).astype(np.int64)
        return RankedCells(tokens=self.tokens[place < room], offsets=offsets, n_counts=self.n_counts)


def rank_cells(counts: CellCounts, vocabulary: GeneVocabulary) -> RankedCells:
    """Rank the genes of each cell by ``float64(count) / float64(median)``; ties by ascending token id.

    Parameters
    ----------
    counts
        Checked counts over the vocabulary's genes, as :func:`geneformer_grn.cells.counts.read_counts` gives
        them.
    vocabulary
        The vocabulary they were read with.

    Returns
    -------
    RankedCells
        The same cells in the same order.

    Examples
    --------
    >>> ranked = rank_cells(read_counts("cells.h5ad", vocabulary), vocabulary)  # doctest: +SKIP
    >>> vocabulary.symbols[ranked.cell(0)[:3]]  # doctest: +SKIP
    array(['CD79A', 'MS4A1', 'CD74'], dtype=object)
    """
    ranked = Ranker(counts.column_tokens, vocabulary.medians).rank(counts.matrix)
    return RankedCells(tokens=ranked.tokens, offsets=ranked.offsets, n_counts=counts.n_counts)


def model_input(
    tokens: np.ndarray, vocabulary: GeneVocabulary, *, max_length: int | None = None
) -> np.ndarray:
    """Return what the model reads of a ranked cell: cropped, with the setting's special tokens around it.

    Parameters
    ----------
    tokens
        ``(L,)`` ranked gene tokens without specials.
    vocabulary
        Says which special tokens there are (v1: none; v2 and default: ``<cls>`` in front, ``<eos>`` behind).
    max_length
        Longest input, specials included; default the vocabulary's.

    Returns
    -------
    numpy.ndarray
        ``(l,)`` int64, l <= `max_length`; ``<eos>`` survives the crop.

    Raises
    ------
    ValueError
        `max_length` leaves no room for a gene.
    """
    room = _room(vocabulary, max_length)
    genes = np.asarray(tokens[:room], dtype=np.int64)
    if vocabulary.n_wrapping == 0:
        return genes
    return np.concatenate([[vocabulary.token_of["<cls>"]], genes, [vocabulary.token_of["<eos>"]]])


def _room(vocabulary: GeneVocabulary, max_length: int | None) -> int:
    """Return how many genes an input holds."""
    longest = vocabulary.max_length if max_length is None else max_length
    room = longest - vocabulary.n_wrapping
    if room < 1:
        raise ValueError(f"a model input of {longest} tokens holds no gene beside the special tokens")
    return room
