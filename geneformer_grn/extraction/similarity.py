"""Edges from embeddings: how alike the model holds a regulator and a target to be.

Likeness has no direction and no sign: genes of one programme lie together, whichever drives which. Static
embeddings are weights of the model, the same for all cells; contextual ones are mean states over these cells.
The mean gene is taken out first, since embeddings share a large component that says nothing of pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.embedding import EmbedSettings, embed_genes
from geneformer_grn.extraction.streaming import require_genes
from geneformer_grn.model.encoder import Encoder
from geneformer_grn.network.scored import ScoredPairs
from geneformer_grn.perturbation.axes import take_cells

_ROWS = 256  # regulators whose pairs are counted at a time


@dataclass(frozen=True, kw_only=True)
class SimilaritySettings:
    """How embeddings are compared.

    Parameters
    ----------
    encoder_layer
        For contextual embeddings: 0 is the last layer, -1 the one before.
    centred
        Take out the mean over the genes that are in ``min_support`` cells.
    min_support
        Fewest cells that must hold both genes for a pair to be scored.
    token_budget
        Most tokens in one packed batch.
    """

    encoder_layer: int = -1
    centred: bool = True
    min_support: int = 5
    token_budget: int = 16_384

    def __post_init__(self) -> None:
        if self.min_support < 1 or self.token_budget < 1:
            raise ValueError("min_support and token_budget must be at least 1")


def embedding_edges(
    encoder: Encoder,
    ranked: RankedCells,
    *,
    regulators: np.ndarray,
    targets: np.ndarray,
    settings: SimilaritySettings | None = None,
    cells: np.ndarray | None = None,
) -> ScoredPairs:
    """Score pairs by the cosine of the model's input embeddings of the two genes.

    Cells only say which pairs are scored; the model is not run.

    Parameters
    ----------
    encoder, ranked, regulators, targets, cells
        As in `geneformer_grn.extraction.attention.attention_edges`.
    settings
        See `SimilaritySettings`.

    Returns
    -------
    ScoredPairs
        Unsigned weights ``(R, T)``, ``(1 + cosine) / 2``; NaN for a gene with itself and below
        ``min_support`` cells.

    Raises
    ------
    ValueError
        A gene is named twice, or there are no regulators or no targets.
    """
    settings = settings or SimilaritySettings()
    table = encoder.model.bert.embeddings.word_embeddings.weight.detach().float().cpu().numpy()
    return _alike(table, encoder, ranked, (regulators, targets), settings, cells, "embedding")


def contextual_edges(
    encoder: Encoder,
    ranked: RankedCells,
    *,
    regulators: np.ndarray,
    targets: np.ndarray,
    settings: SimilaritySettings | None = None,
    cells: np.ndarray | None = None,
) -> ScoredPairs:
    """Score pairs by the cosine of the two genes' mean contextual states over the cells.

    Otherwise as `embedding_edges`.
    """
    settings = settings or SimilaritySettings()
    some = ranked if cells is None else take_cells(ranked, np.asarray(cells))
    how = EmbedSettings(encoder_layer=settings.encoder_layer, token_budget=settings.token_budget)
    table = embed_genes(encoder, some, how)
    return _alike(table, encoder, ranked, (regulators, targets), settings, cells, "contextual")


def _alike(
    table: np.ndarray,
    encoder: Encoder,
    ranked: RankedCells,
    genes: tuple[np.ndarray, np.ndarray],
    settings: SimilaritySettings,
    cells: np.ndarray | None,
    method: str,
) -> ScoredPairs:
    """Return the likeness of rows of `table` ``(V, d)``."""
    require_genes(*genes)
    support, n_cells = pair_support(encoder, ranked, *genes, cells)
    table = table.astype(np.float64)
    seen = n_cells >= settings.min_support
    if settings.centred and seen.any():
        table -= table[seen].mean(axis=0)
    length = np.linalg.norm(table, axis=1, keepdims=True)
    unit = np.divide(table, length, out=np.full_like(table, np.nan), where=length > 0).astype(np.float32)
    weights = 0.5 + 0.5 * (unit[genes[0]] @ unit[genes[1]].T)
    weights[(support < settings.min_support) | np.equal.outer(*genes)] = np.nan
    names = encoder.vocabulary.ensembl_ids
    return ScoredPairs(
        regulators=names[genes[0]], targets=names[genes[1]],
        weights=weights, support=support, method=method, signed=False,
    )  # fmt: skip


def pair_support(
    encoder: Encoder,
    ranked: RankedCells,
    regulators: np.ndarray,
    targets: np.ndarray,
    cells: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return how many model inputs hold both genes of each pair, and how many hold each gene.

    Parameters
    ----------
    encoder
        Says how long an input is.
    ranked, regulators, targets, cells
        As in `embedding_edges`.

    Returns
    -------
    tuple
        ``(R, T)`` and ``(V,)`` int32.
    """
    from scipy import sparse

    vocabulary = encoder.vocabulary
    cells = np.arange(len(ranked)) if cells is None else np.asarray(cells)
    room = vocabulary.max_length - vocabulary.n_wrapping
    held = [ranked.cell(int(cell))[:room] for cell in cells]
    offsets = np.concatenate([[0], np.cumsum([len(cell) for cell in held])]).astype(np.int64)
    tokens = np.concatenate([*held, ranked.tokens[:0]]).astype(np.int32)
    shape = (len(cells), len(vocabulary))
    present = sparse.csr_matrix((np.ones(len(tokens), dtype=np.int32), tokens, offsets), shape=shape).tocsc()
    n_cells = np.diff(present.indptr).astype(np.int32)
    with_targets = present[:, targets].tocsr()
    support = np.empty((len(regulators), len(targets)), dtype=np.int32)
    for start in range(0, len(regulators), _ROWS):
        some = present[:, regulators[start : start + _ROWS]]
        support[start : start + _ROWS] = (some.T @ with_targets).toarray()
    return support, n_cells
