"""Which genes respond to a measured perturbation, from the cells themselves: a rank-sum test of each gene.

The plain test of the field. Its unit is the cell, so that with many cells small changes are responses too;
scores that rank responders do not depend on where exactly that line is drawn, and a smallest effect can be
asked for.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from geneformer_grn.statistics import benjamini_hochberg

_GENES_PER_BLOCK = 512


def differential_expression(
    treated: sparse.csr_matrix, control: sparse.csr_matrix
) -> tuple[np.ndarray, np.ndarray]:
    """Return how far each gene's expression moved, and at which false discovery rate.

    Parameters
    ----------
    treated, control
        ``(n, g)`` and ``(m, g)`` log-normalised expression.

    Returns
    -------
    tuple of ndarray
        ``(g,)`` float64 differences of mean log-normalised expression (treated less control), and ``(g,)``
        Benjamini-Hochberg q-values of the two-sided rank-sum test (normal approximation with correction for
        ties). Genes that no cell expresses are no tests: their q-value is NaN.

    Raises
    ------
    ValueError
        A side has no cells.
    """
    from scipy.stats import mannwhitneyu

    if not treated.shape[0] or not control.shape[0]:
        raise ValueError(f"{treated.shape[0]:,} treated and {control.shape[0]:,} control cells: need both")
    effect = np.asarray(treated.mean(axis=0)).ravel() - np.asarray(control.mean(axis=0)).ravel()
    p_values = np.full(treated.shape[1], np.nan)
    expressed = np.flatnonzero((treated.getnnz(axis=0) + control.getnnz(axis=0)) > 0)
    columns, control_columns = treated.tocsc(), control.tocsc()
    for start in range(0, len(expressed), _GENES_PER_BLOCK):
        genes = expressed[start : start + _GENES_PER_BLOCK]
        test = mannwhitneyu(
            columns[:, genes].toarray(), control_columns[:, genes].toarray(), axis=0, method="asymptotic"
        )
        p_values[genes] = test.pvalue
    return np.asarray(effect, dtype=np.float64), benjamini_hochberg(p_values)
