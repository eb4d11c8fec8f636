"""What predicted effects have to beat: nothing, the mean, sums, a linear model, the most similar gene.

Each row is predicted from the other rows alone, as for a perturbation that was never made. That these simple
predictions are hard to beat is the finding of Ahlmann-Eltze, Huber & Anders (2025), Deep-learning-based gene
perturbation effect prediction does not yet outperform simple linear baselines, Nature Methods 22.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geneformer_grn.evaluation.propagation_metrics import mean_of_others

__all__ = ["additive", "linear_on_components", "mean_of_others", "nearest_by_embedding", "no_change"]


def no_change(measured: np.ndarray) -> np.ndarray:
    """Return zeros of the shape of `measured`."""
    return np.zeros_like(measured, dtype=np.float64)


def additive(single: np.ndarray, members: Sequence[Sequence[int]]) -> np.ndarray:
    """Predict combinations as the sum of the effects of their members alone.

    Parameters
    ----------
    single
        ``(s, g)`` measured effects of single perturbations.
    members
        For each combination, rows of `single`.

    Returns
    -------
    ``(len(members), g)`` float64.

    Examples
    --------
    >>> additive(np.array([[1.0, 0.0], [0.5, -1.0]]), [(0, 1)]).tolist()
    [[1.5, -1.0]]
    """
    return np.array([np.sum(single[list(rows)], axis=0) for rows in members]).reshape(-1, single.shape[1])


def linear_on_components(
    measured: np.ndarray, perturbed: np.ndarray, *, n_components: int = 10, ridge: float = 0.1
) -> np.ndarray:
    """Predict each perturbation by a bilinear ridge model on principal components of the others.

    With the components ``G`` (g × c) of the training effects ``Y`` (g × k), and ``P`` (k × c) the rows of
    ``G`` that belong to the perturbed genes, ``Y ≈ G W Pᵀ + b``, b being the mean over the training
    perturbations and W fitted by ridge on both sides.

    Parameters
    ----------
    measured
        ``(k, g)`` effects.
    perturbed
        ``(k,)`` int column of the gene that each row perturbs; -1 where it has no column (its row is then
        predicted as b, and trains b and G only).
    n_components
        At most this many; fewer where the training rows carry fewer.
    ridge
        Penalty on both sides.

    Returns
    -------
    ``(k, g)`` float64, each row from the other rows.
    """
    predicted = np.zeros(measured.shape)
    for row in range(len(measured)):
        training = np.delete(measured, row, axis=0)
        if not len(training):
            continue
        bias = training.mean(axis=0)
        predicted[row] = bias
        genes = _components(training - bias, n_components)
        sources = np.delete(perturbed, row)
        known = sources >= 0
        if perturbed[row] < 0 or not known.any() or not genes.shape[1]:
            continue
        profiles = genes[sources[known]]
        small = ridge * np.eye(genes.shape[1])
        left = np.linalg.solve(genes.T @ genes + small, genes.T @ (training[known] - bias).T @ profiles)
        weights = np.linalg.solve(profiles.T @ profiles + small, left.T).T
        predicted[row] += genes @ (weights @ genes[perturbed[row]])
    return predicted


def _components(centred: np.ndarray, n_components: int) -> np.ndarray:
    """Return the ``(g, c)`` positions of genes on the leading components, those of rounding left out."""
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    kept = min(n_components, int(np.count_nonzero(singular > 1e-10 * max(singular.max(initial=0.0), 1e-300))))
    return np.asarray((singular[:kept, None] * axes[:kept]).T)


def nearest_by_embedding(measured: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """Predict each perturbation as the effect of the other whose gene's embedding is most alike.

    Parameters
    ----------
    measured
        ``(k, g)`` effects.
    embeddings
        ``(k, d)`` embeddings of the perturbed genes, from anywhere; rows with NaN are like nothing, and
        theirs is the mean of the others.

    Returns
    -------
    ``(k, g)`` float64.

    Raises
    ------
    ValueError
        The embeddings are not one a perturbation.
    """
    if len(embeddings) != len(measured):
        raise ValueError(f"{len(measured):,} perturbations need as many embeddings, got {len(embeddings):,}")
    known = np.isfinite(embeddings).all(axis=1)
    norm = np.linalg.norm(np.where(known[:, None], embeddings, 0.0), axis=1, keepdims=True)
    unit = np.where(known[:, None], embeddings, 0.0) / np.where(norm > 0, norm, 1.0)
    alike = unit @ unit.T
    np.fill_diagonal(alike, -np.inf)
    alike[:, ~known] = -np.inf
    predicted = mean_of_others(measured)
    found = known & np.isfinite(alike).any(axis=1)
    predicted[found] = measured[np.argmax(alike[found], axis=1)]
    return predicted
