"""Responses without a choice of edges, or cell by cell: marginal covariance, and CellOracle's iteration.

The marginal covariance is the control: what co-expression alone says that a perturbation does. A network is
worth having where it predicts better. Along the least-squares coefficients of every gene on all others, the
linear response is the marginal covariance exactly: both are the expectation of the others given the perturbed
one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import sparse

from geneformer_grn.network.cross_products import Expression, cross_correlation, mean_and_sd
from geneformer_grn.network.edges import check_edges
from geneformer_grn.network.propagation import signed_weights

_COLUMNS = ["source", "gene", "group", "hop", "effect"]
_CELLS_TOGETHER = 2_000


def marginal_response(
    expression: Expression,
    gene_ids: np.ndarray,
    changes: Mapping[str, float],
    *,
    targets: Sequence[str] | None = None,
    group: str = "all",
) -> pd.DataFrame:
    """Return what co-expression alone predicts: ``cov(i, j) / var(i)`` times the change of gene i.

    Parameters
    ----------
    expression
        ``(n, g)`` expression of the cells of one state, dense or CSR, in the units of `changes`.
    gene_ids
        ``(g,)`` names of the columns.
    changes
        Source -> change it is held at.
    targets
        Genes to predict; None: all of `gene_ids`.
    group
        Name of the cells, for the table.

    Returns
    -------
    DataFrame
        ``source``, ``gene``, ``group``, ``hop`` (0 for the source, 1 for all others: nothing is known of
        paths), ``effect`` float64; no row where the effect is 0.

    Raises
    ------
    ValueError
        A gene is not in `gene_ids`, or there are fewer than 3 cells.

    Examples
    --------
    >>> cells = np.array([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]])
    >>> marginal_response(cells, np.array(["A", "B"]), {"A": -1.0})["effect"].round(6).tolist()
    [-1.0, -2.0]
    """
    n_cells = expression.shape[0]
    if n_cells < 3:
        raise ValueError(f"a covariance needs at least 3 cells, got {n_cells}")
    place = {gene: column for column, gene in enumerate(gene_ids.tolist())}
    wanted = list(gene_ids) if targets is None else list(targets)
    unknown = [gene for gene in [*changes, *wanted] if gene not in place]
    if unknown:
        raise ValueError(
            f"{len(unknown):,} of {len(changes) + len(wanted):,} genes are not in the expression matrix "
            f"(first: {unknown[0]!r})"
        )
    sources = np.array([place[gene] for gene in changes], dtype=np.int64)
    columns = np.array([place[gene] for gene in wanted], dtype=np.int64)
    correlation, _ = cross_correlation(expression, sources, columns)
    _, sd = mean_and_sd(expression)
    inverse = np.divide(1.0, sd[sources], out=np.zeros(len(sources)), where=sd[sources] > 0)
    effects = correlation * (np.array(list(changes.values())) * inverse)[:, None] * sd[columns]
    parts = []
    for row, (source, change) in enumerate(changes.items()):
        others = np.flatnonzero((effects[row] != 0) & (columns != sources[row]))
        parts.append(
            pd.DataFrame(
                {
                    "source": source,
                    "gene": [source, *(wanted[other] for other in others)],
                    "group": group,
                    "hop": np.append(0, np.ones(len(others), dtype=np.int64)),
                    "effect": np.append(float(change), effects[row, others]),
                }
            )
        )
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=_COLUMNS)


def clamped_response(
    edges: pd.DataFrame,
    expression: Expression,
    gene_ids: np.ndarray,
    *,
    source: str,
    level: float = 0.0,
    n_steps: int = 3,
) -> np.ndarray:
    """Simulate every cell with one gene held at a level, as CellOracle does.

    Step by step, each gene's change is the sum over its regulators of coefficient × their change, the
    perturbed gene's change is put back to what it is held at, and expression below zero is raised to zero.

    Parameters
    ----------
    edges
        Signed coefficients of one group (see `geneformer_grn.network.refit.refit_signed`).
    expression
        ``(n, g)`` expression of its cells, in the units of the coefficients, dense or CSR.
    gene_ids
        ``(g,)`` names of the columns.
    source
        The perturbed gene.
    level
        Expression it is held at in every cell; 0 is a knock-out.
    n_steps
        Number of steps; CellOracle's default is 3.

    Returns
    -------
    ``(n, g)`` float64 change of every gene in every cell.

    Raises
    ------
    ValueError
        The source is not in `gene_ids`, the weights are no coefficients, or a number is impossible.

    Notes
    -----
    Kamimoto et al. (2023), Dissecting cell identity via network inference and in silico gene perturbation,
    Nature 614, "Simulation of cell identity shift". A change that is 0 in a cell is not held there either,
    in CellOracle; here the perturbed gene is held in every cell. `geneformer_grn.network.propagation`
    does the same for the mean of the cells.

    Examples
    --------
    >>> shifts = clamped_response(signed, expression, genes, source="ENSG00000066336")  # doctest: +SKIP
    >>> shifts.mean(axis=0)  # doctest: +SKIP
    """
    inputs, place = _inputs(edges, gene_ids)
    if source not in place:
        raise ValueError(f"gene {source!r} is not in the expression matrix")
    if n_steps < 1 or not level >= 0:
        raise ValueError(
            f"a simulation takes at least 1 step at a level of 0 or more, got {n_steps}, {level}"
        )
    start = _dense(expression)
    *_, change = _steps(inputs, start, place[source], level, n_steps)
    return change


def clamped_effects(
    edges: pd.DataFrame,
    expression: Expression,
    gene_ids: np.ndarray,
    changes: Mapping[str, float],
    *,
    n_steps: int = 3,
    group: str = "all",
) -> pd.DataFrame:
    """Return the mean of `clamped_response` over the cells, for several genes and step by step.

    Parameters
    ----------
    edges, expression, gene_ids, n_steps
        As in `clamped_response`; genes without an edge are left out.
    changes
        Source -> change of its mean; every cell is held at the changed mean, 0 at least.
    group
        Name of the cells, for the table.

    Returns
    -------
    DataFrame
        ``source``, ``gene``, ``group``, ``hop`` (0 for the source itself; what one more step changes, so that
        the sum over hops is the predicted change) and ``effect``; no row where the effect is 0.
    """
    inside = set(edges["source"]) | set(edges["target"]) | set(changes)
    columns = np.flatnonzero([gene in inside for gene in gene_ids.tolist()])
    genes, part = gene_ids[columns], expression[:, columns]
    inputs, place = _inputs(edges, genes)
    mean, _ = mean_and_sd(part)
    tables = []
    for source, change in changes.items():
        level = max(float(mean[place[source]]) + change, 0.0)
        total = np.zeros((n_steps + 1, len(genes)))
        for begin in range(0, part.shape[0], _CELLS_TOGETHER):
            start = _dense(part[begin : begin + _CELLS_TOGETHER])
            for step, shift in enumerate(_steps(inputs, start, place[source], level, n_steps)):
                total[step] += shift.sum(axis=0)
        effects = np.diff(total / part.shape[0], axis=0, prepend=0.0)
        hops, positions = np.nonzero(effects)
        tables.append(
            pd.DataFrame(
                {
                    "source": source, "gene": genes[positions], "group": group, "hop": hops,
                    "effect": effects[hops, positions],
                }
            )
        )  # fmt: skip
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=_COLUMNS)


def _inputs(edges: pd.DataFrame, gene_ids: np.ndarray) -> tuple[sparse.csr_matrix, dict[str, int]]:
    """Return the ``(g, g)`` coefficients, a row a target, and the place of each gene."""
    place = {gene: column for column, gene in enumerate(gene_ids.tolist())}
    checked = check_edges(edges)
    coefficients = signed_weights(checked).to_numpy(np.float64)
    known = (checked["source"].isin(place) & checked["target"].isin(place)).to_numpy()
    rows = checked.loc[known, "source"].map(place).to_numpy(np.int64)
    columns = checked.loc[known, "target"].map(place).to_numpy(np.int64)
    shape = (len(gene_ids), len(gene_ids))
    return sparse.csr_matrix((coefficients[known], (columns, rows)), shape=shape), place


def _dense(expression: Expression) -> np.ndarray:
    return np.asarray(expression.toarray() if sparse.issparse(expression) else expression, dtype=np.float64)


def _steps(
    inputs: sparse.csr_matrix, start: np.ndarray, source: int, level: float, n_steps: int
) -> Iterator[np.ndarray]:
    """Yield the ``(n, g)`` change after no step, one, two, ..."""
    held = level - start[:, source]
    change = np.zeros_like(start)
    change[:, source] = held
    yield change
    for _ in range(n_steps):
        change = (inputs @ change.T).T
        change[:, source] = held
        change = np.maximum(change, -start)
        yield change
