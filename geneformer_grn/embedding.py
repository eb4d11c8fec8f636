"""Cell and gene embeddings: means of the encoder's contextual states.

A cell is the mean over its gene tokens (special tokens left out), or its ``<cls>`` state; a gene is the mean
over all cells that hold it. Cells are run longest first, in packed batches, and returned in input order. Sums
are taken in float64, so that the result hardly depends on how cells were packed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from geneformer_grn._runtime import progress
from geneformer_grn.cells.batches import PackedBatch, pack, plan_by_budget
from geneformer_grn.cells.ranking import RankedCells, model_input
from geneformer_grn.model.encoder import Encoder


@dataclass(frozen=True, kw_only=True)
class EmbedSettings:
    """How cells are embedded.

    Parameters
    ----------
    pooling
        ``mean`` over gene tokens, or the ``cls`` state.
    encoder_layer
        0 is the last layer, -1 (as the reference method has it) the one before.
    token_budget
        Tokens in one packed batch.
    """

    pooling: Literal["mean", "cls"] = "mean"
    encoder_layer: int = -1
    token_budget: int = 16_384

    def __post_init__(self) -> None:
        if self.pooling not in {"mean", "cls"}:
            raise ValueError(f"pooling {self.pooling!r} is unknown; use mean or cls")
        if self.token_budget < 1:
            raise ValueError(f"token_budget must be at least 1, got {self.token_budget}")


def embed_cells(encoder: Encoder, ranked: RankedCells, settings: EmbedSettings | None = None) -> np.ndarray:
    """Return the embedding of each cell, ``(n, d)`` float32 in input order.

    Parameters
    ----------
    encoder
        The model.
    ranked
        Cells ranked with the model's vocabulary.
    settings
        Pooling, layer and batch size.

    Returns
    -------
    np.ndarray
        A row is NaN where the cell has no gene to pool.

    Raises
    ------
    ValueError
        ``cls`` is asked of a vocabulary without ``<cls>``, or there is no such layer.

    Examples
    --------
    >>> embed_cells(load_encoder("mini"), ranked).shape  # doctest: +SKIP
    (559, 128)
    """
    settings = settings or EmbedSettings()
    _check_pooling(encoder, settings)
    cells = _CellTable(encoder, len(ranked), settings)
    for batch, states in encoded_batches(encoder, ranked, settings):
        cells.add(batch, states)
    return cells.values


def embed_genes(encoder: Encoder, ranked: RankedCells, settings: EmbedSettings | None = None) -> np.ndarray:
    """Return the mean contextual state of every token over the cells that hold it, ``(V, d)`` float32.

    Parameters
    ----------
    encoder
        The model.
    ranked
        Cells ranked with the model's vocabulary; a gene counts where it is inside the model's length.
    settings
        Layer and batch size; pooling does not matter.

    Returns
    -------
    np.ndarray
        Rows in the order of the vocabulary, special tokens included; NaN where no cell holds the token.
    """
    settings = settings or EmbedSettings()
    genes = _GeneTable(encoder)
    for batch, states in encoded_batches(encoder, ranked, settings):
        genes.add(batch, states)
    return genes.means()


def embed_cells_and_genes(
    encoder: Encoder, ranked: RankedCells, settings: EmbedSettings | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return what `embed_cells` and `embed_genes` return, from one pass over the cells."""
    settings = settings or EmbedSettings()
    _check_pooling(encoder, settings)
    cells, genes = _CellTable(encoder, len(ranked), settings), _GeneTable(encoder)
    for batch, states in encoded_batches(encoder, ranked, settings):
        cells.add(batch, states)
        genes.add(batch, states)
    return cells.values, genes.means()


def encoded_batches(
    encoder: Encoder, ranked: RankedCells, settings: EmbedSettings
) -> Iterator[tuple[PackedBatch, Tensor]]:
    """Yield packed batches on the encoder's device with their ``(T, d)`` float32 states, longest cells first.

    Cells without any token are left out; ``batch.cell_index`` says which cells a batch holds.
    """
    vocabulary = encoder.vocabulary
    room = vocabulary.max_length - vocabulary.n_wrapping
    lengths = np.minimum(ranked.lengths, room) + vocabulary.n_wrapping
    filled = np.flatnonzero(lengths > 0)
    for group in progress(
        plan_by_budget(lengths[filled], settings.token_budget), desc="embedding", unit="batch"
    ):
        chosen = filled[group]
        inputs = [model_input(ranked.cell(cell), vocabulary) for cell in chosen]
        batch = pack(inputs, cell_index=chosen).to(encoder.device)
        yield batch, encoder.hidden_states(batch, encoder_layer=settings.encoder_layer)


def pool_genes(batch: PackedBatch, states: Tensor, n_special: int) -> Tensor:
    """Return each packed cell's mean state over its gene tokens.

    Parameters
    ----------
    batch
        Packed cells, on the device of `states`.
    states
        ``(T, d)`` float32.
    n_special
        Token ids below this one are special and left out.

    Returns
    -------
    Tensor
        ``(N, d)``, float64 (float32 on devices without it); NaN for a cell without genes.
    """
    n_cells = len(batch.cell_index)
    lengths = batch.cu_seqlens.diff()
    cell_of = torch.repeat_interleave(torch.arange(n_cells, device=states.device), lengths)
    is_gene = batch.input_ids[0] >= n_special
    cell_of = cell_of[is_gene]
    sums = torch.zeros(n_cells, states.shape[1], dtype=_sum_dtype(states.device), device=states.device)
    sums.index_add_(0, cell_of, states[is_gene].to(sums.dtype))
    return sums / torch.bincount(cell_of, minlength=n_cells).unsqueeze(1)


class _CellTable:
    """Cell embeddings, filled in batch by batch."""

    def __init__(self, encoder: Encoder, n_cells: int, settings: EmbedSettings) -> None:
        self.values = np.full((n_cells, encoder.hidden_size), np.nan, dtype=np.float32)
        self._pooling = settings.pooling
        self._n_special = encoder.vocabulary.n_special

    def add(self, batch: PackedBatch, states: Tensor) -> None:
        if self._pooling == "cls":
            pooled = states[batch.cu_seqlens[:-1].long()]  # <cls> stands in front of every cell
        else:
            pooled = pool_genes(batch, states, self._n_special)
        self.values[batch.cell_index.cpu().numpy()] = pooled.float().cpu().numpy()


class _GeneTable:
    """Sums of states by token, and how many there were."""

    def __init__(self, encoder: Encoder) -> None:
        shape = len(encoder.vocabulary), encoder.hidden_size
        self._sums = torch.zeros(shape, dtype=_sum_dtype(encoder.device), device=encoder.device)
        self._counts = torch.zeros(shape[0], dtype=torch.int64, device=encoder.device)

    def add(self, batch: PackedBatch, states: Tensor) -> None:
        tokens = batch.input_ids[0]
        self._sums.index_add_(0, tokens, states.to(self._sums.dtype))
        self._counts += torch.bincount(tokens, minlength=len(self._counts))

    def means(self) -> np.ndarray:
        return np.asarray((self._sums / self._counts.unsqueeze(1)).float().cpu().numpy())


def _check_pooling(encoder: Encoder, settings: EmbedSettings) -> None:
    if settings.pooling == "cls" and encoder.vocabulary.special("<cls>") is None:
        raise ValueError(
            f"pooling 'cls' needs a <cls> token, which the vocabulary of {encoder.name!r} (setting "
            f"{encoder.vocabulary.setting!r}) does not have; use pooling 'mean'"
        )


def _sum_dtype(device: torch.device) -> torch.dtype:
    """Return float64, or float32 where the device has no float64 (Apple's)."""
    return torch.float32 if device.type == "mps" else torch.float64
