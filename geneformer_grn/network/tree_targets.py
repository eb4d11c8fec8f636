"""What ensembles of trees share: every target on its own, several at a time, with seeds of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy import sparse

from geneformer_grn._runtime import n_cores, progress
from geneformer_grn.network.cross_products import Expression, cross_correlation
from geneformer_grn.network.pairing import pair_up
from geneformer_grn.network.scored import ScoredPairs

Importances = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""``(n, k)`` float32 regulators, ``(n,)`` float64 target, its number -> ``(k,)`` importances."""

MIN_CELLS = 20
"""Fewest cells that trees are grown on."""


def by_target(
    expression: Expression,
    gene_ids: np.ndarray,
    regulators: Sequence[str],
    targets: Sequence[str],
    grow: Importances,
    *,
    method: str,
    threads: int | None,
) -> ScoredPairs:
    """Grow the trees of every target, several targets at a time."""
    pairing = pair_up(expression, gene_ids, regulators=regulators, targets=targets)
    if pairing.n_cells < MIN_CELLS:
        raise ValueError(f"{method} needs at least {MIN_CELLS} cells, got {pairing.n_cells}")
    _, support = cross_correlation(expression, pairing.rows, pairing.columns)
    by_gene = sparse.csc_matrix(expression) if sparse.issparse(expression) else np.asarray(expression)
    inputs = _dense(by_gene, pairing.rows).astype(np.float32)
    weights = np.full(pairing.unscored.shape, np.nan)

    def run(target: int) -> None:
        column = pairing.columns[target]
        used = np.flatnonzero(~pairing.unscored[:, target])
        values = _dense(by_gene, [column])[:, 0]
        weights[used, target] = grow(inputs[:, used], (values - values.mean()) / values.std(), int(column))

    wanted = np.flatnonzero(pairing.varying).tolist()
    with ThreadPoolExecutor(threads or n_cores()) as pool:
        for _ in progress(pool.map(run, wanted), total=len(wanted), desc=method, unit="target"):
            pass
    return pairing.scored(weights, support, method=method, signed=False)


def _dense(by_gene: np.ndarray | sparse.csc_matrix, columns: Sequence[int] | np.ndarray) -> np.ndarray:
    part = by_gene[:, columns]
    return np.asarray(part.toarray() if sparse.issparse(part) else part, dtype=np.float64)


def seed_of(*numbers: int) -> int:
    """Return the seed of one target, or one of its trees, whatever the others are."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)


def require_at_least_one(settings: object, *names: str) -> None:
    """Raise ValueError unless these settings are None or 1 at least."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
