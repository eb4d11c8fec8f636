"""Units that are scored, and resamples of them: whole groups where there are enough, else single units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtr, stdtrit

from geneformer_grn.training.supervision import Prediction, Task

MIN_GROUPS = 5
"""Fewer groups than this say nothing of other groups; the bootstrap is then over units."""
_ENTRIES = 1 << 22  # weights held at a time


@dataclass(frozen=True, eq=False)
class ScoredUnits:
    """Units that have a label and a score, with the code of their group."""

    units: np.ndarray
    truth: np.ndarray
    scores: np.ndarray
    codes: np.ndarray | None
    names: Sequence[str]
    n_unlabelled: int = 0
    n_without_score: int = 0

    @property
    def n_groups(self) -> int:
        """Groups that the units come from."""
        return 0 if self.codes is None else len(np.unique(self.codes))

    @property
    def unit(self) -> str:
        """What is drawn in a resample: ``groups`` or ``units``."""
        return "groups" if self.n_groups >= MIN_GROUPS else "units"

    def take(self, rows: np.ndarray) -> ScoredUnits:
        """Return some of the units."""
        codes = None if self.codes is None else self.codes[rows]
        return ScoredUnits(self.units[rows], self.truth[rows], self.scores[rows], codes, self.names)


def scored_units(task: Task, prediction: Prediction, groups: np.ndarray | pd.Series | None) -> ScoredUnits:
    """Return the units to be scored, checked."""
    units, scores = np.asarray(prediction.units), np.asarray(prediction.scores, dtype=np.float64)
    expected = (len(units),) if task.kind == "regression" else (len(units), len(task.classes))
    if scores.shape != expected:
        raise ValueError(f"scores of {task.name!r} have the shape {scores.shape}; the task needs {expected}")
    if len(np.unique(units)) < len(units):
        raise ValueError(f"the prediction of {task.name!r} holds a unit twice; each is scored once")
    labelled = task.labelled[units]
    known = ~np.isnan(scores.reshape(len(units), -1)).any(axis=1)
    kept = labelled & known
    if not kept.any():
        raise ValueError(
            f"nothing to score for {task.name!r}: of {len(units):,} units {labelled.sum():,} have a label "
            f"and {known.sum():,} a score, none both"
        )
    codes, names = None, np.empty(0, dtype=object)
    if groups is not None:
        if len(groups) != len(task.values):
            raise ValueError(f"{len(groups):,} group labels were given for {len(task.values):,} units")
        codes, names = pd.factorize(np.asarray(groups, dtype=object)[units[kept]], sort=True)
        if (codes < 0).any():
            raise ValueError(
                f"{np.count_nonzero(codes < 0):,} scored units of {task.name!r} have no group label; give "
                "them one, or score without groups"
            )
    return ScoredUnits(
        units[kept], task.values[units[kept]], scores[kept], codes, [str(name) for name in names],
        int((~labelled).sum()), int((labelled & ~known).sum()),
    )  # fmt: skip


def resampled(
    scored: ScoredUnits, n: int, seed: int, measures: Callable[[np.ndarray], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Return each measure on `n` resamples, drawn the same for equal units, groups and seed."""
    rng = np.random.default_rng(seed)
    n_units = len(scored.truth)
    drawn = np.arange(n_units)
    if scored.codes is not None and scored.unit == "groups":
        drawn = np.unique(scored.codes, return_inverse=True)[1]
    n_drawn = int(drawn.max()) + 1
    found = []
    step = max(_ENTRIES // n_units, 1)
    for start in range(0, n, step):
        rows = min(step, n - start)
        picks = rng.integers(0, n_drawn, size=(rows, n_drawn)) + n_drawn * np.arange(rows)[:, None]
        times = np.bincount(picks.ravel(), minlength=rows * n_drawn).reshape(rows, n_drawn)
        found.append(measures(times[:, drawn].astype(np.float64)))
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def interval(values: np.ndarray, scored: ScoredUnits, level: float = 0.95) -> list[float]:
    """Return the percentile interval; over groups with the tails of as many groups' t interval.

    The plain percentiles of a few groups are too narrow: Hesterberg (2015), What teachers should know about
    the bootstrap.
    """
    values = values[~np.isnan(values)]
    if not len(values):
        return [float("nan")] * 2
    tail = (1 - level) / 2
    if scored.unit == "groups":
        k = scored.n_groups
        tail = float(ndtr(-np.sqrt(k / (k - 1)) * stdtrit(k - 1, 1 - tail)))
    return [float(end) for end in np.quantile(values, [tail, 1 - tail])]
