"""Edges from attention: how much each target's token reads each regulator's, averaged over cells.

An edge r → t is the probability with which query t reads key r. Probabilities are recomputed from the
queries and keys that the encoder hands out, one cell and layer at a time and only for target rows, but
normalised over all keys of the cell: exact, in memory of regulators × targets. Attention has no sign, and
mostly follows co-expression; that is why its edges are reported next to correlation and are refitted before
they are propagated.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from geneformer_grn._runtime import progress
from geneformer_grn.cells.packing import PackedBatch, pack, plan_by_budget
from geneformer_grn.cells.ranking import RankedCells, model_input
from geneformer_grn.model.encoder import Encoder
from geneformer_grn.network.scored import ScoredPairs

_SCORES_PER_CHUNK = 1 << 22  # heads × queries × keys held at once


@dataclass(frozen=True, kw_only=True)
class AttentionSettings:
    """What attention is read, and how it becomes a weight.

    Parameters
    ----------
    layers
        Encoder layers to average over, counted from 0 at the input; ``all`` takes every one.
    min_support
        Fewest cells that must hold both genes for a pair to be scored.
    correction
        ``none``, or ``average_product``: see `average_product_correction`.
    token_budget
        Most tokens in one packed batch.
    """

    layers: tuple[int, ...] | Literal["all"] = "all"
    min_support: int = 5
    correction: Literal["none", "average_product"] = "none"
    token_budget: int = 16_384

    def __post_init__(self) -> None:
        if self.min_support < 1 or self.token_budget < 1:
            raise ValueError("min_support and token_budget must be at least 1")
        if self.correction not in {"none", "average_product"}:
            raise ValueError(
                f"attention correction {self.correction!r} is unknown; use none or average_product"
            )


def attention_edges(
    encoder: Encoder,
    ranked: RankedCells,
    *,
    regulators: np.ndarray,
    targets: np.ndarray,
    settings: AttentionSettings | None = None,
    cells: np.ndarray | None = None,
) -> ScoredPairs:
    """Score regulator → target pairs by attention, averaged over heads, layers and cells.

    In one cell the score is ``p × L``: the softmax probability over all L keys, special tokens included,
    times their number. 1 is what uniform attention would give, whatever the cell's length. It is averaged
    over the cells whose model input holds both genes (genes cropped away are not seen).

    Parameters
    ----------
    encoder
        The model.
    ranked
        Cells ranked with the encoder's vocabulary.
    regulators, targets
        ``(R,)`` and ``(T,)`` int tokens.
    settings
        See `AttentionSettings`.
    cells
        ``(n,)`` int cells of `ranked` to use; None: all.

    Returns
    -------
    ScoredPairs
        Unsigned weights ``(R, T)``, NaN for a gene with itself and below ``min_support`` cells.

    Raises
    ------
    ValueError
        A layer does not exist, or there are no regulators or no targets.
    """
    settings = settings or AttentionSettings()
    layers = _layers(settings, encoder.n_layers)
    if len(regulators) == 0 or len(targets) == 0:
        raise ValueError("attention edges need at least one regulator and one target")
    vocabulary = encoder.vocabulary
    cells = np.arange(len(ranked)) if cells is None else np.asarray(cells)
    sums = AttentionSums(encoder, regulators=regulators, targets=targets, layers=layers)
    lengths = np.minimum(ranked.lengths[cells] + vocabulary.n_wrapping, vocabulary.max_length)
    # layers above the last one read are not run
    stop_at = max(layers) + 1 - encoder.n_layers
    for group in progress(plan_by_budget(lengths, settings.token_budget), desc="attention", unit="batch"):
        sequences = [model_input(ranked.cell(cell), vocabulary) for cell in cells[group]]
        batch = pack(sequences).to(encoder.device)
        sums.begin(batch)
        encoder.hidden_states(batch, encoder_layer=stop_at, capture=sums)
    weights, support = sums.mean(settings.min_support)
    weights[regulators[:, None] == targets[None, :]] = np.nan
    if settings.correction == "average_product":
        weights = average_product_correction(weights)
    return ScoredPairs(
        regulators=vocabulary.ensembl_ids[regulators],
        targets=vocabulary.ensembl_ids[targets],
        weights=weights.astype(np.float32),
        support=support,
        method="attention",
        signed=False,
    )


def average_product_correction(weights: np.ndarray) -> np.ndarray:
    """Subtract from each pair what its regulator's and its target's mean weight would give.

    The correction of Dunn, Wahl & Gloor (2008) for mutual information of sites in alignments:
    ``w_ij - mean_i × mean_j / mean``. It removes regulators that everything reads and targets that read
    everything alike.

    Parameters
    ----------
    weights
        ``(R, T)`` float; NaN is left out of the means and stays.
    """
    known = np.isfinite(weights)
    filled = np.where(known, weights, 0.0)
    by_regulator = filled.sum(axis=1, keepdims=True) / np.maximum(known.sum(axis=1, keepdims=True), 1)
    by_target = filled.sum(axis=0, keepdims=True) / np.maximum(known.sum(axis=0, keepdims=True), 1)
    overall = filled.sum() / max(int(known.sum()), 1)
    return weights - (by_regulator * by_target / overall if overall else 0.0)


def _layers(settings: AttentionSettings, n_layers: int) -> tuple[int, ...]:
    if settings.layers == "all":
        return tuple(range(n_layers))
    wrong = [layer for layer in settings.layers if not 0 <= layer < n_layers]
    if wrong or not settings.layers:
        raise ValueError(
            f"attention layers {settings.layers} do not exist: this model has {n_layers}, 0 to {n_layers - 1}"
        )
    return tuple(sorted(set(settings.layers)))


class AttentionSums:
    """Receives queries and keys from the encoder and keeps sums for regulator × target pairs.

    An `geneformer_grn.model.attention.AttentionCapture`: call `begin` with each batch before it runs.

    Parameters
    ----------
    encoder
        Gives the device and the size of the vocabulary.
    regulators, targets
        ``(R,)`` and ``(T,)`` int tokens.
    layers
        Layers to average over.
    """

    def __init__(
        self, encoder: Encoder, *, regulators: np.ndarray, targets: np.ndarray, layers: tuple[int, ...]
    ) -> None:
        device = encoder.device
        shape = (len(targets), len(regulators))  # as in the attention matrix: queries by keys
        # sums over many thousand cells lose digits in float32; mps knows nothing wider
        self._sums = torch.zeros(
            shape, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device
        )
        self._support = torch.zeros(shape, dtype=torch.int32, device=device)
        self._row_of = _positions(targets, len(encoder.vocabulary), device)
        self._column_of = _positions(regulators, len(encoder.vocabulary), device)
        self._layers = frozenset(layers)
        self._segments: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        # layers of one batch are summed before they are scattered, since that is the slower step
        self._read: dict[int, Tensor] = {}

    def begin(self, batch: PackedBatch) -> None:
        """Look up where the genes of each cell lie, and count the pairs that each cell holds."""
        self._segments, self._read = [], {}
        for start, end in pairwise(batch.cu_seqlens.tolist()):
            tokens = batch.input_ids[0, start:end]
            queries, rows = _found(self._row_of[tokens])
            keys, columns = _found(self._column_of[tokens])
            # regulators first: softmax does not mind, and a slice is cheaper than gathering columns
            keys = torch.cat([keys, torch.nonzero(self._column_of[tokens] < 0)[:, 0]])
            self._support[rows[:, None], columns[None, :]] += 1
            self._segments.append((queries, keys, rows, columns))

    def add(self, layer_index: int, segment: int, query: Tensor, key: Tensor, scaling: float) -> None:
        """Add one cell's attention of one layer; ``(H, L, D)`` queries and keys."""
        queries, keys, rows, columns = self._segments[segment]
        if layer_index not in self._layers or len(rows) == 0 or len(columns) == 0:
            return
        n_heads, n_keys, _ = key.shape
        key_hdl = key[:, keys].float().transpose(1, 2)
        chunk = max(1, _SCORES_PER_CHUNK // (n_heads * n_keys))
        parts = []
        for start in range(0, len(queries), chunk):
            query_hqd = query[:, queries[start : start + chunk]].float()
            probabilities_hql = torch.softmax(torch.matmul(query_hqd * scaling, key_hdl), dim=-1)
            parts.append(probabilities_hql[:, :, : len(columns)].mean(dim=0) * n_keys)
        read = torch.cat(parts)
        if segment in self._read:
            read += self._read.pop(segment)
        if layer_index < max(self._layers):
            self._read[segment] = read
        else:
            # every gene occurs once in a cell, so that plain indexed addition drops nothing
            self._sums[rows[:, None], columns[None, :]] += read.to(self._sums.dtype)

    def mean(self, min_support: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ``(R, T)`` float64 mean scores, NaN below `min_support` cells, and int32 support."""
        support = self._support.T.cpu().numpy()
        total = self._sums.T.cpu().numpy()
        enough = support >= min_support
        mean = np.full(support.shape, np.nan)
        np.divide(total, support * len(self._layers), out=mean, where=enough)
        return mean, support


def _positions(tokens: np.ndarray, n_tokens: int, device: torch.device) -> Tensor:
    """Return ``(V,)`` int64: where each token stands in `tokens`, -1 where it does not."""
    positions = torch.full((n_tokens,), -1, dtype=torch.int64)
    positions[torch.from_numpy(np.asarray(tokens, dtype=np.int64))] = torch.arange(len(tokens))
    return positions.to(device)


def _found(positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return where in a cell the looked-for genes are and their positions, ascending (faster to scatter)."""
    inside = torch.nonzero(positions >= 0)[:, 0]
    order = torch.argsort(positions[inside])
    return inside[order], positions[inside][order]
