"""From edges of any kind to signed coefficients: ridge regression of each target on its kept sources.

Raw attention has no sign and a correlation no unit; only what is refitted to expression may be propagated.
The penalty is chosen per target from the correlations alone, so that the cells are read once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from geneformer_grn._runtime import logger
from geneformer_grn.network.edges import check_edges
from geneformer_grn.network.inference import Expression, cross_correlation, gcv_ridge, mean_and_sd
from geneformer_grn.network.ordering import centred_within


def refit_signed(
    edges: pd.DataFrame,
    expression: Expression,
    gene_ids: np.ndarray,
    *,
    labels: np.ndarray | None = None,
) -> pd.DataFrame:
    """Turn edges of any kind into signed coefficients, by ridge regression along the kept edges only.

    Every target is regressed on its sources in the table (standardised; the penalty of each target chosen by
    generalised cross-validation, see `geneformer_grn.network.inference.gcv_ridge`), as CellOracle does along
    its base network (Kamimoto et al. 2023). Edges that occur for several methods count once.

    Parameters
    ----------
    edges
        Edge table of one group of cells.
    expression
        ``(n, g)`` log-normalised expression of those cells, dense or CSR.
    gene_ids
        ``(g,)`` names of the columns.
    labels
        ``(n,)`` cell states, each with its own mean: one set of coefficients, free of what differs between
        states (the expression is then made dense). None: one state.

    Returns
    -------
    DataFrame
        The edge schema with ``method`` = "refit": ``weight`` is the change of the target's log-normalised
        expression per unit of the source's, ``sign`` its sign. Edges of a gene that does not vary are 0.

    Raises
    ------
    ValueError
        The table holds several groups, none of its edges has both genes in the matrix, or there are fewer
        than 3 cells.
    """
    checked = check_edges(edges)
    group = checked["group"].unique().tolist() if "group" in checked.columns else ["all"]
    if len(group) > 1:
        raise ValueError(
            f"edges are refitted to the cells of one group; the table holds {len(group)}: {group[:5]}"
        )
    if expression.shape[0] < 3:
        raise ValueError(f"a refit needs at least 3 cells, got {expression.shape[0]}")
    pairs = _known_pairs(checked, gene_ids)
    place = pd.Series(np.arange(len(gene_ids)), index=pd.Index(gene_ids))
    sources, source_row = np.unique(place.loc[pairs["source"]].to_numpy(), return_inverse=True)
    targets, target_row = np.unique(place.loc[pairs["target"]].to_numpy(), return_inverse=True)
    fitted = expression if labels is None else centred_within(expression, labels)
    correlation, support = cross_correlation(fitted, sources, np.concatenate([sources, targets]))
    if labels is not None:
        _, support = cross_correlation(expression, sources, np.concatenate([sources, targets]))
    among, cross = correlation[:, : len(sources)], correlation[:, len(sources) :]
    _, sd = mean_and_sd(fitted)
    weight = np.zeros(len(pairs))
    order = np.argsort(target_row, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(target_row[order])) + 1):
        predictors, target = source_row[rows], target_row[rows[0]]
        standardised, _ = gcv_ridge(
            among[np.ix_(predictors, predictors)], cross[predictors, target], expression.shape[0]
        )
        from_sd = sd[sources[predictors]]
        weight[rows] = np.divide(
            standardised * sd[targets[target]], from_sd, out=np.zeros(len(rows)), where=from_sd > 0
        )
    return pairs.assign(
        weight=weight.astype(np.float32),
        support=support[:, len(sources) :][source_row, target_row].astype(np.int32),
        sign=np.sign(weight).astype(np.int8),
        group=group[0],
        method="refit",
    )


def _known_pairs(edges: pd.DataFrame, gene_ids: np.ndarray) -> pd.DataFrame:
    """Return the distinct source-target pairs whose genes both have a column, sorted by target."""
    pairs = edges[["source", "target"]].drop_duplicates()
    known = pairs["source"].isin(gene_ids) & pairs["target"].isin(gene_ids)
    if not known.any():
        first = repr(pairs["source"].iloc[0]) if len(pairs) else "the table is empty"
        raise ValueError(
            f"none of {len(pairs):,} edges has both genes among the {len(gene_ids):,} of the expression "
            f"matrix (first: {first}); both need the same kind of gene ID"
        )
    if not known.all():
        left_out = int((~known).sum())
        logger.warning(
            "%d of %d edges left out of the refit: a gene is not in the expression matrix",
            left_out,
            len(pairs),
        )
    return pairs[known].sort_values(["target", "source"], kind="stable").reset_index(drop=True)


def expression_change(
    expression: Expression, gene_ids: np.ndarray, *, genes: Sequence[str], kind: str
) -> dict[str, float]:
    """Return by how much a perturbation changes each gene's mean log-normalised expression.

    Parameters
    ----------
    expression, gene_ids
        ``(n, g)`` log-normalised expression and the names of its columns.
    genes
        Genes to perturb, each on its own.
    kind
        ``delete``: down to 0. ``overexpress``: up to the 95th percentile of the cells that express the gene.

    Returns
    -------
    dict
        Gene -> change; 0 for a gene that no cell expresses.

    Raises
    ------
    ValueError
        The kind is unknown, or a gene has no column.
    """
    if kind not in {"delete", "overexpress"}:
        raise ValueError(f"perturbation kind {kind!r} is unknown here; use delete or overexpress")
    place = {gene: column for column, gene in enumerate(gene_ids.tolist())}
    changes = {}
    for gene in genes:
        if gene not in place:
            raise ValueError(f"gene {gene!r} is not in the expression matrix")
        column = expression[:, [place[gene]]]
        values = np.asarray(column.todense() if hasattr(column, "todense") else column, dtype=float).ravel()
        expressed = values[values > 0]
        if kind == "delete" or expressed.size == 0:
            changes[gene] = -float(values.mean())
        else:
            changes[gene] = float(np.percentile(expressed, 95) - values.mean())
    return changes
