"""Spearman correlation of sparse cells, kept sparse: the many zeros share a rank, which becomes 0."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from geneformer_grn.network.cross_products import Expression
from geneformer_grn.network.inference import correlation_edges
from geneformer_grn.network.pairing import pair_up
from geneformer_grn.network.scored import ScoredPairs


def spearman_edges(
    expression: Expression, gene_ids: np.ndarray, *, regulators: Sequence[str], targets: Sequence[str]
) -> ScoredPairs:
    """Score pairs by the Spearman correlation of their expression.

    Parameters
    ----------
    expression, gene_ids, regulators, targets
        As in `geneformer_grn.network.inference.correlation_edges`.

    Returns
    -------
    ScoredPairs
        Signed weights rho, tied values sharing their mean rank, with two-sided p-values of the t
        approximation (n - 2 degrees of freedom), as `scipy.stats.spearmanr` gives them.

    Raises
    ------
    ValueError
        A gene is not in `gene_ids`, or there are fewer than 3 cells.

    Examples
    --------
    >>> import numpy as np
    >>> cells = np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 9.0]])
    >>> pairs = spearman_edges(cells, np.array(["A", "B"]), regulators=["A"], targets=["B"])
    >>> pairs.weights.tolist()
    [[1.0]]
    """
    pairing = pair_up(expression, gene_ids, regulators=regulators, targets=targets)
    wanted = np.unique(np.concatenate([pairing.rows, pairing.columns]))
    ranked = centred_ranks(expression[:, wanted])
    found = correlation_edges(ranked, gene_ids[wanted], regulators=regulators, targets=targets)
    return pairing.scored(found.weights, found.support, method="spearman", p_values=found.p_values)


def centred_ranks(expression: Expression) -> sparse.csr_matrix:
    """Return the rank of every value within its gene, minus the rank that a zero has (or would have).

    Parameters
    ----------
    expression
        ``(n, g)``, dense or CSR.

    Returns
    -------
    csr_matrix
        ``(n, g)`` float64 with the signs of `expression`, so that zeros stay unstored and what is above 0
        stays there. Tied values share their mean rank.
    """
    matrix = sparse.csc_matrix(expression)
    matrix.eliminate_zeros()
    ranks = np.empty(matrix.nnz)
    for gene in range(matrix.shape[1]):
        stored = slice(matrix.indptr[gene], matrix.indptr[gene + 1])
        values, place, count = np.unique(matrix.data[stored], return_inverse=True, return_counts=True)
        mean_rank = np.cumsum(count) - (count - 1) / 2.0  # among the stored values, from 1
        n_zeros = matrix.shape[0] - len(place)
        rank_of_zero = count[values < 0].sum() + (n_zeros + 1) / 2.0
        ranks[stored] = (mean_rank + np.where(values > 0, n_zeros, 0) - rank_of_zero)[place]
    return sparse.csr_matrix(sparse.csc_matrix((ranks, matrix.indices, matrix.indptr), shape=matrix.shape))
