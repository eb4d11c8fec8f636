"""A linear Gaussian Bayesian network by pgmpy's hill climbing, for small sets of genes.

Edges are added, taken away and turned, always the change that raises the Bayesian information criterion most,
until none does. The search is pgmpy's (the extra ``bayes``), on its own terms: greedy, and slow beyond some
hundred genes. The score is pgmpy's too, but computed from correlations: its own fits a regression in Python
for each of tens of thousands of candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geneformer_grn.network.cross_products import Expression, cross_correlation
from geneformer_grn.network.pairing import Pairing, pair_up
from geneformer_grn.network.scored import ScoredPairs

if TYPE_CHECKING:
    import pandas as pd

MAX_GENES = 200
"""Most genes, regulators and targets together."""

_LEAST_VARIANCE = 1e-10
_DIGITS = 6  # of scores


def bayesian_network_edges(
    expression: Expression,
    gene_ids: np.ndarray,
    *,
    regulators: Sequence[str],
    targets: Sequence[str],
    max_parents: int = 5,
    candidates: int = 10,
) -> ScoredPairs:
    """Score pairs by the coefficients of a linear Gaussian Bayesian network (pgmpy's hill climbing).

    Among networks that have the same likelihood and differ in the direction of an edge between two
    regulators, the search ends at one; such directions are no finding.

    Parameters
    ----------
    expression, gene_ids, regulators, targets
        As in `geneformer_grn.network.inference.correlation_edges`.
    max_parents
        Regulators a gene may have.
    candidates
        A gene's regulators are looked for among this many that correlate with it most (the sparse candidate
        algorithm, Friedman, Nachman & Pe'er 1999, in its first round).

    Returns
    -------
    ScoredPairs
        Signed weights, the standardised coefficients of each gene on its regulators; exactly 0 where there
        is no edge. No p-values.

    Raises
    ------
    ImportError
        pgmpy is not installed.
    ValueError
        There are more than 200 genes, a gene is not in `gene_ids`, there are fewer cells than a gene may have
        regulators and 3, or a number is below 1.

    Examples
    --------
    >>> import numpy as np
    >>> cells = np.random.default_rng(0).normal(size=(200, 3))
    >>> cells[:, 2] += cells[:, 0]
    >>> pairs = bayesian_network_edges(
    ...     cells, np.array(["A", "B", "C"]), regulators=["A", "B"], targets=["C"]
    ... )
    >>> (pairs.weights != 0).tolist()
    [[True], [False]]
    """
    if max_parents < 1 or candidates < 1:
        raise ValueError(f"regulators of a gene are counted from 1, got {max_parents} of {candidates}")
    pairing = pair_up(expression, gene_ids, regulators=regulators, targets=targets)
    genes = np.union1d(pairing.rows, pairing.columns)
    if len(genes) > MAX_GENES:
        raise ValueError(
            f"a Bayesian network is searched for at most {MAX_GENES:,} regulators and targets; got "
            f"{len(genes):,}. Use fewer targets (--max-targets)"
        )
    if pairing.n_cells < max_parents + 3:
        raise ValueError(
            f"a Bayesian network with up to {max_parents} regulators a gene needs at least {max_parents + 3} "
            f"cells, got {pairing.n_cells}"
        )
    correlation, support = cross_correlation(expression, genes, genes)
    allowed = candidate_edges(correlation, pairing, genes, candidates)
    edges = climb(correlation, pairing.n_cells, allowed, max_parents=max_parents)
    weights = coefficients(correlation, edges)
    place = np.ix_(np.searchsorted(genes, pairing.rows), np.searchsorted(genes, pairing.columns))
    return pairing.scored(weights[place], support[place], method="bayesian_network")


def candidate_edges(
    correlation: np.ndarray, pairing: Pairing, genes: np.ndarray, candidates: int
) -> np.ndarray:
    """Return ``(g, g)`` bool, for each gene the regulators that correlate with it most; row regulates column.

    Only genes that were asked for as targets have any.
    """
    rows, columns = np.searchsorted(genes, pairing.rows), np.searchsorted(genes, pairing.columns)
    strength = np.zeros_like(correlation)
    part = np.ix_(rows, columns)
    strength[part] = np.where(pairing.unscored, 0.0, np.abs(correlation[part]))
    weakest = -np.sort(-strength, axis=0)[min(candidates, len(genes)) - 1]
    return (strength >= weakest) & (strength > 0)


def climb(correlation: np.ndarray, n_cells: int, allowed: np.ndarray, *, max_parents: int) -> np.ndarray:
    """Return ``(g, g)`` bool, the edges of pgmpy's hill climbing under the Gaussian BIC.

    A gene that regulates nothing closes no loop, and the score is a sum over genes: each of those is a search
    of its own, as is that of all regulators together. One search over all genes climbs the same steps but
    for its list of steps not to be taken back, and takes twenty times as long for 20 regulators of 80 genes.

    Parameters
    ----------
    correlation
        ``(g, g)``.
    n_cells
        Number of cells behind them.
    allowed
        ``(g, g)`` bool, the edges to choose from; row regulates column.
    max_parents
        Edges into a gene, at most.

    Raises
    ------
    ImportError
        pgmpy is not installed.
    """
    edges = np.zeros(allowed.shape, dtype=bool)
    regulates = allowed.any(axis=1)
    searches = [regulates] if (allowed & regulates).any() else []
    searches += [np.arange(len(allowed)) == gene for gene in np.flatnonzero(allowed.any(axis=0) & ~regulates)]
    for into in searches:
        part = allowed & into
        edges |= _search(correlation, n_cells, part, max_parents=max_parents)
    return edges


def _search(correlation: np.ndarray, n_cells: int, allowed: np.ndarray, *, max_parents: int) -> np.ndarray:
    """Return the edges that one run of pgmpy's hill climbing finds among those allowed."""
    try:
        from pgmpy.causal_discovery import ExpertKnowledge, HillClimbSearch
    except ImportError as error:
        raise ImportError(
            "bayesian_network needs pgmpy 1.1 or newer, which is not installed: "
            'pip install "geneformer-grn[bayes]", or use dag'
        ) from error
    import pandas as pd

    # Genes go by numbers: pgmpy walks through sets, whose order changes with every run where they hold text.
    genes = np.flatnonzero(allowed.any(axis=0) | allowed.any(axis=1)).tolist()
    possible = [(source, target) for source, target in np.argwhere(allowed).tolist()]
    # The score has the correlations; of the cells, pgmpy asks for the names of their columns only.
    nothing = pd.DataFrame(np.zeros((2, len(genes))), columns=genes)
    search = HillClimbSearch(
        scoring_method=gaussian_bic(correlation, n_cells, nothing),
        expert_knowledge=ExpertKnowledge(search_space=possible),
        max_indegree=max_parents,
        return_type="dag",
        show_progress=False,
    )
    search.fit(nothing)
    edges = np.zeros(allowed.shape, dtype=bool)
    for source, target in search.causal_graph_.edges():
        edges[source, target] = True
    return edges


def gaussian_bic(correlation: np.ndarray, n_cells: int, nothing: pd.DataFrame) -> Any:
    """Return pgmpy's score ``bic-g``, up to a constant for each gene, computed from correlations.

    ``-n / 2 · log(residual variance) - (parents + 1) / 2 · log(n)`` for a gene of unit variance. Genes are
    known by their place in the matrix; `nothing` is what pgmpy takes for their cells. Scores are rounded, so
    that two directions of an edge which are as good are exactly so, whatever the rounding of correlations.
    """
    from pgmpy.structure_score import BaseStructureScore

    class GaussianBIC(BaseStructureScore):
        def _local_score(self, variable: int, parents: tuple[int, ...]) -> float:
            left = residual_variance(correlation, variable, parents)
            score = -n_cells / 2.0 * np.log(left) - (len(parents) + 1) / 2.0 * np.log(n_cells)
            return round(float(score), _DIGITS)

        def local_score(self, variable: int, parents: tuple[int, ...]) -> float:
            return super().local_score(variable, tuple(sorted(parents)))  # one entry for all their orders

    return GaussianBIC(nothing)


def residual_variance(correlation: np.ndarray, gene: int, parents: Sequence[int]) -> float:
    """Return the variance of a standardised gene that its parents leave unexplained."""
    if len(parents) == 0:
        return 1.0
    above = list(parents)
    cross = correlation[above, gene]
    weights, *_ = np.linalg.lstsq(correlation[np.ix_(above, above)], cross, rcond=None)
    return max(float(1.0 - cross @ weights), _LEAST_VARIANCE)


def coefficients(correlation: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return ``(g, g)`` least-squares coefficients of each standardised gene on its regulators."""
    weights = np.zeros_like(correlation)
    for gene in np.flatnonzero(edges.any(axis=0)):
        parents = np.flatnonzero(edges[:, gene])
        within = correlation[np.ix_(parents, parents)]
        weights[parents, gene] = np.linalg.lstsq(within, correlation[parents, gene], rcond=None)[0]
    return weights
