"""The axis along which a gene's own state varies from cell to cell, and which end of it means a higher rank.

A cosine says that a gene's state moved, not where to. The leading principal direction of its states over
unperturbed cells is the one-number summary that loses least of them; in units of the standard deviation along
it a shift can be compared between genes. Its sign is set by rank: positive is how the gene looks in cells
where it stands further to the front. What is kept is one axis: a gene that moved across its axis has a large
cosine shift and a small signed one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.embedding import EmbedSettings, encoded_batches
from geneformer_grn.model.encoder import Encoder
from geneformer_grn.perturbation.edits import InputLayout

MOST_CELLS = 512
LEAST_CELLS = 3  # a direction of variation, and whether rank goes with it
_STATE_BYTES = 1 << 29  # states that are held together
_ROUNDING = 1e-5  # spread of a state, relative to its length, that float32 alone could make


@dataclass(frozen=True, eq=False)
class GeneAxes:
    """The axis of variation of every gene.

    Parameters
    ----------
    axes
        ``(V, d)`` float32 unit vectors; NaN where a gene has no axis: it is in fewer than three of the
        sampled cells, or its states do not vary.
    sd
        ``(V,)`` float64 standard deviation (over n - 1) of the states along the axis; NaN without one.
    rank_correlation
        ``(V,)`` float64, 0 to 1: correlation of the position along the axis with how far to the front the
        gene stands, as a share of its cell's genes. Near 0, the sign of a shift says little. NaN where the
        gene stands at the same place in all cells; the largest component of such an axis is positive.
    n_cells
        ``(V,)`` int64 sampled cells that hold the gene.
    """

    axes: np.ndarray
    sd: np.ndarray
    rank_correlation: np.ndarray
    n_cells: np.ndarray

    @property
    def directions(self) -> np.ndarray:
        """``(V, d)`` float32; the product with a movement of a state is its signed shift."""
        return np.asarray(self.axes / self.sd[:, None], dtype=np.float32)


def gene_axes(
    encoder: Encoder,
    ranked: RankedCells,
    *,
    cells: np.ndarray | None = None,
    encoder_layer: int = -1,
    token_budget: int = 16_384,
    seed: int = 0,
) -> GeneAxes:
    """Return each gene's axis of variation over a sample of unperturbed cells.

    Parameters
    ----------
    encoder
        The model.
    ranked
        Cells ranked with its vocabulary.
    cells
        Rows to sample from, 512 of them at most, and no more than fit into half a gigabyte; None: all.
    encoder_layer
        The layer that shifts are read at.
    token_budget
        Tokens in one packed batch.
    seed
        Of the sample.

    Returns
    -------
    The axes, NaN for genes outside the sample.

    Notes
    -----
    Computed per gene in float64, from the smaller of the two matrices of inner products (of cells, or of
    dimensions), so exactly and not by iteration.

    Examples
    --------
    >>> axes = gene_axes(encoder, ranked)  # doctest: +SKIP
    >>> np.isfinite(axes.sd).sum()  # doctest: +SKIP
    """
    chosen = _sample(encoder, ranked, cells, seed)
    tokens, places, states = _states(encoder, take_cells(ranked, chosen), encoder_layer, token_budget)
    n_tokens, width = len(encoder.vocabulary), encoder.hidden_size
    axes = np.full((n_tokens, width), np.nan, dtype=np.float32)
    sd, correlation = np.full(n_tokens, np.nan), np.full(n_tokens, np.nan)
    n_cells = np.bincount(tokens, minlength=n_tokens)
    order, ends = np.argsort(tokens, kind="stable"), np.cumsum(n_cells)
    for token in np.flatnonzero(n_cells >= LEAST_CELLS):
        rows = order[ends[token] - n_cells[token] : ends[token]]
        axis, sd[token] = leading_direction(states[rows].astype(np.float64))
        if np.isnan(sd[token]):
            continue
        forward, correlation[token] = _forward(states[rows] @ axis, places[rows], axis)
        axes[token] = axis if forward else -axis
    return GeneAxes(axes=axes, sd=sd, rank_correlation=correlation, n_cells=n_cells)


def leading_direction(states: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the unit vector ``(d,)`` along which `states` ``(n, d)`` vary most, and their spread along it.

    The spread, a standard deviation, is NaN where the states do not vary. Which of the two opposite vectors
    is returned is not said.
    """
    centred = states - states.mean(axis=0)
    n_cells, width = centred.shape
    wide = n_cells < width
    products = centred @ centred.T if wide else centred.T @ centred
    variances, vectors = np.linalg.eigh(products)
    sd = float(np.sqrt(max(variances[-1], 0.0) / (n_cells - 1)))
    if sd <= _ROUNDING * np.sqrt((states**2).sum(axis=1).mean()):
        return np.full(width, np.nan), np.nan
    axis = centred.T @ vectors[:, -1] if wide else vectors[:, -1]
    return axis / np.linalg.norm(axis), sd


def _forward(scores: np.ndarray, places: np.ndarray, axis: np.ndarray) -> tuple[bool, float]:
    """Return whether `axis` points to where the gene ranks higher, and how closely rank goes with it."""
    if np.ptp(places) == 0.0:
        return bool(axis[np.argmax(np.abs(axis))] > 0.0), np.nan
    upwards = -float(np.corrcoef(scores, places)[0, 1])
    if upwards == 0.0:
        return bool(axis[np.argmax(np.abs(axis))] > 0.0), 0.0
    return upwards > 0.0, abs(upwards)


def _sample(encoder: Encoder, ranked: RankedCells, cells: np.ndarray | None, seed: int) -> np.ndarray:
    """Return rows of cells, in ascending order, whose states fit into memory; at least one."""
    rows = np.flatnonzero(ranked.lengths) if cells is None else np.unique(cells)
    drawn = np.random.default_rng(seed).permutation(rows)[:MOST_CELLS]
    room = encoder.vocabulary.max_length - encoder.vocabulary.n_wrapping
    n_bytes = np.cumsum(np.minimum(ranked.lengths[drawn], room)) * encoder.hidden_size * 4
    return np.sort(drawn[: max(1, int(np.searchsorted(n_bytes, _STATE_BYTES, side="right")))])


def take_cells(ranked: RankedCells, rows: Sequence[int] | np.ndarray) -> RankedCells:
    """Return the cells `rows` of `ranked`, in that order."""
    cells = [ranked.cell(int(row)) for row in rows]
    offsets = np.concatenate([[0], np.cumsum([len(cell) for cell in cells])]).astype(np.int64)
    tokens = np.concatenate([*cells, ranked.tokens[:0]])
    return RankedCells(
        tokens=tokens, offsets=offsets, n_counts=ranked.n_counts[np.asarray(rows, dtype=np.int64)]
    )


def _states(
    encoder: Encoder, ranked: RankedCells, encoder_layer: int, token_budget: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return token ``(N,)``, place in the cell ``(N,)`` (0 front, 1 end) and state ``(N, d)`` of genes."""
    vocabulary = encoder.vocabulary
    layout = InputLayout.of(vocabulary)
    settings = EmbedSettings(encoder_layer=encoder_layer, token_budget=token_budget)
    n_rows = int(np.minimum(ranked.lengths, vocabulary.max_length - vocabulary.n_wrapping).sum())
    tokens, places = np.empty(n_rows, dtype=np.int64), np.empty(n_rows)
    states = np.empty((n_rows, encoder.hidden_size), dtype=np.float32)
    filled = 0
    for batch, encoded in encoded_batches(encoder, ranked, settings):
        lengths = batch.cu_seqlens.diff().cpu().numpy().astype(np.int64)
        n_genes = np.repeat(lengths - layout.n_front - layout.n_back, lengths)
        place = (batch.position_ids[0].cpu().numpy() - layout.n_front) / np.maximum(n_genes - 1, 1)
        ids = batch.input_ids[0].cpu().numpy()
        is_gene = ids >= vocabulary.n_special
        rows = slice(filled, filled := filled + int(is_gene.sum()))
        tokens[rows], places[rows] = ids[is_gene], place[is_gene]
        states[rows] = encoded.cpu().numpy()[is_gene]
    return tokens, places, states
