"""Rows of the evaluation suite: one shape for every question, whatever it asks and however it ends.

A gain is how much better the model is, so that above 0 is always good, also where a smaller measure is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from geneformer_grn.statistics import bootstrap_interval, hierarchical_bootstrap

Interval = dict[str, float]
"""``mean``, ``low``, ``high``: 95 %."""
MODEL, UNTRAINED = "model", "untrained"
_RESAMPLES = 2000
VERDICTS = ("ahead", "level", "behind")


def suite_row(
    task: str,
    measure: str,
    data: str,
    *,
    values: Mapping[str, float],
    ahead: Mapping[str, Mapping[str, float]],
    n: int,
    higher_is_better: bool = True,
    note: str = "",
) -> dict[str, Any]:
    """Return a row.

    Parameters
    ----------
    task, measure, data
        What is asked, what is measured, on which cells.
    values
        Name -> measure: `MODEL`, `UNTRAINED` and the simple baselines, at least one.
    ahead
        Name -> how far the model is ahead of it, with interval, for all but the model.
    n
        Units that the interval is over.
    higher_is_better
        Of the measure; gains are positive where the model is better all the same.
    note
        What a reader has to know.

    Returns
    -------
    dict
        ``task``, ``measure``, ``data``, ``higher_is_better``, ``model``, ``untrained``, ``baselines``,
        ``ahead_of_untrained``, ``ahead_of_baseline`` (the best of them, which ``name`` names), ``ahead_of``
        (each baseline), ``n``, ``seconds`` (filled in by who timed it), ``note``.

    Examples
    --------
    >>> gain = {"mean": 0.1, "low": 0.0, "high": 0.2}
    >>> values = {"model": 0.8, "untrained": 0.7, "pca": 0.7}
    >>> made = suite_row("t", "m", "d", values=values, ahead={"untrained": gain, "pca": gain}, n=5)
    >>> made["ahead_of_baseline"]["name"]
    'pca'
    """
    baselines = {name: _plain(value) for name, value in values.items() if name not in {MODEL, UNTRAINED}}
    sign = 1 if higher_is_better else -1
    known = {name: value for name, value in baselines.items() if value is not None}
    best = max(known, key=lambda name: sign * known[name]) if known else next(iter(baselines))
    return {
        "task": task,
        "measure": measure,
        "data": data,
        "higher_is_better": higher_is_better,
        "model": _plain(values[MODEL]),
        "untrained": _plain(values[UNTRAINED]),
        "baselines": baselines,
        "ahead_of_untrained": _interval(ahead[UNTRAINED]),
        "ahead_of_baseline": {"name": best, **_interval(ahead[best])},
        "ahead_of": {name: _interval(ahead[name]) for name in baselines},
        "n": n,
        "seconds": 0.0,
        "note": note,
    }


def not_run(task: str, data: str, *, reason: str, sources: Sequence[str] = ()) -> dict[str, Any]:
    """Return the row of a question that was not asked: why, and where what it lacks comes from."""
    # both end up in a cell of a Markdown table
    texts = {"not_run": reason, "source": "; ".join(sources)}
    shown = {name: " ".join(text.replace("|", "/").split()) for name, text in texts.items()}
    return {"task": task, "data": data, **shown}


def paired_gain(
    ours: np.ndarray, theirs: np.ndarray, *, seed: int, groups: Sequence[object] | np.ndarray | None = None
) -> Interval:
    """Return the mean difference over units with its 95 % bootstrap interval.

    Parameters
    ----------
    ours, theirs
        ``(n,)`` float, larger is better; the same units in the same order.
    seed
        Of the resamples.
    groups
        ``(n,)`` labels (donors): these are resampled, and units within them. None: units.
    """
    gain = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    rng = np.random.default_rng(seed)
    if groups is None:
        low, high = bootstrap_interval(gain, rng=rng, n=_RESAMPLES)
    else:
        low, high = hierarchical_bootstrap(gain, groups, rng=rng, n=_RESAMPLES)
    return {"mean": float(np.nanmean(gain)), "low": low, "high": high}


def unit_row(
    task: str,
    measure: str,
    data: str,
    *,
    units: Mapping[str, np.ndarray],
    seed: int,
    groups: Sequence[object] | np.ndarray | None = None,
    note: str = "",
) -> dict[str, Any]:
    """Return the row of a measure that is a mean over units (cells, donors), larger is better.

    Parameters
    ----------
    task, measure, data, note
        As in `suite_row`.
    units
        Name -> ``(n,)`` values of the same units.
    seed, groups
        As in `paired_gain`.
    """
    values = {name: float(np.mean(each)) for name, each in units.items()}
    ahead = {
        name: paired_gain(units[MODEL], each, seed=seed, groups=groups)
        for name, each in units.items()
        if name != MODEL
    }
    return suite_row(task, measure, data, values=values, ahead=ahead, n=len(units[MODEL]), note=note)


def verdict(gain: Mapping[str, Any]) -> str:
    """Return ``ahead``, ``behind``, or ``level`` where the interval holds 0 or there is none."""
    low, high = gain.get("low"), gain.get("high")
    if low is None or high is None:
        return "level"
    if low > 0:
        return "ahead"
    return "behind" if high < 0 else "level"


def summary_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how many rows the model wins, draws and loses, and how many were not run."""
    run = [row for row in rows if "not_run" not in row]
    return {
        "n_rows": len(run),
        "n_not_run": len(rows) - len(run),
        "against_untrained": _counted(row["ahead_of_untrained"] for row in run),
        "against_best_baseline": _counted(row["ahead_of_baseline"] for row in run),
    }


def _counted(gains: Any) -> dict[str, int]:
    words = [verdict(gain) for gain in gains]
    return {word: words.count(word) for word in VERDICTS}


def _interval(gain: Mapping[str, Any]) -> dict[str, float | None]:
    return {key: _plain(gain.get(key)) for key in ("mean", "low", "high")}


def _plain(value: Any) -> float | None:
    """Return a float, None where it is missing or not finite."""
    return float(value) if value is not None and np.isfinite(value) else None
