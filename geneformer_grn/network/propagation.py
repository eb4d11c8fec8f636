"""How a perturbation travels along signed edges: hop by hop, or summed.

The model is linear: a gene's change is the sum over its regulators of coefficient × their change, with the
perturbed gene held at its new level (its own inputs are cut). That is crude, and it is inspectable: each
effect splits into paths of exactly one, two, three hops. Weights without a sign or a unit (attention,
correlation) are not coefficients and are refused until `geneformer_grn.network.refit.refit_signed` has
turned their edges into some; only the random walk, which ranks and predicts no direction, reads magnitudes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse import csgraph, linalg

from geneformer_grn.network.edges import check_edges

UNITLESS_METHODS = frozenset(
    {"attention", "correlation", "spearman", "partial_correlation", "graphical_lasso"}
)
"""Methods whose weights rank edges but are no coefficients, signed or not."""

METHODS = ("iterated", "linear", "walk", "clamped", "covariance", "ordered", "rerank")
"""All ways of propagation."""

FROM_CELLS = {
    "clamped": "geneformer_grn.network.responses.clamped_response",
    "covariance": "geneformer_grn.network.responses.marginal_response",
    "ordered": "geneformer_grn.network.ordered_response.ordered_response",
    "rerank": "geneformer_grn.extraction.propagation.rerank_effects",
}
"""Those that need cells, whatever the edges -> the function that does it."""


@dataclass(frozen=True, kw_only=True)
class PropagationSettings:
    """How effects travel.

    Parameters
    ----------
    method
        ``iterated``: hop by hop, `n_hops` deep. ``linear``: the sum over all hops in closed form,
        ``(I - Wᵀ)⁻¹ u``. ``walk``: random walk with restart on the magnitudes; ranks genes, predicts no sign.
        ``clamped``: as ``iterated``, but in every cell, then averaged. ``covariance``: no network at all, see
        `geneformer_grn.network.responses.marginal_response`; the control that the others have to beat.
        ``ordered``: no edges either, see `geneformer_grn.network.ordered_response.ordered_response`.
        ``rerank``: through the model, which follows no edges either and needs its weights.
    n_hops
        Depth of ``iterated`` and ``clamped``; how often ``rerank`` asks the model.
    restart
        Probability of returning to the source at each step of ``walk``.
    cells_per_source
        Of ``rerank``: most cells each source is deleted in.
    seed
        Of ``ordered`` and ``rerank``; the others draw nothing.
    """

    method: Literal["iterated", "linear", "walk", "clamped", "covariance", "ordered", "rerank"] = "iterated"
    n_hops: int = 3
    restart: float = 0.5
    cells_per_source: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(
                f"propagation method {self.method!r} is unknown; use one of {', '.join(METHODS)}"
            )
        if self.cells_per_source < 1:
            raise ValueError(f"a source is deleted in at least one cell, got {self.cells_per_source}")
        if self.n_hops < 1:
            raise ValueError(f"effects need at least one hop to travel, got {self.n_hops}")
        if not 0 < self.restart < 1:
            raise ValueError(f"the restart probability lies between 0 and 1, got {self.restart}")


def propagate(
    edges: pd.DataFrame,
    changes: Mapping[str, float],
    *,
    settings: PropagationSettings | None = None,
    lowest: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Follow the change of each source through the network, one source at a time.

    Parameters
    ----------
    edges
        Edge table whose weights are coefficients (see `refit_signed`), or with a ``sign`` of ±1 on every
        edge (then the coefficient is sign × |weight|). Groups are propagated separately.
    changes
        Source -> change it is held at, in units of the coefficients.
    settings
        Method and depth; hop by hop, three hops deep, by default.
    lowest
        Gene -> most negative change possible, as minus its mean expression (``iterated`` only): effects stop
        there, since expression cannot fall below zero. Genes without an entry are free.

    Returns
    -------
    DataFrame
        ``source``, ``gene``, ``group``, ``hop`` int, ``effect`` float64; no row where the effect is 0.
        ``iterated``: the contribution of paths of exactly ``hop`` edges (hop 0 is the source itself, hop 1
        its direct effect); the sum over hops is the predicted change. Where `lowest` stops an effect, a hop
        is what one more step changes. ``linear`` and ``walk``: one row a gene, the total response or the
        visiting probability, with ``hop`` the length of the shortest path.

    Raises
    ------
    ValueError
        The weights are no signed coefficients (but for ``walk``), the table holds several methods, or
        ``linear`` has no finite answer because a feedback loop amplifies itself (spectral radius ≥ 1).
    """
    settings = settings or PropagationSettings()
    if settings.method in FROM_CELLS:
        raise ValueError(
            f"the {settings.method} response is one of cells, which are needed (--expression FILE, or "
            f"{FROM_CELLS[settings.method]})"
        )
    checked = check_edges(edges)
    coefficients = checked["weight"].abs() if settings.method == "walk" else signed_weights(checked)
    methods = sorted(set(checked["method"])) if "method" in checked.columns else []
    if len(methods) > 1:
        raise ValueError(
            f"effects travel along the edges of one method, the table holds {', '.join(methods)}; keep one "
            "of them (--edge-method), or refit them together"
        )
    groups = checked["group"] if "group" in checked.columns else pd.Series("all", index=checked.index)
    parts = []
    for group in dict.fromkeys(groups):
        inside = groups == group
        genes, matrix = _matrix(checked[inside], coefficients[inside].to_numpy(np.float64), list(changes))
        floor = np.array([(lowest or {}).get(gene, -np.inf) for gene in genes])
        for source, change in changes.items():
            hops, positions, effects = _respond(matrix, genes.index(source), change, settings, floor)
            reached = [genes[position] for position in positions]
            parts.append(
                pd.DataFrame(
                    {"source": source, "gene": reached, "group": group, "hop": hops, "effect": effects}
                )
            )
    if not parts:
        return pd.DataFrame(columns=["source", "gene", "group", "hop", "effect"])
    return pd.concat(parts, ignore_index=True)


def signed_weights(edges: pd.DataFrame) -> pd.Series:
    """Return the coefficients of a checked edge table, or say why it has none.

    Raises
    ------
    ValueError
        The weights come from a method that ranks edges, or nothing in the table tells activation from
        repression.
    """
    way_out = (
        "refit them to expression first (--expression FILE, or geneformer_grn.network.refit.refit_signed), "
        "or use the random walk (--method walk), which only ranks"
    )
    if "method" in edges.columns:
        unitless = sorted(UNITLESS_METHODS & set(edges["method"]))
        if unitless:
            raise ValueError(
                f"weights of {' and '.join(unitless)} edges are no signed coefficients; {way_out}"
            )
    if "sign" in edges.columns:
        # a coefficient fitted as exactly 0 has no sign and moves nothing
        unknown = int(((edges["sign"] == 0) & (edges["weight"] != 0)).sum())
        if unknown == 0:
            return edges["weight"].abs() * edges["sign"]
        if unknown < len(edges):
            raise ValueError(f"{unknown:,} of {len(edges):,} edges have a weight but no sign; {way_out}")
    if len(edges) and not (edges["weight"] < 0).any():
        raise ValueError(
            f"none of {len(edges):,} weights is negative and no column 'sign' says that all of them "
            f"activate; {way_out}"
        )
    return edges["weight"]


def _matrix(
    edges: pd.DataFrame, weights: np.ndarray, sources: list[str]
) -> tuple[list[str], sparse.csr_matrix]:
    """Return the genes, and their ``(g, g)`` weights from row to column."""
    genes = list(dict.fromkeys([*sources, *edges["source"], *edges["target"]]))
    place = {gene: position for position, gene in enumerate(genes)}
    rows = edges["source"].map(place).to_numpy(np.int64)
    columns = edges["target"].map(place).to_numpy(np.int64)
    return genes, sparse.csr_matrix((weights, (rows, columns)), shape=(len(genes), len(genes)))


def _respond(
    matrix: sparse.csr_matrix, source: int, change: float, settings: PropagationSettings, floor: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return hop, gene position and effect of every effect that is not 0."""
    if settings.method == "iterated":
        effects = _by_hop(_cut_inputs(matrix, source), source, change, settings.n_hops, floor)
        hops, positions = np.nonzero(effects)
        return hops, positions, effects[hops, positions]
    if settings.method == "linear":
        total = _linear_response(_cut_inputs(matrix, source), source, change)
    else:
        total = _random_walk(matrix, source, settings.restart)
    distance = csgraph.shortest_path(abs(matrix), indices=[source], unweighted=True)[0]
    positions = np.flatnonzero((total != 0) & np.isfinite(distance))
    return distance[positions].astype(np.int64), positions, total[positions]


def _cut_inputs(matrix: sparse.csr_matrix, source: int) -> sparse.csr_matrix:
    """Return the network in which nothing regulates the source: it is held at its new level."""
    keep = np.ones(matrix.shape[0])
    keep[source] = 0.0
    cut = sparse.csr_matrix(matrix @ sparse.diags(keep))
    cut.eliminate_zeros()
    return cut


def _by_hop(
    matrix: sparse.csr_matrix, source: int, change: float, n_hops: int, floor: np.ndarray
) -> np.ndarray:
    """Return ``(n_hops + 1, g)`` contributions of paths of exactly that many edges, stopped at the floor."""
    effects = np.zeros((n_hops + 1, matrix.shape[0]))
    effects[0, source] = change
    total = effects[0]
    inputs = sparse.csr_matrix(matrix.T)
    lowest = np.minimum(floor, 0.0)
    lowest[source] = -np.inf
    # every step starts anew from all inputs, as CellOracle's does: an effect that the floor stopped is still
    # there in full when another one makes up for it
    for hop in range(1, n_hops + 1):
        reached = inputs @ total
        reached[source] = change
        reached = np.maximum(reached, lowest)
        effects[hop] = reached - total
        total = reached
    return effects


def _linear_response(matrix: sparse.csr_matrix, source: int, change: float) -> np.ndarray:
    """Solve ``x = Wᵀx + u`` with the source's inputs cut."""
    radius = spectral_radius(matrix)
    if radius >= 1:
        raise ValueError(
            "the linear response is not finite: feedback loops amplify themselves (spectral radius "
            f"{radius:.3g}, it must be below 1). Use --method iterated, which stops after --hops steps, "
            "or keep fewer edges"
        )
    start = np.zeros(matrix.shape[0])
    start[source] = change
    system = sparse.csc_matrix(sparse.identity(matrix.shape[0]) - matrix.T)
    return linalg.spsolve(system, start)


def spectral_radius(matrix: sparse.csr_matrix) -> float:
    """Return the largest magnitude of an eigenvalue of a sparse ``(g, g)`` network.

    Eigenvalues of a network are those of its strongly connected parts: most genes regulate nothing, and only
    the feedback loops need a dense solver.
    """
    _, part = csgraph.connected_components(matrix, directed=True, connection="strong")
    sizes = np.bincount(part)
    radius = float(np.max(np.abs(matrix.diagonal()), initial=0.0))
    for loop in np.flatnonzero(sizes > 1):
        inside = np.flatnonzero(part == loop)
        block = matrix[inside][:, inside].toarray()
        radius = max(radius, float(np.max(np.abs(np.linalg.eigvals(block)))))
    return radius


def _random_walk(matrix: sparse.csr_matrix, source: int, restart: float) -> np.ndarray:
    """Return how often a walk that restarts at the source visits each gene; probabilities sum to 1.

    From a gene without targets the walk returns to the source (Tong, Faloutsos & Pan 2006).
    """
    out = np.asarray(matrix.sum(axis=1)).ravel()
    step = sparse.diags(np.divide(1.0, out, out=np.zeros_like(out), where=out > 0)) @ matrix
    start = np.zeros(matrix.shape[0])
    start[source] = restart
    system = sparse.csc_matrix(sparse.identity(matrix.shape[0]) - (1.0 - restart) * step.T)
    visits = linalg.spsolve(system, start)
    return visits / visits.sum()
