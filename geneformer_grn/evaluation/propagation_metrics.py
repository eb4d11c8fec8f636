"""How near predicted effects come to measured ones, perturbation by perturbation.

All functions take ``(k, g)`` arrays, one row a perturbation and one column a gene, and return ``(k,)``
float64: one number a perturbation, for a bootstrap over perturbations to draw from. `where` says which genes
count; the perturbed gene itself should not, since everyone knows what happens to it.
"""

from __future__ import annotations

import numpy as np

from geneformer_grn.metrics import precision_at


def correlations(predicted: np.ndarray, measured: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return Pearson's r over genes; 0 for a constant prediction, NaN where nothing was measured to change.

    Examples
    --------
    >>> counted = np.array([[True, True, False]])
    >>> correlations(np.array([[1.0, 2.0, 9.0]]), np.array([[2.0, 4.0, 0.0]]), counted).round(9)
    array([1.])
    """
    found = np.full(len(measured), np.nan)
    for row, counted in enumerate(where):
        a, b = predicted[row, counted], measured[row, counted]
        if len(b) < 2 or np.ptp(b) == 0:
            continue
        a, b = a - a.mean(), b - b.mean()
        scale = np.sqrt((a @ a) * (b @ b))
        found[row] = a @ b / scale if scale > 0 else 0.0
    return found


def correlations_beyond_mean(predicted: np.ndarray, measured: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return Pearson's r of what predictions and measurements add to the mean effect of the others.

    A method that predicts the same for every perturbation has about 0 here, however well that does
    elsewhere. NaN with fewer than two perturbations.

    Notes
    -----
    Viñas Torné et al. (2025), Systema: a framework for evaluating genetic perturbation response prediction
    beyond systematic variation.
    """
    if len(measured) < 2:
        return np.full(len(measured), np.nan)
    others = mean_of_others(measured)
    return correlations(predicted - others, measured - others, where)


def sign_accuracies(predicted: np.ndarray, measured: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return the share of genes with a measured effect whose direction is right; a prediction of 0 is half.

    NaN where no gene has an effect.
    """
    changed = where & (measured != 0)
    right = np.where(predicted == 0, 0.5, np.sign(predicted) == np.sign(measured))
    n_changed = changed.sum(axis=1)
    nothing = np.full(len(measured), np.nan)
    return np.divide((right * changed).sum(axis=1), n_changed, out=nothing, where=n_changed > 0)


def absolute_errors(predicted: np.ndarray, measured: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return the mean absolute error over genes, in the units of the effects; NaN without genes."""
    n_genes = where.sum(axis=1)
    nothing = np.full(len(measured), np.nan)
    error = (np.abs(predicted - measured) * where).sum(axis=1)
    return np.divide(error, n_genes, out=nothing, where=n_genes > 0)


def top_overlaps(predicted: np.ndarray, measured: np.ndarray, where: np.ndarray, *, top: int) -> np.ndarray:
    """Return which share of the `top` strongest measured effects is among as many strongest predicted ones.

    Where fewer genes have an effect, it is as many as those. Ties among predictions count by their expected
    number. NaN where no gene has an effect.
    """
    found = np.full(len(measured), np.nan)
    for row, counted in enumerate(where):
        strength = np.abs(measured[row, counted])
        k = min(top, int(np.count_nonzero(strength)))
        if k:
            strongest = np.zeros(len(strength), dtype=bool)
            strongest[np.argsort(-strength, kind="stable")[:k]] = True
            found[row] = precision_at(strongest, np.abs(predicted[row, counted]), k)
    return found


def discrimination_scores(predicted: np.ndarray, measured: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return PDS: the share of other perturbations that a prediction is farther from than from its own.

    The distance is the mean absolute difference over the genes that count for both; ties count half. 0.5 is
    chance, 1 is best, NaN with fewer than two perturbations.

    Notes
    -----
    The perturbation discrimination score of the Virtual Cell Challenge (Roohani et al. 2025, Cell 188),
    after Wu et al. (2024), PerturBench.
    """
    k = len(measured)
    found = np.full(k, np.nan)
    for row in range(k):
        both = where & where[row]
        n_genes = np.maximum(both.sum(axis=1), 1)
        distance = (np.abs(measured - predicted[row]) * both).sum(axis=1) / n_genes
        others = np.delete(distance, row)
        if len(others):
            found[row] = np.mean((others > distance[row]) + 0.5 * (others == distance[row]))
    return found


def mean_of_others(effects: np.ndarray) -> np.ndarray:
    """Return for each perturbation the mean effect of all others, ``(k, g)``; of one alone it is 0."""
    if len(effects) < 2:
        return np.zeros_like(effects, dtype=np.float64)
    return np.asarray((effects.sum(axis=0) - effects) / (len(effects) - 1))
