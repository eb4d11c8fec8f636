"""What reading attention off many cells shares: the pass over the cells, and the softmax of chosen queries.

The encoder hands out queries and keys one cell and layer at a time. Probabilities are recomputed from them,
for the queries that are asked for and a slice of those at a time, but normalised over all keys of the cell:
exact, without an attention matrix ever being held.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from geneformer_grn._runtime import progress
from geneformer_grn.cells.packing import PackedBatch, pack, plan_by_budget
from geneformer_grn.cells.ranking import RankedCells, model_input
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.model.attention import AttentionCapture
from geneformer_grn.model.encoder import Encoder

SCORES_PER_CHUNK = 1 << 22  # heads × queries × keys held at once


class Capture(AttentionCapture, Protocol):
    """An `AttentionCapture` that is told of each batch before it runs."""

    def begin(self, batch: PackedBatch) -> None:
        """Take a batch that is about to run, on the encoder's device."""


class CellGenes(NamedTuple):
    """Where the regulators and targets of one cell stand.

    Parameters
    ----------
    targets, regulators
        ``(t,)`` and ``(r,)`` int64 positions in the cell.
    rows, columns
        ``(t,)`` and ``(r,)`` int64, ascending: which target and regulator each is.
    length
        Tokens of the cell.
    """

    targets: Tensor
    rows: Tensor
    regulators: Tensor
    columns: Tensor
    length: int

    @property
    def pairs(self) -> tuple[Tensor, Tensor]:
        """Index of the cell's pairs in a ``(T, R)`` table; no pair occurs twice."""
        return self.rows[:, None], self.columns[None, :]


class PairIndex:
    """Looks up which of the pairs of regulators and targets a cell holds, and counts them.

    Parameters
    ----------
    encoder
        Gives the device and the size of the vocabulary.
    regulators, targets
        ``(R,)`` and ``(T,)`` int tokens, each without repetition.

    Attributes
    ----------
    support
        ``(T, R)`` int32 cells that held both genes so far.

    Raises
    ------
    ValueError
        There are no regulators or no targets, or one is named twice.
    """

    def __init__(self, encoder: Encoder, regulators: np.ndarray, targets: np.ndarray) -> None:
        require_genes(regulators, targets)
        self._row_of = _positions(targets, len(encoder.vocabulary), encoder.device)
        self._column_of = _positions(regulators, len(encoder.vocabulary), encoder.device)
        shape = (len(targets), len(regulators))  # as in the attention matrix: queries by keys
        self.support = torch.zeros(shape, dtype=torch.int32, device=encoder.device)

    def begin(self, batch: PackedBatch) -> list[CellGenes]:
        """Return the genes of each cell of a batch, and count its pairs."""
        found = []
        for start, end in pairwise(batch.cu_seqlens.tolist()):
            tokens = batch.input_ids[0, start:end]
            genes = CellGenes(*_found(self._row_of[tokens]), *_found(self._column_of[tokens]), end - start)
            self.support[genes.pairs] += 1
            found.append(genes)
        return found

    def zeros(self, *n: int) -> Tensor:
        """Return sums to fill, ``(*n, T, R)``; float64, but on mps, which knows nothing wider, float32."""
        # sums over many thousand cells lose digits in float32
        dtype = torch.float32 if self.support.device.type == "mps" else torch.float64
        return torch.zeros((*n, *self.support.shape), dtype=dtype, device=self.support.device)


def stream_cells(
    encoder: Encoder,
    ranked: RankedCells,
    cells: np.ndarray | None,
    capture: Capture,
    *,
    n_layers: int,
    token_budget: int,
    what: str,
) -> None:
    """Run cells through the first `n_layers` layers, each cell's queries and keys going to `capture`.

    Parameters
    ----------
    encoder
        The model.
    ranked
        Cells ranked with its vocabulary.
    cells
        ``(n,)`` int rows of them; None: all.
    capture
        Receives each batch and then what it asks.
    n_layers
        Layers above are not run.
    token_budget
        Most tokens in one packed batch.
    what
        What the progress bar says.
    """
    vocabulary = encoder.vocabulary
    cells = np.arange(len(ranked)) if cells is None else np.asarray(cells)
    cells = cells[ranked.lengths[cells] > 0]
    lengths = input_lengths(ranked, cells, vocabulary)
    for group in progress(plan_by_budget(lengths, token_budget), desc=what, unit="batch"):
        sequences = [model_input(ranked.cell(cell), vocabulary) for cell in cells[group]]
        batch = pack(sequences).to(encoder.device)
        with torch.inference_mode():
            capture.begin(batch)
        encoder.hidden_states(batch, encoder_layer=n_layers - encoder.n_layers, capture=capture)


def attention_slices(
    query: Tensor, key: Tensor, scaling: float, queries: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of `queries` with their attention, in bounded memory.

    Parameters
    ----------
    query, key
        ``(H, L, D)`` of one cell.
    scaling
        Factor of the dot products.
    queries
        ``(q,)`` int64 positions whose attention is asked for.

    Yields
    ------
    tuple
        Which of the queries, and their probabilities ``(H, k, L)`` float32 over all keys of the cell.
    """
    n_heads, n_keys, _ = key.shape
    key_hdl = key.float().transpose(1, 2)
    size = max(1, SCORES_PER_CHUNK // (n_heads * n_keys))
    for start in range(0, len(queries), size):
        part = slice(start, start + size)
        yield part, torch.softmax(torch.matmul(query[:, queries[part]].float() * scaling, key_hdl), dim=-1)


def input_lengths(ranked: RankedCells, cells: np.ndarray, vocabulary: GeneVocabulary) -> np.ndarray:
    """Return the ``(n,)`` int64 tokens of the model inputs of some cells, special tokens included."""
    return np.minimum(ranked.lengths[cells] + vocabulary.n_wrapping, vocabulary.max_length)


def require_genes(regulators: np.ndarray, targets: np.ndarray) -> None:
    """Raise unless there are regulators and targets, each named once.

    Raises
    ------
    ValueError
        There are none, or one is named twice.
    """
    if len(regulators) == 0 or len(targets) == 0:
        raise ValueError(
            f"edges need at least one regulator and one target, got {len(regulators)} and {len(targets)}"
        )
    for name, genes in (("regulator", regulators), ("target", targets)):
        tokens, counts = np.unique(genes, return_counts=True)
        if counts.max() > 1:
            raise ValueError(f"the {name} of token {tokens[counts.argmax()]} is named {counts.max()} times")


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
