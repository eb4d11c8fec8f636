"""What label baselines read: variable genes, standardised counts, components, learnt from the units given."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import sparse

N_VARIABLE = 2000
_BLOCK = 20_000  # cells
_FARTHEST = 10.0  # deviations


def variable_genes(log: sparse.csr_matrix, seen: np.ndarray, *, n: int = N_VARIABLE) -> np.ndarray:
    """Return the columns most variable for their mean in the cells `seen`, ascending; at most `n`.

    Genes by the dispersion of their normalised counts, standardised among 20 bins of genes of like mean:
    Satija et al. (2015), Nature Biotechnology 33, as scanpy's flavour ``seurat``. Undetected genes are left
    out.
    """
    log = log[seen]
    n_detected = np.diff(log.tocsc().indptr)
    detected = np.flatnonzero(n_detected)
    if len(detected) <= n:
        return detected
    linear = sparse.csr_matrix(
        (np.expm1(log.data.astype(np.float64)), log.indices, log.indptr), shape=log.shape
    )
    mean = np.asarray(linear.mean(axis=0)).ravel()[detected]
    square = np.asarray(linear.multiply(linear).mean(axis=0)).ravel()[detected]
    dispersion = np.log(np.maximum(square / mean - mean, 1e-12))
    edges = np.quantile(mean, np.linspace(0, 1, 21)[1:-1])
    bins = np.searchsorted(edges, mean)
    score = np.empty(len(detected))
    for one in np.unique(bins):
        within = dispersion[bins == one]
        score[bins == one] = (within - within.mean()) / max(within.std(), 1e-8)
    return np.sort(detected[np.argsort(-score, kind="stable")[:n]])


def standardised(features: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return features less their mean over the units `seen`, over their deviation there; ``(n, f)`` float32.

    A constant feature is 0 everywhere, so that what never varied in training cannot speak later. Values are
    clipped, since a gene detected in one training cell has a deviation next to nothing.
    """
    return _scaling(features[seen])(features)


def over_deviation(log: sparse.csr_matrix, seen: np.ndarray) -> sparse.csr_matrix:
    """Return log counts of the genes that vary in the cells `seen`, over their deviation there; float64.

    Not centred, which an intercept makes up for, so that the matrix stays sparse.
    """
    known = log[seen].astype(np.float64)
    mean = np.asarray(known.mean(axis=0)).ravel()
    sd = np.sqrt(np.maximum(np.asarray(known.multiply(known).mean(axis=0)).ravel() - mean**2, 0.0))
    genes = np.flatnonzero(sd > 1e-6)
    return (log[:, genes].astype(np.float64) @ sparse.diags(1 / sd[genes])).tocsr()


def centred(features: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return features less their mean over the units `seen`, in units of one common deviation; float32.

    What varies much stays large, as in components: with few labels, dividing every feature by its own
    deviation gives noise the voice of a signal.
    """
    known = features[seen].astype(np.float64)
    scale = float(np.sqrt(known.var(axis=0).max(initial=0.0)))
    return np.asarray((features - known.mean(axis=0)) / max(scale, 1e-8), dtype=np.float32)


def scaled_states(
    states: np.ndarray, seen: np.ndarray, scale: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return states scaled by those seen; a unit without a state has the mean of the others."""
    known = seen[~np.isnan(states[seen]).any(axis=1)]
    return np.nan_to_num(scale(states, known if len(known) else seen))


def expression_components(log: sparse.csr_matrix, seen: np.ndarray, *, n: int = 50, seed: int) -> np.ndarray:
    """Return components of standardised variable genes, ``(n_cells, k)`` float32, the first of variance 1.

    Genes, scales and components are all learnt from the cells `seen`.

    Parameters
    ----------
    log
        ``(n_cells, g)`` log-normalised counts; densified a block of cells at a time.
    seen
        int64 cells.
    n
        Components at most.
    seed
        Of the solver.
    """
    genes = variable_genes(log, seen)
    known = log[seen][:, genes].toarray()
    scale = _scaling(known)
    project = _projection(scale(known), n=n, seed=seed)
    starts = range(0, log.shape[0], _BLOCK)
    return np.concatenate([
        project(scale(log[start : start + _BLOCK][:, genes].toarray())) for start in starts
    ])  # fmt: skip


def _scaling(known: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return what takes units to the mean and deviations of those known."""
    known = known.astype(np.float64)
    mean, sd = known.mean(axis=0), known.std(axis=0)
    factor = np.where(sd > 1e-8, 1 / np.maximum(sd, 1e-8), 0.0)
    return lambda features: np.clip((features - mean) * factor, -_FARTHEST, _FARTHEST).astype(np.float32)


def _projection(known: np.ndarray, *, n: int, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return what takes units to the components of those known."""
    from sklearn.decomposition import PCA

    k = min(n, len(known) - 1, known.shape[1])
    if k < 1:
        return lambda features: np.zeros((len(features), 1), dtype=np.float32)
    solver = "randomized" if k < 0.8 * len(known) else "full"
    model = PCA(n_components=k, svd_solver=solver, random_state=seed).fit(known)
    first = max(float(np.sqrt(model.explained_variance_[0])), 1e-8)
    return lambda features: np.asarray(model.transform(features) / first, dtype=np.float32)
