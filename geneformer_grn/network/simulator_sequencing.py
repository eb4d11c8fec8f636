"""From the levels of a simulated cell to the counts that a sequencer would report.

The steps and their order are SERGIO's (Dibaeinia & Sinha 2020, after Splatter): outlier genes, library sizes,
drop-outs, Poisson molecules. One thing differs: what drops out is made up for by the other genes, so that the
molecules of a cell are those asked for. Drop-outs are off by default, since counts of molecules have as many
zeros as their depth explains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

_ROWS = 2_048  # cells at a time: bounds the float64 copies


@dataclass(frozen=True, kw_only=True)
class SequencingSettings:
    """The technical noise.

    Parameters
    ----------
    umi
        Mean number of molecules a cell, above 0.
    library_sd
        Standard deviation of the logarithm of library sizes (log-normal).
    outliers
        Share of genes whose expression is multiplied by a log-normal factor, the same in all cells.
    outlier_mean, outlier_sd
        Mean and standard deviation of the logarithm of that factor.
    dropout
        Percentile of log(1 + level) at which half of the values drop out; None: no drop-outs.
    dropout_shape
        Steepness of the logistic curve of drop-outs.

    Raises
    ------
    ValueError
        A number is impossible.
    """

    umi: float = 5_000
    library_sd: float = 0.4
    outliers: float = 0.01
    outlier_mean: float = 0.8
    outlier_sd: float = 1.0
    dropout: float | None = None
    dropout_shape: float = 6.5

    def __post_init__(self) -> None:
        if not 0 < self.umi < np.inf:
            raise ValueError(f"a cell needs more than 0 molecules on average, got {self.umi} UMI")
        if not 0 <= self.outliers <= 1:
            raise ValueError(f"outliers are a share of the genes from 0 to 1, got {self.outliers}")
        if self.dropout is not None and not 0 <= self.dropout <= 100:
            raise ValueError(f"drop-outs are placed at a percentile from 0 to 100, got {self.dropout}")
        for name in ("library_sd", "outlier_sd", "dropout_shape"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} is 0 or more, got {getattr(self, name)}")


def outlier_factors(n_genes: int, settings: SequencingSettings, generator: np.random.Generator) -> np.ndarray:
    """Return the ``(n_genes,)`` factors of genes: 1, of outliers a log-normal one."""
    factors = np.exp(generator.normal(settings.outlier_mean, settings.outlier_sd, n_genes))
    return np.where(generator.random(n_genes) < settings.outliers, factors, 1.0)


def sequence(
    levels: np.ndarray, factors: np.ndarray, settings: SequencingSettings, generator: np.random.Generator
) -> sparse.csr_matrix:
    """Draw the molecules that are counted of every cell.

    Parameters
    ----------
    levels
        ``(n, G)`` float expression, 0 or more.
    factors
        ``(G,)`` of `outlier_factors`.
    settings
        Depth and noise.
    generator
        Source of everything random.

    Returns
    -------
    csr_matrix
        ``(n, G)`` float32 with whole numbers. A cell without any expression has no molecules.

    Examples
    --------
    >>> generator = np.random.default_rng(0)
    >>> sequence(np.ones((4, 50)), np.ones(50), SequencingSettings(umi=1_000), generator).shape
    (4, 50)
    """
    spread = settings.library_sd
    libraries = settings.umi * np.exp(generator.normal(-0.5 * spread**2, spread, len(levels)))
    middle = _dropout_middle(levels, factors, libraries, settings)
    parts = []
    for first in range(0, len(levels), _ROWS):
        rows = slice(first, first + _ROWS)
        expected = _to_libraries(levels[rows] * factors, libraries[rows])
        if middle is not None:
            slope = settings.dropout_shape * (np.log1p(expected) - middle)
            kept = generator.random(expected.shape) < 1.0 / (1.0 + np.exp(-slope))
            expected = _to_libraries(expected * kept, libraries[rows])
        parts.append(sparse.csr_matrix(generator.poisson(expected).astype(np.float32)))
    if not parts:
        return sparse.csr_matrix(levels.shape, dtype=np.float32)
    return sparse.csr_matrix(sparse.vstack(parts, format="csr"))


def _to_libraries(expression: np.ndarray, libraries: np.ndarray) -> np.ndarray:
    """Return expression scaled to each cell's library; cells without any stay at 0."""
    total = expression.sum(axis=1)
    return expression * np.divide(libraries, total, out=np.zeros_like(total), where=total > 0)[:, None]


def _dropout_middle(
    levels: np.ndarray, factors: np.ndarray, libraries: np.ndarray, settings: SequencingSettings
) -> float | None:
    """Return the log(1 + level) at which half drops out, None without drop-outs."""
    if settings.dropout is None or len(levels) == 0:
        return None
    step = max(1, len(levels) // _ROWS)  # the percentile of some thousand cells is that of all
    some = _to_libraries(levels[::step] * factors, libraries[::step])
    return float(np.percentile(np.log1p(some), settings.dropout))
