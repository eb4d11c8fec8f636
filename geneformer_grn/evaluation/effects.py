"""Score cards of effects: whether they rank measured responders above their equals.

Genes that are expressed more are measured better, respond more often, and move more in any model. So each
measured responder is compared with its own rivals: genes that did not respond and are like it in mean
expression and detection, half of them expressed more and half less. 0.5 is chance there; how well expression
itself does is in the same table, as are the other baselines, on the same genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from geneformer_grn.metrics import shares_beaten
from geneformer_grn.statistics import bootstrap_ratio, hierarchical_bootstrap

N_RIVALS = 20
CALIPER = 0.1  # summed difference in traits, which are ranks from 0 to 1: beyond it genes are not alike
_LOOK = 4  # times as many genes are looked at as are wanted, to find some on both sides
MIN_RESPONDERS = 5
_RESAMPLES = 2000
STRENGTH_MEASURES = ("matched", "all_genes")
DIRECTION_MEASURES = ("up_over_down", "sign_agreement")


@dataclass(frozen=True, eq=False, kw_only=True)
class Measured:
    """One perturbation as it was measured.

    Parameters
    ----------
    gene
        The perturbed gene: an Ensembl ID, or several joined by ``+``.
    affected
        ``(n,)`` Ensembl IDs of all genes measured, responders or not.
    effect
        ``(n,)`` float; a log fold change or its like, above 0 for genes that went up.
    responds
        ``(n,)`` bool.
    group
        The cells it was measured in; empty fits every group.
    """

    gene: str
    affected: np.ndarray
    effect: np.ndarray
    responds: np.ndarray
    group: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class Trial:
    """One measured perturbation with the scores that competing methods give its genes.

    Parameters
    ----------
    gene, group
        What was perturbed, where.
    effect, responds
        ``(n,)`` as in `Measured`, of the genes that every method scores.
    traits
        ``(n, t)`` what responders and rivals are matched on, on comparable scales.
    strength
        ``n`` rows, a column per method without NaN: larger is more likely a responder.
    direction
        The same for methods that say where a gene goes: above 0 is up.
    """

    gene: str
    group: str
    effect: np.ndarray
    responds: np.ndarray
    traits: np.ndarray
    strength: pd.DataFrame
    direction: pd.DataFrame


def make_trial(
    measured: Measured,
    strength: pd.DataFrame,
    direction: pd.DataFrame,
    traits: pd.DataFrame,
    *,
    group: str = "",
) -> Trial:
    """Return a measured perturbation with its scores, on the genes that have them all.

    Parameters
    ----------
    measured
        The truth. The perturbed genes themselves are left out.
    strength, direction
        Index: Ensembl ID; a column per method. Genes with NaN in any column are left out.
    traits
        Index: Ensembl ID; what genes are matched on. Each column counts by its ranks among the trial's genes.
    group
        The cells that were perturbed.
    """
    scored = strength.dropna().index.intersection(direction.dropna().index).intersection(traits.index)
    kept = pd.Index(measured.affected).isin(scored)
    kept &= ~np.isin(measured.affected, measured.gene.split("+")) & np.isfinite(measured.effect)
    genes = measured.affected[kept]
    chosen = traits.loc[genes].rank(pct=True)
    return Trial(
        gene=measured.gene,
        group=group or measured.group,
        effect=measured.effect[kept],
        responds=measured.responds[kept],
        traits=chosen.to_numpy(dtype=np.float64),
        strength=strength.loc[genes],
        direction=direction.loc[genes],
    )


def can_be_scored(trial: Trial, *, min_responders: int = MIN_RESPONDERS) -> bool:
    """Return whether a trial holds enough responders, and as many other genes."""
    n_responders = int(trial.responds.sum())
    return min(n_responders, len(trial.responds) - n_responders) >= max(min_responders, 1)


def nearest_rivals(
    traits: np.ndarray, responds: np.ndarray, n_rivals: int = N_RIVALS, *, caliper: float = CALIPER
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each responder the genes that did not respond and are most like it.

    As many of them lie above it in the first trait as below. Where nearly all highly expressed genes respond,
    the nearest others are all expressed less, and expression alone would beat its equals.

    Parameters
    ----------
    traits
        ``(n, t)`` float; the first is the one to balance.
    responds
        ``(n,)`` bool; both kinds occur.
    n_rivals
        Most rivals for a responder, and most that equal it in the first trait. A gene may be the rival of
        several.
    caliper
        Rivals differ by at most this, added up over the traits.

    Returns
    -------
    tuple of ndarray
        ``(m, k)`` int64 rows of `traits`, the nearest first, and ``(m, k)`` bool: which of them are rivals.
    """
    from scipy.spatial import cKDTree

    others = np.flatnonzero(~responds)
    k = min(_LOOK * n_rivals, len(others))
    distance, place = cKDTree(traits[others]).query(traits[responds], k=np.arange(1, k + 1), p=1)
    near = others[place]
    side = np.sign(traits[near, 0] - traits[responds, 0][:, None]) * (distance <= caliper + 1e-12)
    below, above = side < 0, side > 0
    level = (side == 0) & (distance <= caliper + 1e-12)
    each = np.minimum(np.minimum(below.sum(axis=1), above.sum(axis=1)), max(n_rivals // 2, 1))[:, None]
    chosen = (below & (below.cumsum(axis=1) <= each)) | (above & (above.cumsum(axis=1) <= each))
    return near, chosen | (level & (level.cumsum(axis=1) <= n_rivals))


def contributions(trial: Trial, *, n_rivals: int = N_RIVALS) -> dict[str, dict[str, np.ndarray]]:
    """Return what each responder adds to each measure of each method.

    Returns
    -------
    dict
        Measure -> method -> one number in [0, 1] a responder; their mean is the measure. ``matched`` and
        ``all_genes``: the share of its rivals (responders without any are left out), or of all other genes,
        that a responder beats;
        ``sign_agreement``: 1 where the sign is right, 0.5 where it is 0; ``up_over_down``: the share of
        responders that went down which one that went up beats.
    """
    responds, up = trial.responds, trial.effect > 0
    rivals, alike = nearest_rivals(trial.traits, responds, n_rivals)
    has_rivals = alike.any(axis=1)
    found: dict[str, dict[str, np.ndarray]] = {name: {} for name in (*STRENGTH_MEASURES, *DIRECTION_MEASURES)}
    for name in trial.strength.columns:
        scores = trial.strength[name].to_numpy(dtype=np.float64)
        shares = shares_beaten(scores[responds], scores[rivals], where=alike)
        found["matched"][name] = shares[has_rivals]
        found["all_genes"][name] = shares_beaten(scores[responds], scores[~responds])
    for name in trial.direction.columns:
        scores = trial.direction[name].to_numpy(dtype=np.float64)
        signs = np.sign(scores[responds]) * np.sign(trial.effect[responds])
        found["sign_agreement"][name] = (1 + signs) / 2
        found["up_over_down"][name] = shares_beaten(scores[responds & up], scores[responds & ~up])
    return found


def score_card(
    trials: Sequence[Trial], *, ours: Sequence[str], n_rivals: int = N_RIVALS, seed: int = 0
) -> dict[str, Any]:
    """Return how well each method finds the responders, with intervals, and how far ours are ahead.

    Every perturbed gene counts alike: its trials (groups of cells, contrasts) are averaged first. The
    interval is a bootstrap over perturbed genes. With one perturbed gene it is over responders, which move
    together and are no independent units: it is then too narrow, and ``unit`` says so.

    Parameters
    ----------
    trials
        At least one. Methods that some of them lack are left out.
    ours
        The methods of `strength` and `direction` that are compared with all others, paired.
    n_rivals
        See `nearest_rivals`.
    seed
        Of the bootstrap.

    Returns
    -------
    dict
        ``n_perturbed_genes``, ``n_trials``, ``n_responders``, ``n_matched`` (responders that have rivals),
        ``n_genes`` (median of the trials), ``share_up`` (of the responders), ``unit``; ``strength``: method
        -> ``matched``, ``all_genes``; ``direction``: method -> ``up_over_down``, ``sign_agreement``, each
        with ``mean``, ``low``, ``high`` (95 %); ``ahead_of``: measure -> our method -> other method -> the
        same of the paired difference.

    Raises
    ------
    ValueError
        There is no trial.
    """
    if not trials:
        raise ValueError("no measured perturbation is left to score effects by")
    found = [contributions(trial, n_rivals=n_rivals) for trial in trials]
    genes = np.array([trial.gene for trial in trials], dtype=object)
    n_genes = len(np.unique(genes))
    moved = np.concatenate([trial.effect[trial.responds] for trial in trials])

    def interval(measure: str, name: str, other: str | None = None) -> dict[str, float]:
        values = [one[measure][name] - (0.0 if other is None else one[measure][other]) for one in found]
        return mean_with_interval(values, genes, seed=seed)

    def table(names: Sequence[str], measures: Sequence[str]) -> dict[str, Any]:
        return {name: {measure: interval(measure, name) for measure in measures} for name in names}

    strength = _shared([trial.strength for trial in trials])
    direction = _shared([trial.direction for trial in trials])
    compared = {"matched": strength, "up_over_down": direction}
    return {
        "n_perturbed_genes": n_genes,
        "n_trials": len(trials),
        "n_responders": len(moved),
        "n_matched": sum(len(one["matched"][strength[0]]) for one in found),
        "n_genes": float(np.median([len(trial.responds) for trial in trials])),
        "share_up": float((moved > 0).mean()),
        "unit": "perturbed genes" if n_genes > 1 else "responders (not independent: too narrow)",
        "strength": table(strength, STRENGTH_MEASURES),
        "direction": table(direction, DIRECTION_MEASURES),
        "ahead_of": {
            measure: {
                name: {other: interval(measure, name, other) for other in names if other not in ours}
                for name in names
                if name in ours
            }
            for measure, names in compared.items()
        },
    }


def _shared(tables: Sequence[pd.DataFrame]) -> list[str]:
    return [name for name in tables[0].columns if all(name in table for table in tables)]


def mean_with_interval(values: Sequence[np.ndarray], genes: np.ndarray, *, seed: int) -> dict[str, float]:
    """Return the mean over perturbed genes of the mean over their trials, with its 95 % interval.

    Parameters
    ----------
    values
        A trial each: ``(m_i,)`` contributions of its responders. Trials without any, or with NaN, do not
        count.
    genes
        Perturbed gene of each trial.
    seed
        Of the bootstrap, equal for all measures, so that differences are paired.

    Returns
    -------
    ``mean``, ``low``, ``high``; NaN where nothing counts, the ends also where there is one unit.
    """
    counted = [number for number, one in enumerate(values) if len(one) and not np.isnan(one).any()]
    if not counted:
        return dict.fromkeys(("mean", "low", "high"), float("nan"))
    means = pd.Series([float(np.mean(values[number])) for number in counted])
    by_gene = means.groupby(pd.Series(genes[counted])).mean().to_numpy()
    rng = np.random.default_rng(seed)
    if len(by_gene) > 1:
        units = np.arange(len(by_gene))
        low, high = hierarchical_bootstrap(by_gene, units, rng=rng, n=_RESAMPLES)
    else:  # every trial weighs alike, whatever its number of responders
        parts = [values[number] for number in counted]
        weights = np.concatenate([np.full(len(part), 1 / len(part)) for part in parts])
        low, high = bootstrap_ratio(np.concatenate(parts) * weights, weights, rng=rng, n=_RESAMPLES)
    return {"mean": float(by_gene.mean()), "low": low, "high": high}
