"""Attention as an attribution: how much of a cell's pooled state is read from each gene in the last layer.

Cheap and much shown, though nothing says that it is an explanation (Jain and Wallace 2019): it has no sign,
knows no class, and only the last of several mixings. It is here to be measured beside the others.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from geneformer_grn._runtime import progress
from geneformer_grn.cells.packing import pack, plan_by_budget
from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.explanation.attributions import Attributions, empty_attributions
from geneformer_grn.explanation.settings import AttributionSettings
from geneformer_grn.explanation.target import Explained
from geneformer_grn.extraction.streaming import attention_slices


def pooled_attention(
    explained: Explained,
    ranked: RankedCells,
    cells: np.ndarray,
    targets: np.ndarray,
    settings: AttributionSettings | None = None,
) -> Attributions:
    """Return the attention that what is pooled pays each gene in the last layer, mean over heads.

    With pooling ``cls`` the query is ``<cls>``; with the others it is every gene, averaged. Weights are times
    the number of tokens, so that 1 is even attention whatever the cell's length.

    Parameters, errors as in `explanation.gradients.integrated_gradients`; `targets` change nothing.
    """
    settings = settings or AttributionSettings()
    blank = empty_attributions("attention", explained, ranked, cells, targets)
    inputs = [explained.input_of(ranked, cell) for cell in blank.cells]
    scores = np.empty_like(blank.scores)
    encoder = explained.model.encoder
    plan = plan_by_budget([len(ids) for ids in inputs], settings.token_budget)
    for chosen in progress(plan, desc="attention", unit="batch"):
        batch = pack([inputs[i] for i in chosen])
        genes = [torch.from_numpy(explained.is_gene(inputs[i])).to(encoder.device) for i in chosen]
        capture = _PooledReading(encoder.n_layers - 1, genes, from_front=explained.spec.pooling == "cls")
        encoder.hidden_states(batch, encoder_layer=0, capture=capture)
        for i, found in zip(chosen, capture.found, strict=True):
            scores[blank.offsets[i] : blank.offsets[i + 1]] = found
    return replace(blank, scores=scores)


class _PooledReading:
    """Receives queries and keys of a batch; keeps what the pooled tokens of each cell read in one layer."""

    def __init__(self, layer: int, genes: list[Tensor], *, from_front: bool) -> None:
        self.found: list[np.ndarray] = []
        self._layer, self._genes, self._from_front = layer, genes, from_front

    def add(self, layer_index: int, segment: int, query: Tensor, key: Tensor, scaling: float) -> None:
        """Take one cell's ``(H, L, D)`` queries and keys; cells come in their order."""
        if layer_index != self._layer:
            return
        is_gene = self._genes[segment]
        queries = torch.nonzero(is_gene)[:, 0]
        queries = queries.new_zeros(1) if self._from_front else queries
        total = torch.zeros(key.shape[1], device=key.device)
        for _, probabilities in attention_slices(query, key, scaling, queries):
            total += probabilities.mean(dim=0).sum(dim=0)
        reading = total / len(queries) * len(total)
        self.found.append(reading[is_gene].double().cpu().numpy())
