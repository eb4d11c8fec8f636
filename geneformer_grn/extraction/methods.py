"""Every way of getting edges out of the model, by name and with one signature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.extraction.attention import AttentionSettings, attention_edges
from geneformer_grn.extraction.gene_shifts import ShiftSettings, gene_shift_edges
from geneformer_grn.extraction.influence import InfluenceSettings, influence_edges
from geneformer_grn.extraction.rollout import RolloutSettings, rollout_edges
from geneformer_grn.extraction.similarity import SimilaritySettings, contextual_edges, embedding_edges
from geneformer_grn.model.encoder import Encoder
from geneformer_grn.network.scored import ScoredPairs


class ModelMethod(NamedTuple):
    """One method.

    Parameters
    ----------
    score
        ``(encoder, ranked, *, regulators, targets, settings, cells) -> ScoredPairs``.
    settings
        Its settings object, with what it uses unless told otherwise.
    """

    score: Callable[..., ScoredPairs]
    settings: Any


METHODS: dict[str, ModelMethod] = {
    "attention": ModelMethod(attention_edges, AttentionSettings()),
    "attention_rank_corrected": ModelMethod(attention_edges, AttentionSettings(correction="rank_position")),
    "attention_rollout": ModelMethod(rollout_edges, RolloutSettings()),
    "embedding": ModelMethod(embedding_edges, SimilaritySettings()),
    "contextual": ModelMethod(contextual_edges, SimilaritySettings()),
    "influence": ModelMethod(influence_edges, InfluenceSettings()),
    "gene_shifts": ModelMethod(gene_shift_edges, ShiftSettings()),
}


def score_with_model(
    method: str,
    encoder: Encoder,
    ranked: RankedCells,
    *,
    regulators: np.ndarray,
    targets: np.ndarray,
    cells: np.ndarray | None = None,
    **changes: Any,
) -> ScoredPairs:
    """Score regulator → target pairs by one method of `METHODS`.

    Parameters
    ----------
    method
        Its name.
    encoder, ranked, regulators, targets, cells
        As in `geneformer_grn.extraction.attention.attention_edges`.
    **changes
        Of the method's settings; all have ``min_support`` and ``token_budget``.

    Returns
    -------
    ScoredPairs
        ``method`` is the name asked for.

    Raises
    ------
    ValueError
        There is no such method or setting.

    Examples
    --------
    >>> score_with_model("influence", encoder, ranked, regulators=tfs, targets=genes, removal="swap")
    ... # doctest: +SKIP
    """
    if method not in METHODS:
        raise ValueError(f"model method {method!r} is not available; choose one of {', '.join(METHODS)}")
    score, settings = METHODS[method]
    unknown = [name for name in changes if name not in vars(settings)]
    if unknown:
        raise ValueError(f"{method} has no setting {', '.join(unknown)}; it has {', '.join(vars(settings))}")
    pairs = score(
        encoder, ranked, regulators=regulators, targets=targets, cells=cells,
        settings=replace(settings, **changes),
    )  # fmt: skip
    return replace(pairs, method=method)
