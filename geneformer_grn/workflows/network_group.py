"""The network of one group: every method called, combined, and laid out as tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from geneformer_grn._runtime import logger
from geneformer_grn.network.combination import aggregate_ranks, combine_supervised
from geneformer_grn.network.pair_features import gene_traits
from geneformer_grn.network.scored import ScoredPairs, agreement, to_edges
from geneformer_grn.network.truth import Truth
from geneformer_grn.workflows.network_scorers import NetworkCells, Scorer
from geneformer_grn.workflows.network_settings import COMBINED, SELECTED


def score_group(
    score: dict[str, Scorer],
    rows: np.ndarray,
    regulators: np.ndarray,
    targets: np.ndarray,
    *,
    group: str,
    lenient: bool,
) -> dict[str, ScoredPairs]:
    """Return the scores of one group; methods that cannot take it are left out where they may be.

    Those whose package is missing leave `score`: they are told of once.
    """
    found: dict[str, ScoredPairs] = {}
    refused: dict[str, ValueError] = {}
    for method in tuple(score):
        try:
            found |= score[method](rows, regulators, targets)
        except ImportError as error:
            if not lenient:
                raise
            logger.warning("left out: %s: %s", method, error)
            del score[method]
        except ValueError as error:
            if not lenient:
                raise
            refused[method] = error
    if refused:
        reasons = "; ".join(f"{method}: {error}" for method, error in refused.items())
        if not found:
            raise ValueError(f"no method can take group {group!r}: {reasons}")
        logger.warning("group %r: left out: %s", group, reasons)
    return found


def combined(
    scored: dict[str, ScoredPairs], cells: NetworkCells, rows: np.ndarray, *, truth: Truth | None, seed: int
) -> ScoredPairs:
    """Return one ranking out of several: learned from known edges where there are any, else of mean ranks.

    Raises
    ------
    ValueError
        There are fewer than two methods to combine, or the truth knows too few of the regulators.
    """
    # heads were chosen by edges of the very regulators that a fit is judged on
    scored = {method: pairs for method, pairs in scored.items() if method != SELECTED}
    if len(scored) < 2:
        raise ValueError(
            f"combined needs two other methods or more, got {', '.join(scored) or 'none'}; name them beside "
            "it, or name combined alone for a choice of them"
        )
    if truth is None:
        return replace(aggregate_ranks(scored), method=COMBINED)
    traits = gene_traits(cells.expression[rows], cells.gene_ids)
    return replace(combine_supervised(scored, truth, traits=traits, seed=seed), method=COMBINED)


def _other(method: str, methods: list[str]) -> str | None:
    """Return what a method is compared with: correlation, or for correlation the first other one."""
    others = [name for name in methods if name != method]
    return "correlation" if "correlation" in others else others[0] if others else None


def tables_of(scored: dict[str, ScoredPairs], top: int, group: str) -> list[pd.DataFrame]:
    """Return the strongest edges of every method, with their percentile under another one."""
    tables = []
    for method, pairs in scored.items():
        other = _other(method, list(scored))
        tables.append(to_edges(pairs, top=top, group=group, other=scored[other] if other else None))
    return tables


def agreements_of(scored: dict[str, ScoredPairs], top: int) -> dict[str, dict[str, Any]]:
    """Return method -> how far it agrees with correlation, or with the first method without it."""
    reference = "correlation" if "correlation" in scored else next(iter(scored))
    return {
        method: {"with": reference, **agreement(pairs, scored[reference], top=top)}
        for method, pairs in scored.items()
        if method != reference
    }
