"""Which genes of a screen are run exactly: the top of the estimate, and a random sample that audits it.

Recall is measured, not assumed. A random sample of all genes is run exactly whatever was estimated for it; of
the truly strongest tenth of the sample, recall is the share that the estimate had put on the list.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

TOP = 0.1
"""Share of genes that a screen is meant to find."""


@dataclass(frozen=True, kw_only=True)
class Recall:
    """How much of the truly strongest tenth of a sample was on the list.

    Parameters
    ----------
    n_found, n_true
        Genes of that tenth on the list, and in all.
    n_sample
        Genes of the sample.
    """

    n_found: int
    n_true: int
    n_sample: int

    @property
    def value(self) -> float:
        """The share found; NaN of nothing."""
        return self.n_found / self.n_true if self.n_true else float("nan")

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the exact binomial interval (Clopper and Pearson 1934, Biometrika 26)."""
        from scipy.stats import beta

        outside, missed = (1.0 - level) / 2.0, self.n_true - self.n_found
        low = float(beta.ppf(outside, self.n_found, missed + 1)) if self.n_found else 0.0
        high = float(beta.ppf(1.0 - outside, self.n_found + 1, missed)) if missed else 1.0
        return low, high

    def __add__(self, other: Recall) -> Recall:
        return Recall(
            n_found=self.n_found + other.n_found,
            n_true=self.n_true + other.n_true,
            n_sample=self.n_sample + other.n_sample,
        )


def strongest(values: np.ndarray, share: float) -> np.ndarray:
    """Return a mask ``(n,)`` of the largest `share` of the values that are known, rounded up.

    Of equal values those that come first are taken.

    Examples
    --------
    >>> strongest(np.array([0.1, np.nan, 0.3, 0.2]), 0.5)
    array([False, False,  True,  True])
    """
    n_known = int(np.count_nonzero(~np.isnan(values)))
    order = np.argsort(-values, kind="stable")  # NaN last
    chosen = np.zeros(len(values), dtype=bool)
    chosen[order[: math.ceil(round(share * n_known, 9))]] = True
    return chosen


def audit_sample(known: np.ndarray, share: float, *, rng: np.random.Generator) -> np.ndarray:
    """Return a mask ``(n,)`` of a random `share` of the genes in the mask `known`, rounded up."""
    among = np.flatnonzero(known)
    sample = np.zeros(len(known), dtype=bool)
    size = math.ceil(round(share * len(among), 9))
    sample[rng.choice(among, size=size, replace=False)] = True
    return sample


def measured_recall(exact: np.ndarray, listed: np.ndarray, *, share: float = TOP) -> Recall:
    """Return the recall of the top of a sample.

    Parameters
    ----------
    exact
        ``(n,)`` exact strengths of a random sample of genes.
    listed
        ``(n,)`` mask: which of them were on the list.
    share
        What part of the sample is its top.

    Examples
    --------
    >>> measured_recall(np.arange(20.0), np.arange(20) > 18).value
    0.5
    """
    top = strongest(exact, share)
    return Recall(
        n_found=int(np.count_nonzero(top & listed)), n_true=int(np.count_nonzero(top)), n_sample=len(exact)
    )
