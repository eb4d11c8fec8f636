"""Edges from attention rollout: attention followed through all layers, the residual connection included.

A head of a high layer reads states that have long been mixed. Rollout multiplies the layers' attention
matrices, averaged over heads and mixed with the identity for the residual connection, to say how much of each
input token is in each state. Only the columns of regulators are carried through the layers, so that what is
held of a cell is tokens × regulators and never tokens × tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from geneformer_grn.cells.packing import PackedBatch
from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.extraction.streaming import CellGenes, PairIndex, attention_slices, stream_cells
from geneformer_grn.model.encoder import Encoder
from geneformer_grn.network.scored import ScoredPairs


@dataclass(frozen=True, kw_only=True)
class RolloutSettings:
    """How attention is rolled out.

    Parameters
    ----------
    n_layers
        How many layers to follow it through, from the input; ``all``.
    residual
        Share of the identity in each layer, 0 to 1; 0.5 as published.
    min_support
        Fewest cells that must hold both genes for a pair to be scored.
    token_budget
        Most tokens in one packed batch.
    """

    n_layers: int | Literal["all"] = "all"
    residual: float = 0.5
    min_support: int = 5
    token_budget: int = 16_384

    def __post_init__(self) -> None:
        if self.min_support < 1 or self.token_budget < 1:
            raise ValueError("min_support and token_budget must be at least 1")
        if not 0.0 <= self.residual < 1.0:
            raise ValueError(f"the residual share must be at least 0 and below 1, got {self.residual}")


def rollout_edges(
    encoder: Encoder,
    ranked: RankedCells,
    *,
    regulators: np.ndarray,
    targets: np.ndarray,
    settings: RolloutSettings | None = None,
    cells: np.ndarray | None = None,
) -> ScoredPairs:
    """Score regulator → target pairs by how much of the regulator's input is in the target's state.

    In one cell the score is the rollout times the number of tokens, averaged over cells as in
    `geneformer_grn.extraction.attention.attention_edges`.

    Parameters
    ----------
    encoder, ranked, regulators, targets, cells
        As in `attention_edges`.
    settings
        See `RolloutSettings`.

    Returns
    -------
    ScoredPairs
        Unsigned weights ``(R, T)``; NaN for a gene with itself and below ``min_support`` cells.

    Raises
    ------
    ValueError
        There are not so many layers, a gene is named twice, or there are no regulators or no targets.

    Notes
    -----
    Abnar & Zuidema (2020), Quantifying attention flow in transformers, ACL.

    Examples
    --------
    >>> rollout_edges(encoder, ranked, regulators=tfs, targets=genes)  # doctest: +SKIP
    """
    settings = settings or RolloutSettings()
    n_layers = encoder.n_layers if settings.n_layers == "all" else settings.n_layers
    if not 1 <= n_layers <= encoder.n_layers:
        raise ValueError(f"rollout through {n_layers} layers: this model has {encoder.n_layers}")
    index = PairIndex(encoder, regulators, targets)
    sums = RolloutSums(index, n_layers=n_layers, residual=settings.residual)
    stream_cells(
        encoder, ranked, cells, sums,
        n_layers=n_layers, token_budget=settings.token_budget, what="rollout",
    )  # fmt: skip
    support = index.support.T.cpu().numpy()
    weights = (sums.total / index.support).float().T.cpu().numpy()
    weights[(support < settings.min_support) | np.equal.outer(regulators, targets)] = np.nan
    return ScoredPairs(
        regulators=encoder.vocabulary.ensembl_ids[regulators],
        targets=encoder.vocabulary.ensembl_ids[targets],
        weights=weights, support=support, method="attention_rollout", signed=False,
    )  # fmt: skip


class RolloutSums:
    """Receives queries and keys from the encoder, rolls each cell out and adds it up.

    Parameters
    ----------
    index
        The pairs.
    n_layers
        Layers to follow attention through.
    residual
        Share of the identity in each.

    Attributes
    ----------
    total
        ``(T, R)`` sums over cells.
    """

    def __init__(self, index: PairIndex, *, n_layers: int, residual: float) -> None:
        self.total = index.zeros()
        self._index = index
        self._last = n_layers - 1
        self._residual = residual
        self._cells: list[CellGenes] = []
        self._mixed: dict[int, Tensor] = {}  # (L, r): how much of each regulator is in each state so far

    def begin(self, batch: PackedBatch) -> None:
        """Look up where the genes of each cell lie, and count the pairs that each cell holds."""
        self._cells, self._mixed = self._index.begin(batch), {}

    def add(self, layer_index: int, segment: int, query: Tensor, key: Tensor, scaling: float) -> None:
        """Carry one cell through one layer; ``(H, L, D)`` queries and keys."""
        genes = self._cells[segment]
        if len(genes.rows) == 0 or len(genes.columns) == 0:
            return
        before = self._mixed.pop(segment, None)
        if before is None:
            before = torch.zeros((genes.length, len(genes.columns)), device=query.device)
            before[genes.regulators, torch.arange(len(genes.columns), device=query.device)] = 1.0
        # above the last layer nobody asks what is in the other tokens
        last = layer_index == self._last
        wanted = genes.targets if last else torch.arange(genes.length, device=query.device)
        after = self._residual * before[wanted]
        for part, probabilities_hql in attention_slices(query, key, scaling, wanted):
            after[part] += (1.0 - self._residual) * torch.matmul(probabilities_hql.mean(dim=0), before)
        if last:
            self.total[genes.pairs] += (after * genes.length).to(self.total.dtype)
        else:
            self._mixed[segment] = after
