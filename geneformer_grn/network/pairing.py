"""What every method that scores pairs from expression needs first: columns, exclusions, checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geneformer_grn.network.cross_products import Expression, mean_and_sd
from geneformer_grn.network.scored import ScoredPairs


@dataclass(frozen=True, eq=False, kw_only=True)
class Pairing:
    """Regulators × targets, found in a matrix of expression.

    Parameters
    ----------
    gene_ids
        ``(g,)`` names of the columns.
    rows, columns
        ``(R,)`` and ``(T,)`` int64 column numbers of regulators and targets.
    own
        ``(T,)`` int64 row of the target itself among the regulators; -1 where it is none.
    unscored
        ``(R, T)`` bool: a gene with itself, or a gene that does not vary.
    n_cells
        Number of cells.
    """

    gene_ids: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    own: np.ndarray
    unscored: np.ndarray
    n_cells: int

    @property
    def varying(self) -> np.ndarray:
        """``(T,)`` bool, targets with at least one scored regulator."""
        return np.logical_not(self.unscored.all(axis=0))

    def scored(
        self,
        weights: np.ndarray,
        support: np.ndarray,
        *,
        method: str,
        signed: bool = True,
        p_values: np.ndarray | None = None,
    ) -> ScoredPairs:
        """Return scores of these pairs; weights and p-values ``(R, T)`` are NaN where nothing is scored."""
        return ScoredPairs(
            regulators=self.gene_ids[self.rows],
            targets=self.gene_ids[self.columns],
            weights=np.where(self.unscored, np.nan, weights).astype(np.float32),
            support=support,
            method=method,
            signed=signed,
            p_values=None if p_values is None else np.where(self.unscored, np.nan, p_values),
        )


def pair_up(
    expression: Expression, gene_ids: np.ndarray, *, regulators: Sequence[str], targets: Sequence[str]
) -> Pairing:
    """Find regulators and targets in a matrix of expression.

    Parameters
    ----------
    expression
        ``(n, g)`` log-normalised expression, dense or CSR.
    gene_ids
        ``(g,)`` names of the columns.
    regulators, targets
        Genes to pair, by these names.

    Raises
    ------
    ValueError
        A gene is not in `gene_ids`, there is no regulator or target, or there are fewer than 3 cells.
    """
    rows, columns = _columns(regulators, gene_ids), _columns(targets, gene_ids)
    n_cells = int(expression.shape[0])
    if n_cells < 3:
        raise ValueError(f"a network needs at least 3 cells, got {n_cells}")
    place = {column: row for row, column in enumerate(rows.tolist())}
    _, sd = mean_and_sd(expression)
    return Pairing(
        gene_ids=gene_ids,
        rows=rows,
        columns=columns,
        own=np.array([place.get(column, -1) for column in columns.tolist()], dtype=np.int64),
        unscored=(rows[:, None] == columns) | (sd[rows] == 0)[:, None] | (sd[columns] == 0),
        n_cells=n_cells,
    )


def _columns(genes: Sequence[str], gene_ids: np.ndarray) -> np.ndarray:
    place = {gene: column for column, gene in enumerate(gene_ids.tolist())}
    unknown = [gene for gene in genes if gene not in place]
    if unknown:
        raise ValueError(
            f"{len(unknown):,} of {len(genes):,} genes are not in the expression matrix "
            f"(first: {unknown[0]!r})"
        )
    if len(genes) == 0:
        raise ValueError("a network needs at least one regulator and one target")
    return np.array([place[gene] for gene in genes], dtype=np.int64)
