"""Lasso and elastic net for all targets at once, from correlations.

The cells are read once, into cross-products; from there the work does not depend on how many there were. On a
CPU each target descends coordinate by coordinate, on a GPU all targets take gradient steps together; both end
at the same weights. A target that is itself a regulator keeps a weight of 0 on itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from geneformer_grn._runtime import choose_device, logger
from geneformer_grn.network.cross_products import Expression, Precision
from geneformer_grn.network.inference import gcv_error, predictors_and_targets
from geneformer_grn.network.pairing import Pairing, pair_up
from geneformer_grn.network.scored import ScoredPairs

Solver = Callable[[np.ndarray, float, float], np.ndarray]

PATH = tuple(float(10.0**power) for power in np.linspace(0.0, -2.5, 16)[1:])
"""Penalties tried, strongest first, as shares of the smallest one at which every weight is 0."""

TOLERANCE = {"float64": 1e-9, "float32": 1e-5}
"""Largest change of a weight in a sweep, or entry of its proximal gradient, that counts as converged."""

STEPPED_ON = frozenset({"cuda"})
"""Devices where all targets take gradient steps together."""

_PATH_TOLERANCE = 1e-5


def lasso_edges(
    expression: Expression,
    gene_ids: np.ndarray,
    *,
    regulators: Sequence[str],
    targets: Sequence[str],
    penalty: float | None = None,
    device: str = "auto",
    precision: Precision = "float64",
) -> ScoredPairs:
    """Score pairs by lasso regression of every target on all regulators but itself.

    `elastic_net_edges` with ``l1_ratio`` 1; see there.
    """
    found = elastic_net_edges(
        expression, gene_ids, regulators=regulators, targets=targets, penalty=penalty, l1_ratio=1.0,
        device=device, precision=precision,
    )  # fmt: skip
    return replace(found, method="lasso")


def elastic_net_edges(
    expression: Expression,
    gene_ids: np.ndarray,
    *,
    regulators: Sequence[str],
    targets: Sequence[str],
    penalty: float | None = None,
    l1_ratio: float = 0.5,
    device: str = "auto",
    precision: Precision = "float64",
) -> ScoredPairs:
    """Score pairs by elastic net regression of every target on all regulators but itself.

    Genes are standardised, so a weight is the change of the target, in its standard deviations, when the
    regulator moves by one of its own and the other regulators stay. Minimised for each target y is
    ``|y - Xw|² / 2n + penalty · l1_ratio · |w|₁ + penalty · (1 - l1_ratio) / 2 · |w|²``, scikit-learn's
    objective: by coordinate descent on correlations (Friedman, Hastie & Tibshirani 2010) on a CPU, by FISTA
    (Beck & Teboulle 2009) with adaptive restart (O'Donoghue & Candès 2015) on a GPU.

    Parameters
    ----------
    expression, gene_ids, regulators, targets
        As in `geneformer_grn.network.inference.correlation_edges`.
    penalty
        scikit-learn's ``alpha``, in units of correlation. None: walked down `PATH` from warm starts; kept is
        the penalty at the first minimum of the generalised cross-validation error summed over targets, with
        the number of non-zero weights for the degrees of freedom (Zou, Hastie & Tibshirani 2007; for an
        elastic net an upper estimate).
    l1_ratio
        Share of the penalty on absolute values, in (0, 1].
    device
        Where it is solved: ``auto``, ``cpu`` or ``cuda``.
    precision
        ``float64``, or ``float32`` for GPUs that are slow with the former; weights are then right to about
        1e-4. A CPU works in float64 either way.

    Returns
    -------
    ScoredPairs
        Signed weights, exactly 0 where a regulator is not chosen; no p-values.

    Raises
    ------
    ValueError
        A gene is not in `gene_ids`, there are fewer than 3 cells, or a setting is out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> cells = np.random.default_rng(0).normal(size=(200, 2))
    >>> cells = np.column_stack([cells, cells[:, 0] + 0.1 * cells[:, 1]])
    >>> pairs = elastic_net_edges(
    ...     cells, np.array(["A", "B", "C"]), regulators=["A", "B"], targets=["C"], penalty=0.3, device="cpu"
    ... )
    >>> (pairs.weights != 0).tolist()
    [[True], [False]]
    """
    if penalty is not None and not penalty > 0:
        raise ValueError(f"the penalty of an elastic net must be positive, got {penalty}")
    if not 0 < l1_ratio <= 1:
        raise ValueError(f"l1_ratio lies above 0 and up to 1 (0 would be ridge), got {l1_ratio}")
    if precision not in TOLERANCE:
        raise ValueError(f"an elastic net is solved in float64 or float32, not {precision!r}")
    pairing = pair_up(expression, gene_ids, regulators=regulators, targets=targets)
    among, cross, support = predictors_and_targets(expression, pairing)
    solve = _solver(among, cross, pairing.own, l1_ratio, device=device, precision=precision)
    start = np.zeros_like(cross)
    if penalty is None:
        penalty, start = _walk_down(solve, cross, pairing, l1_ratio)
        logger.info("elastic net with l1_ratio %g: penalty %.3g", l1_ratio, penalty)
    return pairing.scored(solve(start, penalty, TOLERANCE[precision]), support, method="elastic_net")


def _solver(
    among: np.ndarray,
    cross: np.ndarray,
    own: np.ndarray,
    l1_ratio: float,
    *,
    device: str,
    precision: Precision,
) -> Solver:
    """Return the function of (weights to begin at, penalty, tolerance) that solves all regressions."""
    where = choose_device(device)
    if where.type in STEPPED_ON:
        import torch

        from geneformer_grn.network.fista import Regressions

        problem = Regressions.of(among, cross, own, device=where, dtype=getattr(torch, precision))

    def solve(start: np.ndarray, penalty: float, tolerance: float) -> np.ndarray:
        l1, l2 = penalty * l1_ratio, penalty * (1.0 - l1_ratio)
        if where.type in STEPPED_ON:
            weights, unfinished = problem.solve(start, l1=l1, l2=l2, tolerance=tolerance)
        else:
            from geneformer_grn.network.descent_kernels import descend

            weights, unfinished = descend(among, cross, own, start, l1=l1, l2=l2, tolerance=tolerance)
        if unfinished:
            logger.warning(
                "%d of %d regressions at penalty %.3g did not converge; their weights are approximate (a "
                "larger penalty, or fewer regulators that are alike, would help)",
                unfinished, cross.shape[1], penalty,
            )  # fmt: skip
        return weights

    return solve


def _walk_down(
    solve: Solver, cross: np.ndarray, pairing: Pairing, l1_ratio: float
) -> tuple[float, np.ndarray]:
    """Return the penalty at the first minimum of the pooled error, and weights close to its solution.

    At a solution b the residual variance is 1 - c·b - l1 |b|₁ - l2 |b|², since bᵀ(c - C b) = l1 |b|₁ + l2
    |b|².
    """
    weights = np.zeros_like(cross)
    strongest = float(np.abs(np.where(pairing.unscored, 0.0, cross)).max()) / l1_ratio or 1.0
    best, least, kept = strongest, np.inf, weights
    for share in PATH:
        penalty = strongest * share
        weights = solve(weights, penalty, _PATH_TOLERANCE)
        costs = l1_ratio * np.abs(weights) + (1.0 - l1_ratio) * weights**2
        residual = 1.0 - (cross * weights).sum(axis=0) - penalty * costs.sum(axis=0)
        error = gcv_error(residual, np.count_nonzero(weights, axis=0), pairing.n_cells)
        pooled = float(error[pairing.varying].sum())
        if pooled >= least:
            break
        best, least, kept = penalty, pooled, weights
    return best, kept
