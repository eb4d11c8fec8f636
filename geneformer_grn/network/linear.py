"""Lasso and elastic net for all targets at once, by accelerated proximal gradient on correlations.

The cells are read once, into cross-products; from there every step is one product of the regulators'
correlation matrix with the weights of all targets that have not converged, on a CPU or a GPU. Against
coordinate descent, one target after another, that trades more arithmetic for arithmetic that runs many times
faster. A target that is itself a regulator keeps a weight of 0 on itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from geneformer_grn._runtime import choose_device, logger
from geneformer_grn.network.cross_products import Expression, Precision
from geneformer_grn.network.inference import gcv_error, predictors_and_targets
from geneformer_grn.network.pairing import Pairing, pair_up
from geneformer_grn.network.scored import ScoredPairs

if TYPE_CHECKING:
    import torch

    from geneformer_grn.network.fista import Regressions

PATH = tuple(float(10.0**power) for power in np.linspace(0.0, -2.5, 16)[1:])
"""Penalties tried, strongest first, as shares of the smallest one at which every weight is 0."""

TOLERANCE = {"float64": 1e-9, "float32": 1e-5}
"""Largest entry of the proximal gradient of a target that counts as converged."""

_PATH_TOLERANCE = 1e-4


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
    objective, by FISTA (Beck & Teboulle 2009) with adaptive restart (O'Donoghue & Candès 2015).

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
        Where the steps run: ``auto``, ``cpu`` or ``cuda``.
    precision
        ``float64``, or ``float32`` for GPUs that are slow with the former; weights are then right to about
        1e-4.

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
    import torch

    from geneformer_grn.network.fista import Regressions

    pairing = pair_up(expression, gene_ids, regulators=regulators, targets=targets)
    among, cross, support = predictors_and_targets(expression, pairing)
    where = choose_device(device)
    if where.type == "mps":  # it has no float64
        where = torch.device("cpu")
    problem = Regressions.of(among, cross, pairing.own, device=where, dtype=getattr(torch, precision))
    start = torch.zeros_like(problem.cross)
    if penalty is None:
        penalty, start = _walk_down(problem, pairing, l1_ratio)
        logger.info("elastic net with l1_ratio %g: penalty %.3g", l1_ratio, penalty)
    weights = problem.solve(start, penalty=penalty, l1_ratio=l1_ratio, tolerance=TOLERANCE[precision])
    return pairing.scored(weights.cpu().numpy(), support, method="elastic_net")


def _walk_down(problem: Regressions, pairing: Pairing, l1_ratio: float) -> tuple[float, torch.Tensor]:
    """Return the penalty at the first minimum of the pooled error, and weights close to its solution."""
    import torch

    weights = torch.zeros_like(problem.cross)
    others = np.where(pairing.unscored, 0.0, problem.cross.cpu().numpy())
    strongest = float(np.abs(others).max()) / l1_ratio or 1.0
    best, least, kept = strongest, np.inf, weights
    for share in PATH:
        penalty = strongest * share
        weights = problem.solve(weights, penalty=penalty, l1_ratio=l1_ratio, tolerance=_PATH_TOLERANCE)
        residual, freedom = problem.residual(weights), (weights != 0).sum(dim=0)
        error = gcv_error(residual.cpu().numpy(), freedom.cpu().numpy(), pairing.n_cells)
        pooled = float(error[pairing.varying].sum())
        if pooled >= least:
            break
        best, least, kept = penalty, pooled, weights
    return best, kept
