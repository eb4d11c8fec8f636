"""Attention heads that find known edges, chosen on other regulators than those they then score.

Most heads of a model have nothing to do with regulation, and their mean drowns those that may. Which ones to
read can be learned from known edges, but then the edges they were chosen by say nothing of how good they are:
here every regulator of the truth is scored by heads that were chosen without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from geneformer_grn.extraction.attention_sums import Head
from geneformer_grn.metrics import average_precision
from geneformer_grn.network.folds import FOLDS
from geneformer_grn.network.known_pairs import known_pairs
from geneformer_grn.network.pair_features import global_ranks, require_same_pairs
from geneformer_grn.network.scored import ScoredPairs
from geneformer_grn.network.truth import Truth

MOST_HEADS = 8


@dataclass(frozen=True, eq=False, kw_only=True)
class HeadSelection:
    """What was chosen.

    Parameters
    ----------
    scores
        Mean rank of the pairs by the chosen heads, 0 to 1; out of fold for the regulators of the truth.
    fold
        ``(R,)`` int64, fold of every regulator; -1 where the truth does not know it.
    heads
        For every fold the heads chosen on the others, best first.
    all_heads
        Those chosen on all folds, which score the regulators that the truth does not know.
    """

    scores: ScoredPairs
    fold: np.ndarray
    heads: tuple[tuple[Head, ...], ...]
    all_heads: tuple[Head, ...]


def select_heads(
    by_head: Mapping[Head, ScoredPairs], truth: Truth, *, most: int = MOST_HEADS, seed: int = 0
) -> HeadSelection:
    """Choose heads by the average precision of their edges, and score each regulator without its own edges.

    Heads are put in order by their average precision on the regulators of the other folds; the first few are
    taken, as many as together (by mean rank) are best there.

    Parameters
    ----------
    by_head
        (layer, head) -> scores, see `geneformer_grn.extraction.attention.attention_by_head`.
    truth
        Known edges.
    most
        Heads to take, at most.
    seed
        Of the folds.

    Raises
    ------
    ValueError
        `most` is below 1, there is no head, or fewer than 5 regulators have known edges among the pairs.

    Examples
    --------
    >>> select_heads(attention_by_head(encoder, ranked, regulators=tfs, targets=genes), truth).all_heads
    ... # doctest: +SKIP
    ((3, 1), (2, 0))
    """
    if most < 1:
        raise ValueError(f"at least 1 head must be taken, got {most}")
    first = require_same_pairs(
        {f"layer {layer}, head {head}": by_head[layer, head] for layer, head in by_head}
    )
    pairs = known_pairs(first, truth, seed=seed)
    ranks = {head: global_ranks(scored) for head, scored in by_head.items()}

    def chosen(rows: np.ndarray) -> tuple[Head, ...]:
        where = pairs.judged & rows[:, None]
        labels = pairs.known[where]
        inside = {head: rank[where].astype(np.float64) for head, rank in ranks.items()}
        areas = {head: average_precision(labels, values) for head, values in inside.items()}
        order = sorted(areas, key=lambda head: (-areas[head], head))[:most]
        together = np.cumsum([inside[head] for head in order], axis=0)
        best = int(np.argmax([average_precision(labels, total) for total in together]))
        return tuple(order[: best + 1])

    known = pairs.fold >= 0
    all_heads = chosen(known)
    weights = np.asarray(np.mean([ranks[head] for head in all_heads], axis=0, dtype=np.float64))
    heads = []
    for fold in range(FOLDS):
        heads.append(chosen(known & (pairs.fold != fold)))
        rows = pairs.fold == fold
        weights[rows] = np.mean([ranks[head][rows] for head in heads[-1]], axis=0, dtype=np.float64)
    scores = ScoredPairs(
        regulators=first.regulators, targets=first.targets,
        weights=np.where(first.scored, weights, np.nan).astype(np.float32),
        support=first.support, method="attention_selected", signed=False,
    )  # fmt: skip
    return HeadSelection(scores=scores, fold=pairs.fold, heads=tuple(heads), all_heads=all_heads)
