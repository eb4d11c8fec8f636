"""One way to call every method: rows of cells, regulators and targets in, scored pairs out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from geneformer_grn.cells.counts import CellCounts
from geneformer_grn.extraction.attention import AttentionSettings, attention_by_head
from geneformer_grn.extraction.attention_sums import Head
from geneformer_grn.extraction.head_selection import select_heads
from geneformer_grn.extraction.methods import METHODS as FROM_MODEL
from geneformer_grn.extraction.methods import score_with_model
from geneformer_grn.extraction.stratification import stratified_edges
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.network.cross_products import Expression
from geneformer_grn.network.methods import MODEL_FREE, ON_DEVICE, SEEDED
from geneformer_grn.network.scored import ScoredPairs
from geneformer_grn.network.truth import Truth
from geneformer_grn.workflows.network_settings import PER_HEAD, SELECTED, NetworkSettings

if TYPE_CHECKING:
    from scipy import sparse

    from geneformer_grn.cells.ranking import RankedCells
    from geneformer_grn.model.encoder import Encoder

Scorer = Callable[[np.ndarray, np.ndarray, np.ndarray], dict[str, ScoredPairs]]
"""(rows of cells, regulator tokens, target tokens) -> method -> scores; several for attention by head."""


@dataclass(frozen=True, eq=False, kw_only=True)
class NetworkCells:
    """The cells of a network: as expression, and as the model sees them.

    Parameters
    ----------
    expression
        ``(n, n_columns)`` log-normalised.
    counts, vocabulary
        The cells, and the vocabulary they were read with.
    encoder, ranked
        The model and the ranked cells; None where no method needs them.
    states
        ``(n,)`` str; pairs are then scored in each state alone and averaged. None: not.
    """

    expression: sparse.csr_matrix
    counts: CellCounts
    vocabulary: GeneVocabulary
    encoder: Encoder | None = None
    ranked: RankedCells | None = None
    states: np.ndarray | None = None

    @property
    def gene_ids(self) -> np.ndarray:
        """``(n_columns,)`` Ensembl IDs of the columns."""
        return self.vocabulary.ensembl_ids[self.counts.column_tokens]


def score_expression(
    method: str,
    expression: Expression,
    gene_ids: np.ndarray,
    *,
    regulators: np.ndarray,
    targets: np.ndarray,
    settings: NetworkSettings,
) -> ScoredPairs:
    """Score pairs by a model-free method, with what it takes of device and seed."""
    options: dict[str, Any] = {"device": settings.device} if method in ON_DEVICE else {}
    if method in SEEDED:
        options["seed"] = settings.seed
    scored = MODEL_FREE[method](expression, gene_ids, regulators=regulators, targets=targets, **options)
    return replace(scored, method=method)


def scorers(
    cells: NetworkCells, settings: NetworkSettings, methods: tuple[str, ...], *, truth: Truth | None = None
) -> dict[str, Scorer]:
    """Return method -> scorer; `truth` is what ``attention_selected`` chooses heads by.

    Raises
    ------
    ValueError
        A method needs a model or a truth and there is none, the model's vocabulary is not that of the counts,
        or attention by head is asked for within states.
    """
    by_head = (PER_HEAD, SELECTED)
    from_model = tuple(method for method in methods if method in FROM_MODEL or method in by_head)
    found: dict[str, Scorer] = {}
    if from_model:
        encoder, ranked = _model(cells, from_model)
        found = {
            method: _by_model(method, encoder, ranked, settings)
            for method in from_model
            if method not in by_head
        }
    found |= {method: _by_expression(method, cells, settings) for method in methods if method in MODEL_FREE}
    if cells.states is not None:
        found = {method: _within(score, cells.states, settings) for method, score in found.items()}
    if PER_HEAD in from_model:
        found[PER_HEAD] = _by_head(encoder, ranked, settings)
    if SELECTED in from_model:
        if truth is None:
            raise ValueError(f"{SELECTED} chooses heads by known edges, and there are none; give --truth")
        found[SELECTED] = _selected(encoder, ranked, settings, truth)
    return {method: found[method] for method in methods}


def _by_expression(method: str, cells: NetworkCells, settings: NetworkSettings) -> Scorer:
    names = cells.vocabulary.ensembl_ids

    def score(rows: np.ndarray, regulators: np.ndarray, targets: np.ndarray) -> dict[str, ScoredPairs]:
        pairs = score_expression(
            method, cells.expression[rows], cells.gene_ids,
            regulators=names[regulators], targets=names[targets], settings=settings,
        )  # fmt: skip
        return {method: pairs}

    return score


def _by_model(method: str, encoder: Encoder, ranked: RankedCells, settings: NetworkSettings) -> Scorer:
    changes = model_changes(method, settings)

    def score(rows: np.ndarray, regulators: np.ndarray, targets: np.ndarray) -> dict[str, ScoredPairs]:
        genes = {"regulators": regulators, "targets": targets}
        return {method: score_with_model(method, encoder, ranked, cells=rows, **genes, **changes)}

    return score


def model_changes(method: str, settings: NetworkSettings) -> dict[str, Any]:
    """Return what the settings change of a model method's own."""
    changes: dict[str, Any] = {
        "min_support": settings.min_support,
        "token_budget": settings.token_budget,
        "layers": settings.attention_layers,
        "heads": settings.attention_heads,
        "direction": settings.attention_direction,
        "cells_per_regulator": settings.cells_per_regulator,
        "seed": settings.seed,
    }
    if method == "attention":
        changes["correction"] = settings.attention_correction
    own = vars(FROM_MODEL[method].settings)
    return {name: value for name, value in changes.items() if name in own}


def _model(cells: NetworkCells, methods: tuple[str, ...]) -> tuple[Encoder, RankedCells]:
    """Return the model and the cells as it sees them, which must fit each other and what is asked."""
    if cells.encoder is None or cells.ranked is None:
        named = ", ".join(methods)
        raise ValueError(f"{named} edges need a model and ranked cells; pass both, or leave them out")
    by_head = [method for method in methods if method in (PER_HEAD, SELECTED)]
    if by_head and cells.states is not None:
        raise ValueError(
            f"{by_head[0]} is not scored within states; leave it out, or name heads for attention"
        )
    cells.vocabulary.require_same(
        cells.encoder.vocabulary.fingerprint, this="the counts", other=f"model {cells.encoder.name!r}"
    )
    return cells.encoder, cells.ranked


def _within(score: Scorer, states: np.ndarray, settings: NetworkSettings) -> Scorer:
    """Return a scorer that scores in each state alone and averages the ranks."""

    def stratified(rows: np.ndarray, regulators: np.ndarray, targets: np.ndarray) -> dict[str, ScoredPairs]:
        def of_state(part: np.ndarray) -> ScoredPairs:
            (pairs,) = score(rows[part], regulators, targets).values()
            return pairs

        pairs = stratified_edges(of_state, states[rows], min_cells=settings.min_cells)
        return {pairs.method: pairs}

    return stratified


def _by_head(encoder: Encoder, ranked: RankedCells, settings: NetworkSettings) -> Scorer:
    def score(rows: np.ndarray, regulators: np.ndarray, targets: np.ndarray) -> dict[str, ScoredPairs]:
        by_head = _heads(encoder, ranked, settings, (rows, regulators, targets))
        named = {f"attention_l{layer}h{head}": pairs for (layer, head), pairs in by_head.items()}
        return {name: replace(pairs, method=name) for name, pairs in named.items()}

    return score


def _selected(encoder: Encoder, ranked: RankedCells, settings: NetworkSettings, truth: Truth) -> Scorer:
    def score(rows: np.ndarray, regulators: np.ndarray, targets: np.ndarray) -> dict[str, ScoredPairs]:
        by_head = _heads(encoder, ranked, settings, (rows, regulators, targets))
        return {SELECTED: select_heads(by_head, truth, seed=settings.seed).scores}

    return score


def _heads(
    encoder: Encoder,
    ranked: RankedCells,
    settings: NetworkSettings,
    asked: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> dict[Head, ScoredPairs]:
    """Return the attention of every head for (rows of cells, regulators, targets)."""
    how = AttentionSettings(
        layers=settings.attention_layers,
        direction=settings.attention_direction,  # type: ignore[arg-type]  # checked by NetworkSettings
        min_support=settings.min_support,
        correction=settings.attention_correction,  # type: ignore[arg-type]  # checked by NetworkSettings
        token_budget=settings.token_budget,
    )
    rows, regulators, targets = asked
    return attention_by_head(
        encoder, ranked, regulators=regulators, targets=targets, settings=how, cells=rows
    )
