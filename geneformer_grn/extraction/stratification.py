"""Edges within cell states: scored in each state alone, put on one scale, and averaged.

Over cells of several states every method finds the genes that mark them. Within a state that contrast is
gone. What is averaged are z-scores or ranks, since weights of different states need not be comparable; a
state counts once, however many cells it has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np

from geneformer_grn._runtime import logger
from geneformer_grn.network.scored import ScoredPairs


def stratified_edges(
    score: Callable[[np.ndarray], ScoredPairs],
    states: np.ndarray,
    *,
    scale: Literal["rank", "z"] = "rank",
    min_cells: int = 20,
) -> ScoredPairs:
    """Score pairs in each cell state alone, and average over states.

    Parameters
    ----------
    score
        Given rows of cells, returns scores over pairs that are the same for all rows.
    states
        ``(n,)`` str state of each cell; empty: none, the cell is left out.
    scale
        ``rank``: the rank of a pair's magnitude among those scored in the state, 0 to 1, with the sign of
        the weight where the method has one. ``z``: the weight less its mean over the pairs, over their
        standard deviation; only for methods without a sign, and then moved so that the least weight is 0.
    min_cells
        Smaller states are left out.

    Returns
    -------
    ScoredPairs
        Mean over the states that scored a pair, NaN where none did; ``support`` is added up. One table of
        sums is held beside that of the state being scored.

    Raises
    ------
    ValueError
        No state is large enough, or z-scores are asked of signed weights.

    Examples
    --------
    >>> score = partial(attention_edges, encoder, ranked, regulators=tfs, targets=genes)  # doctest: +SKIP
    >>> stratified_edges(lambda rows: score(cells=rows), labels)  # doctest: +SKIP
    """
    if scale not in {"rank", "z"}:
        raise ValueError(f"scale {scale!r} is unknown; use rank or z")
    names, sizes = np.unique(np.asarray(states, dtype=str), return_counts=True)
    kept = [name for name, size in zip(names, sizes, strict=True) if name and size >= min_cells]
    if not kept:
        found = ", ".join(f"{name} ({size})" for name, size in zip(names, sizes, strict=True) if name)
        raise ValueError(f"no cell state has {min_cells} cells: {found or 'none is labelled'}")
    logger.info("scored within %d cell states: %s", len(kept), ", ".join(kept))
    sums: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    for name in kept:
        pairs = score(np.flatnonzero(np.asarray(states, dtype=str) == name))
        if scale == "z" and pairs.signed:
            raise ValueError(f"z-scores would shift the signs of {pairs.method}; use ranks")
        values = _ranks(pairs) if scale == "rank" else _z_scores(pairs)
        if sums is None:
            sums = (
                np.zeros(values.shape),
                np.zeros(values.shape, dtype=np.int32),
                np.zeros_like(pairs.support),
            )
        total, n_states, support = sums
        total[pairs.scored] += values[pairs.scored]
        n_states += pairs.scored
        support += pairs.support
    mean = np.divide(total, n_states, out=np.full(total.shape, np.nan), where=n_states > 0)
    if scale == "z" and np.isfinite(mean).any():
        mean -= np.nanmin(mean)
    return replace(pairs, weights=mean.astype(np.float32), support=support, p_values=None)


def _ranks(pairs: ScoredPairs) -> np.ndarray:
    ranks = np.full(pairs.weights.shape, np.nan, dtype=np.float32)
    for row, scored in enumerate(pairs.scored):  # all pairs at once would take many times their memory
        columns = np.flatnonzero(scored)
        ranks[row, columns] = pairs.percentiles(np.full(len(columns), row), columns) / 100.0
    return np.copysign(ranks, pairs.weights) if pairs.signed else ranks


def _z_scores(pairs: ScoredPairs) -> np.ndarray:
    values = pairs.weights[pairs.scored].astype(np.float64)
    sd = values.std() if len(values) else 0.0
    mean = values.mean() if len(values) else 0.0
    return (pairs.weights - mean) / sd if sd > 0 else np.where(pairs.scored, 0.0, np.nan)
