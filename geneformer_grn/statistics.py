"""Resampling statistics: bootstrap intervals, p-values against matched nulls, false discovery rates.

Arrays in, arrays out. These are the plain textbook forms, chosen over model-based ones because effects in
this field are compared with other genes of the same data, not with a distribution somebody assumed.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Alternative = Literal["greater", "less", "two-sided"]

_BLOCK = 1 << 22  # indices drawn at a time: bounds the memory of the bootstrap


def bootstrap_interval(
    values: np.ndarray, *, rng: np.random.Generator, n: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a mean.

    Parameters
    ----------
    values
        ``(m,)`` float; NaN are left out.
    rng
        Source of the resamples.
    n
        Number of resamples.
    level
        Coverage, between 0 and 1.

    Returns
    -------
    Lower and upper end; NaN with fewer than two values.

    Raises
    ------
    ValueError
        `level` is not between 0 and 1, or `n` is not positive.

    Notes
    -----
    Efron (1979), Bootstrap methods: another look at the jackknife. The percentile interval is too narrow
    for very few values (ten cover about 90 % where 95 % is asked).
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[~np.isnan(values)]
    return bootstrap_ratio(values, np.ones(len(values)), rng=rng, n=n, level=level)


def bootstrap_ratio(
    numerator: np.ndarray,
    denominator: np.ndarray,
    *,
    rng: np.random.Generator,
    n: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a ratio of sums over the same units.

    Parameters
    ----------
    numerator, denominator
        ``(m,)`` float, one entry per unit (a cell, a gene); units are drawn with both their entries.
    rng, n, level
        As in `bootstrap_interval`.

    Returns
    -------
    Lower and upper end; NaN with fewer than two units.

    Raises
    ------
    ValueError
        `level` is not between 0 and 1, or `n` is not positive.
    """
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval lies between 0 and 1, got {level}")
    if n < 1:
        raise ValueError(f"a bootstrap needs at least one resample, got {n}")
    n_units = len(numerator)
    if n_units < 2:
        return float("nan"), float("nan")
    ratios = np.empty(n)
    step = max(_BLOCK // n_units, 1)
    for start in range(0, n, step):
        rows = min(step, n - start)
        drawn = rng.integers(0, n_units, size=(rows, n_units))
        ratios[start : start + rows] = numerator[drawn].sum(axis=1) / denominator[drawn].sum(axis=1)
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def matched_null_p(observed: float, null: np.ndarray, *, alternative: Alternative = "greater") -> float:
    """Return the p-value of `observed` among null values of the same kind.

    ``p = (1 + null values at least as extreme) / (1 + K)``: the observed value counts as one of the null's,
    so p is never 0 and never below ``1 / (1 + K)``.

    Parameters
    ----------
    observed
        The statistic of the tested gene.
    null
        ``(K,)`` float; the same statistic of K null genes; NaN are left out.
    alternative
        ``greater``: large values are extreme; ``less``: small ones; ``two-sided``: twice the smaller of
        both, at most 1.

    Returns
    -------
    The p-value; NaN where `observed` is NaN or no null value is left.

    Raises
    ------
    ValueError
        The alternative is unknown.

    Notes
    -----
    Phipson and Smyth (2010), Permutation p-values should never be zero.
    """
    null = np.asarray(null, dtype=np.float64)
    null = null[~np.isnan(null)]
    if alternative not in {"greater", "less", "two-sided"}:
        raise ValueError(f"alternative {alternative!r} is unknown; use greater, less or two-sided")
    if np.isnan(observed) or not len(null):
        return float("nan")
    above = (1 + np.count_nonzero(null >= observed)) / (1 + len(null))
    below = (1 + np.count_nonzero(null <= observed)) / (1 + len(null))
    if alternative == "two-sided":
        return float(min(1.0, 2 * min(above, below)))
    return float(above if alternative == "greater" else below)


def benjamini_hochberg(p_values: np.ndarray) -> np.ndarray:
    """Return the false discovery rate at which each test becomes a discovery.

    Parameters
    ----------
    p_values
        ``(n,)`` float; NaN are not tests and stay NaN.

    Returns
    -------
    ``(n,)`` float64 q-values.

    Raises
    ------
    ValueError
        A p-value lies outside 0 to 1.

    Notes
    -----
    Benjamini and Hochberg (1995), the step-up procedure.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    tested = ~np.isnan(p_values)
    p = p_values[tested]
    if np.any((p < 0) | (p > 1)):
        raise ValueError("p-values lie between 0 and 1")
    order = np.argsort(p)[::-1]
    scaled = p[order] * len(p) / np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum.accumulate(np.minimum(scaled, 1.0))
    q_values = np.full_like(p_values, np.nan)
    q_values[tested] = adjusted
    return q_values
