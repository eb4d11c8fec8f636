"""Resampling statistics: bootstrap intervals, p-values against matched nulls, false discovery rates.

Arrays in, arrays out. These are the plain textbook forms, chosen over model-based ones because effects in
this field are compared with other genes of the same data, not with a distribution somebody assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from scipy.special import ndtr, stdtrit

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
    _check_bootstrap(n, level)
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


def hierarchical_bootstrap(
    values: np.ndarray,
    groups: Sequence[object] | np.ndarray | pd.Series | None = None,
    *,
    rng: np.random.Generator,
    n: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the bootstrap interval of a mean over units that come in groups (cells of donors).

    Each resample draws as many groups as there are, with replacement, and within every group drawn as many
    of its units as it has; its mean is over all units drawn. The quantiles taken are those that give the
    t interval's width for as many groups, so that five donors do not pass for many.

    Parameters
    ----------
    values
        ``(m,)`` float; NaN are left out, with their groups.
    groups
        ``(m,)`` labels. None, or one group only: the interval is over units, see `bootstrap_interval`, and
        says nothing of other groups.
    rng
        Source of the resamples.
    n
        Number of resamples; with fewer than ten groups 2,000 or more reach far enough into the tails.
    level
        Coverage, between 0 and 1.

    Returns
    -------
    Lower and upper end; NaN with fewer than two values.

    Raises
    ------
    ValueError
        Labels that do not match the values in number, or are missing; `level` is not between 0 and 1, or
        `n` is not positive.

    Notes
    -----
    Resampling at both levels: Davison and Hinkley (1997), Bootstrap methods and their application, section
    3.8; it is too wide where groups hardly differ, as the units' noise then counts twice. Quantiles:
    Hesterberg (2015), What teachers should know about the bootstrap, the expanded percentile interval.

    Examples
    --------
    >>> shifts, donors = [0.1, 0.2, 0.6, 0.7], ["a", "a", "b", "b"]
    >>> low, high = hierarchical_bootstrap(shifts, donors, rng=np.random.default_rng(0))
    >>> bool(low < 0.4 < high)
    True
    """
    values = np.asarray(values, dtype=np.float64)
    if groups is None:
        return bootstrap_interval(values, rng=rng, n=n, level=level)
    if len(groups) != len(values):
        raise ValueError(f"{len(groups):,} group labels were given for {len(values):,} values")
    known = ~np.isnan(values)
    codes, labels = pd.factorize(np.asarray(groups, dtype=object)[known])
    if np.any(codes < 0):
        raise ValueError(
            f"{np.count_nonzero(codes < 0):,} of {len(codes):,} values have no group label; label them, "
            "leave them out, or resample without groups"
        )
    n_groups = len(labels)
    if n_groups < 2:
        return bootstrap_interval(values, rng=rng, n=n, level=level)
    _check_bootstrap(n, level)
    means = _two_level_means(values[known], codes, rng=rng, n=n)
    tail = float(ndtr(-np.sqrt(n_groups / (n_groups - 1)) * stdtrit(n_groups - 1, (1 + level) / 2)))
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _two_level_means(
    values: np.ndarray, codes: np.ndarray, *, rng: np.random.Generator, n: int
) -> np.ndarray:
    """Return the ``(n,)`` means of resamples of groups and of units within them."""
    n_groups = int(codes.max()) + 1
    times = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n)
    sizes = np.bincount(codes, minlength=n_groups)
    sums = np.zeros(n)
    for group, units in enumerate(np.split(values[np.argsort(codes, kind="stable")], np.cumsum(sizes)[:-1])):
        resample = np.repeat(np.arange(n), times[:, group])
        step = max(_BLOCK // len(units), 1)
        for start in range(0, len(resample), step):
            part = resample[start : start + step]
            drawn = units[rng.integers(0, len(units), size=(len(part), len(units)))].sum(axis=1)
            sums += np.bincount(part, weights=drawn, minlength=n)
    return np.asarray(sums / (times @ sizes))


def _check_bootstrap(n: int, level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval lies between 0 and 1, got {level}")
    if n < 1:
        raise ValueError(f"a bootstrap needs at least one resample, got {n}")


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


def without_trend(values: np.ndarray, traits: np.ndarray) -> np.ndarray:
    """Return values less their linear trend in some traits, in units that make them comparable.

    Matched genes are near a gene in rank, not equal: what is left of the trend would make the gene at either
    end of its null genes look extreme.

    Parameters
    ----------
    values
        ``(n,)`` float without NaN: one gene and its null genes alike.
    traits
        ``(n, t)`` float. Constant or redundant ones do no harm. One in which a gene differs from all others,
        which do not vary in it, takes that gene's value for a trend: see `traits_in_reach`.

    Returns
    -------
    ``(n,)`` residuals of the least-squares fit, each over ``sqrt(1 - leverage)``: equal in variance where
    the values' noise is, also for a gene at the edge. The same as the distance of each value from what a fit
    to all the others predicts, over the standard error of that prediction's error.

    Notes
    -----
    Internally studentised residuals, without the common factor: Cook and Weisberg (1982), Residuals and
    influence in regression.
    """
    values = np.asarray(values, dtype=np.float64)
    basis = _trend_basis(traits)
    residuals = values - basis @ (basis.T @ values)
    residuals[np.abs(residuals) <= 1e-12 * np.abs(values).max(initial=0.0)] = 0.0  # rounding is no order
    return np.asarray(residuals / np.sqrt(np.maximum(1 - (basis**2).sum(axis=1), 1e-9)))


def traits_in_reach(traits: np.ndarray, *, most: float = 0.5) -> np.ndarray:
    """Return in which traits the others vary enough to tell a trend as far out as the first row lies.

    Where all others share a trait that the first does not, any value of the first would fit the trend, and
    nothing it does could be extreme. Such a trait is left out, the one first that matters most.

    Parameters
    ----------
    traits
        ``(n, t)`` float, the gene in question first.
    most
        Largest leverage of the first row; at 0.5 its value weighs as much in its own fit as all others do.

    Returns
    -------
    ``(t,)`` bool. It depends on the traits only, not on what is tested.

    Examples
    --------
    >>> traits_in_reach(np.array([[0.5, 0.1], [0.4, 0.9], [0.6, 0.9], [0.7, 0.9], [0.2, 0.9]])).tolist()
    [True, False]
    """
    traits = np.asarray(traits, dtype=np.float64)
    kept = np.ones(traits.shape[1], dtype=bool)

    def leverage(columns: np.ndarray) -> float:
        return float((_trend_basis(traits[:, columns])[0] ** 2).sum())

    while kept.any() and leverage(kept) > most:
        tried = {trait: kept & (np.arange(len(kept)) != trait) for trait in np.flatnonzero(kept)}
        kept = min(tried.values(), key=leverage)
    return kept


def _trend_basis(traits: np.ndarray) -> np.ndarray:
    """Return an orthonormal basis of a constant and the traits, ``(n, 1 to 1 + t)``."""
    centred = traits - np.mean(traits, axis=0)
    basis, singular, _ = np.linalg.svd(np.column_stack([np.ones(len(traits)), centred]), full_matrices=False)
    return np.asarray(basis[:, singular > 1e-10 * singular[0]])


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
