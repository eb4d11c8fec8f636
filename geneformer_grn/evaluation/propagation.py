"""The score card of predicted effects: several methods, the same perturbations, each against a control."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from geneformer_grn.evaluation import propagation_metrics as scored
from geneformer_grn.statistics import bootstrap_interval

MEASURES = ("r", "r_beyond_mean", "sign_accuracy", "pds", "mae", "top_overlap")
"""What each method is scored by; smaller is better for ``mae`` only."""
RANKING = frozenset({"top_overlap"})
"""What a method that ranks genes and knows no direction or unit is scored by."""
FEWEST = 20
"""Perturbations below which no interval is given."""


def score_predictions(
    predicted: Mapping[str, np.ndarray],
    measured: np.ndarray,
    *,
    perturbed: np.ndarray,
    control: str,
    ranks_only: frozenset[str] = frozenset(),
    top: int = 20,
    seed: int = 0,
) -> dict[str, Any]:
    """Score predicted effects of several methods, with intervals over perturbations and paired differences.

    Parameters
    ----------
    predicted
        Method -> ``(k, g)`` predicted changes, NaN nowhere.
    measured
        ``(k, g)`` measured changes in the same units.
    perturbed
        ``(k,)`` int column of the perturbed gene, which does not count; -1 where it has none. ``(k, m)`` for
        combinations.
    control
        The method that the others are compared with.
    ranks_only
        Methods without sign or unit, scored by `RANKING` alone.
    top
        Size of the lists compared.
    seed
        Seed of the resamples.

    Returns
    -------
    dict
        ``n_perturbations``; ``n_with_effect``, those in which another gene changes (r of the others is not
        defined); ``methods``: name -> measure -> ``mean``, ``interval`` (95 %, of the mean; None with fewer
        than 20 perturbations), ``n``; ``against_control``: the same of the paired differences, method minus
        control.

    Raises
    ------
    ValueError
        Shapes differ, a prediction is not finite, or the control is not among the methods.

    Examples
    --------
    >>> measured = np.array([[0.0, 1.0, -1.0], [0.5, 0.0, 0.2]])
    >>> card = score_predictions(
    ...     {"mine": measured, "none": 0 * measured}, measured, perturbed=np.array([0, 1]), control="none"
    ... )
    >>> card["methods"]["mine"]["mae"]["mean"], round(card["against_control"]["mine"]["r"]["mean"], 9)
    (0.0, 1.0)
    """
    _check(predicted, measured, control)
    where = counted_genes(measured.shape, perturbed)
    values = {
        name: measures(array, measured, where, top=top, ranks_only=name in ranks_only)
        for name, array in predicted.items()
    }
    n_with_effect = int(np.count_nonzero(((measured != 0) & where).any(axis=1)))
    sizes = {"n_perturbations": len(measured), "n_with_effect": n_with_effect, "top": top}
    return {**sizes, **compare(values, control=control, seed=seed)}


def compare(values: Mapping[str, Mapping[str, np.ndarray]], *, control: str, seed: int = 0) -> dict[str, Any]:
    """Return means, intervals and paired differences of what `measures` gave for several methods.

    Parameters
    ----------
    values
        Method -> measure -> ``(k,)`` values, the same perturbations for all (of several data sets together,
        where they are put one after the other).
    control, seed
        As in `score_predictions`.

    Returns
    -------
    dict
        ``control``, ``methods`` and ``against_control`` of `score_predictions`.
    """
    against = {
        name: {
            measure: _summary(per_row - values[control][measure], seed)
            for measure, per_row in of_method.items()
            if measure in values[control]
        }
        for name, of_method in values.items()
        if name != control
    }
    methods = {
        name: {measure: _summary(per_row, seed) for measure, per_row in of_method.items()}
        for name, of_method in values.items()
    }
    return {"control": control, "methods": methods, "against_control": against}


def counted_genes(shape: tuple[int, int], perturbed: np.ndarray) -> np.ndarray:
    """Return ``(k, g)`` bool: all genes but those that the row perturbs."""
    where = np.ones(shape, dtype=bool)
    columns = np.asarray(perturbed).reshape(shape[0], -1)
    rows = np.broadcast_to(np.arange(shape[0])[:, None], columns.shape)
    where[rows[columns >= 0], columns[columns >= 0]] = False
    return where


def measures(
    predicted: np.ndarray, measured: np.ndarray, where: np.ndarray, *, top: int, ranks_only: bool = False
) -> dict[str, np.ndarray]:
    """Return ``(k,)`` values of each of `MEASURES` (of `RANKING`, for a method that only ranks)."""
    overlap = {"top_overlap": scored.top_overlaps(predicted, measured, where, top=top)}
    if ranks_only:
        return overlap
    return {
        "r": scored.correlations(predicted, measured, where),
        "r_beyond_mean": scored.correlations_beyond_mean(predicted, measured, where),
        "sign_accuracy": scored.sign_accuracies(predicted, measured, where),
        "pds": scored.discrimination_scores(predicted, measured, where),
        "mae": scored.absolute_errors(predicted, measured, where),
        **overlap,
    }


def _check(predicted: Mapping[str, np.ndarray], measured: np.ndarray, control: str) -> None:
    if control not in predicted:
        raise ValueError(f"the control {control!r} is not among the methods: {', '.join(predicted)}")
    for name, array in predicted.items():
        if array.shape != measured.shape:
            raise ValueError(f"{name} predicts {array.shape}, measured are {measured.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} predicts something that is no finite number; 0 means no change")


def _summary(values: np.ndarray, seed: int) -> dict[str, Any]:
    """Return the mean over perturbations and its interval."""
    known = values[~np.isnan(values)]
    if not len(known):
        return {"mean": None, "interval": None, "n": 0}
    interval = None
    if len(known) >= FEWEST:
        interval = list(bootstrap_interval(known, rng=np.random.default_rng(seed)))
    return {"mean": float(known.mean()), "interval": interval, "n": len(known)}
