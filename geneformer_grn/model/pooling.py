"""One state per packed cell out of those of its tokens; there is no padding, specials do not count."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from geneformer_grn.cells.packing import PackedBatch

Pooling = Literal["cls", "mean", "attention"]


def pool_cls(states: Tensor, batch: PackedBatch) -> Tensor:
    """Return each cell's first state ``(N, d)``, that of ``<cls>``, out of states ``(T, d)``."""
    return states[batch.cu_seqlens[:-1].long()]


def pool_mean(states: Tensor, batch: PackedBatch, n_special: int) -> Tensor:
    """Return each cell's mean state ``(N, d)`` over its genes, out of states ``(T, d)``.

    Parameters
    ----------
    states
        ``(T, d)``.
    batch
        Packed cells, on the device of `states`.
    n_special
        Token ids below this one are special and left out.

    Returns
    -------
    Tensor
        ``(N, d)``; NaN for a cell without genes.
    """
    genes, cell_of = _genes(batch, n_special)
    n_cells = len(batch.cell_index)
    sums = states.new_zeros((n_cells, states.shape[1])).index_add(0, cell_of, states[genes])
    return sums / torch.bincount(cell_of, minlength=n_cells).unsqueeze(1)


def pool_attention(states: Tensor, scores: Tensor, batch: PackedBatch, n_special: int) -> Tensor:
    """Return each cell's mean state ``(N, d)`` over its genes, weighted by the softmax of `scores` ``(T,)``.

    The other parameters are those of `pool_mean`.
    """
    genes, cell_of = _genes(batch, n_special)
    n_cells = len(batch.cell_index)
    chosen = scores[genes]
    highest = chosen.new_full((n_cells,), -torch.inf)
    highest = highest.scatter_reduce(0, cell_of, chosen.detach(), "amax")
    weights = (chosen - highest[cell_of]).exp()
    total = weights.new_zeros(n_cells).index_add(0, cell_of, weights)
    sums = states.new_zeros((n_cells, states.shape[1]))
    return sums.index_add(0, cell_of, states[genes] * weights.unsqueeze(1)) / total.unsqueeze(1)


def _genes(batch: PackedBatch, n_special: int) -> tuple[Tensor, Tensor]:
    """Return the positions ``(G,)`` that hold genes, and the cell of each."""
    genes = torch.nonzero(batch.input_ids[0] >= n_special)[:, 0]
    return genes, torch.searchsorted(batch.cu_seqlens.long(), genes, right=True) - 1
