"""What attention is due to where two genes stand in the ranking, whichever genes they are.

Position embeddings are absolute, and a head may simply read the front, or its neighbours. The expectation is
a table for each head: the mean of ``p × L`` over all pairs of different genes whose query lies in one bin of
positions and whose key lies in another. It is a regression on the two positions, and so on their distance,
that assumes no form. Bins hold about equally many genes, so that they are finer at the front, where every
cell has genes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from geneformer_grn.cells.packing import PackedBatch
from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.extraction.streaming import attention_slices, input_lengths, stream_cells
from geneformer_grn.model.encoder import Encoder
from geneformer_grn.perturbation.edits import InputLayout


class PositionExpectation:
    """The mean attention of every head between bins of positions; an `AttentionCapture` that collects it.

    Parameters
    ----------
    encoder
        Gives the device and the number of heads.
    heads
        (layer, head) pairs, without repetition.
    bin_of
        ``(max_length,)`` int64 bin of each position of an input.
    """

    def __init__(self, encoder: Encoder, heads: Sequence[tuple[int, int]], bin_of: np.ndarray) -> None:
        device = encoder.device
        n_bins = int(bin_of.max()) + 1
        self._layout = InputLayout.of(encoder.vocabulary)
        self._heads = {layer: sorted(h for other, h in heads if other == layer) for layer, _ in heads}
        self._bin_of = torch.from_numpy(bin_of).to(device)
        dtype = torch.float32 if device.type == "mps" else torch.float64
        n_heads = int(encoder.model.config.num_attention_heads)
        self._sums = torch.zeros((encoder.n_layers, n_heads, n_bins, n_bins), dtype=dtype, device=device)
        self._counts = torch.zeros((n_bins, n_bins), dtype=dtype, device=device)
        self._lengths: list[int] = []
        self._table: Tensor | None = None

    def begin(self, batch: PackedBatch) -> None:
        """Count the pairs of genes between bins in each cell of a batch."""
        self._lengths = batch.cu_seqlens.diff().tolist()
        for length in self._lengths:
            _, in_bin = self._genes(length)
            size = in_bin.sum(dim=0)
            self._counts += torch.outer(size, size) - torch.diag(size)
        self._table = None

    def add(self, layer_index: int, segment: int, query: Tensor, key: Tensor, scaling: float) -> None:
        """Add one cell's attention of one layer; ``(H, L, D)`` queries and keys."""
        heads = self._heads.get(layer_index)
        if heads is None:
            return
        genes, in_bin = self._genes(self._lengths[segment])
        for part, probabilities_hql in attention_slices(query[heads], key[heads], scaling, genes):
            read_hqk = probabilities_hql[:, :, genes] * self._lengths[segment]
            # a gene with itself is no pair
            read_hqk.diagonal(int(part.start), 1, 2).zero_()
            by_key = torch.matmul(read_hqk, in_bin.to(read_hqk.dtype)).to(self._sums.dtype)
            self._sums[layer_index, heads] += torch.matmul(in_bin[part].T, by_key)

    def expected(self, layer: int, heads: Sequence[int], queries: Tensor, keys: Tensor) -> Tensor:
        """Return the expected ``p × L``, float32 ``(h, q, k)``, for positions ``(q,)`` and ``(k,)``."""
        if self._table is None:
            self._table = self._means()
        by_query = self._table[layer, list(heads)][:, self._bin_of[queries]]
        return by_query[:, :, self._bin_of[keys]]

    def table(self) -> np.ndarray:
        """Return ``(layers, H, B, B)`` float64 means by query and key bin; 0 for heads not asked for."""
        return np.asarray((self._sums / self._counts.clamp(min=1)).cpu().double().numpy())

    def _means(self) -> Tensor:
        """Return the float32 table, with the head's own mean where no pair was seen."""
        overall = self._sums.sum(dim=(2, 3), keepdim=True) / self._counts.sum().clamp(min=1)
        means = torch.where(self._counts > 0, self._sums / self._counts.clamp(min=1), overall)
        return means.clamp(min=torch.finfo(torch.float32).tiny).float()

    def _genes(self, length: int) -> tuple[Tensor, Tensor]:
        """Return the positions ``(n,)`` of a cell's genes, and their bins as ``(n, B)`` of 0 and 1."""
        genes = torch.from_numpy(self._layout.genes(length)).to(self._bin_of.device)
        one_hot = torch.nn.functional.one_hot(self._bin_of[genes], len(self._counts))
        return genes, one_hot.to(self._sums.dtype)


def position_bins(ranked: RankedCells, cells: np.ndarray, encoder: Encoder, n_bins: int) -> np.ndarray:
    """Return the bin of each input position, ``(max_length,)`` int64: about equally many genes in each.

    Parameters
    ----------
    ranked, cells
        Cells whose lengths say how many genes stand at each position.
    encoder
        Says how inputs are laid out.
    n_bins
        Most bins; fewer where there are fewer positions.
    """
    layout = InputLayout.of(encoder.vocabulary)
    lengths = input_lengths(ranked, cells, encoder.vocabulary)
    ends = np.bincount(np.maximum(lengths - layout.n_back, 0), minlength=layout.max_length + 1)
    reaching = len(lengths) - np.cumsum(ends)[: layout.max_length]  # cells with a gene at each position
    reaching[: layout.n_front] = 0
    before = np.cumsum(reaching) - reaching
    bins = before * n_bins // max(int(reaching.sum()), 1)
    return np.minimum(np.unique(bins, return_inverse=True)[1], n_bins - 1).astype(np.int64)


def position_expectation(
    encoder: Encoder,
    ranked: RankedCells,
    cells: np.ndarray,
    heads: Sequence[tuple[int, int]],
    *,
    n_bins: int,
    n_cells: int,
    token_budget: int,
) -> PositionExpectation:
    """Return what the positions of two genes predict of the attention between them.

    Parameters
    ----------
    encoder, ranked
        As in `geneformer_grn.extraction.attention.attention_edges`.
    cells
        ``(n,)`` int rows.
    heads
        (layer, head) pairs to look at.
    n_bins
        Bins of positions.
    n_cells
        Cells that are looked at, taken evenly from `cells`.
    token_budget
        Most tokens in one packed batch.
    """
    cells = cells[ranked.lengths[cells] > 0]
    bin_of = position_bins(ranked, cells, encoder, n_bins)
    some = cells[np.unique(np.linspace(0, len(cells) - 1, min(n_cells, len(cells))).astype(np.int64))]
    expectation = PositionExpectation(encoder, heads, bin_of)
    stream_cells(
        encoder, ranked, some, expectation,
        n_layers=max(layer for layer, _ in heads) + 1, token_budget=token_budget, what="positions",
    )  # fmt: skip
    return expectation
