"""What label baselines read: variable genes, standardised counts, components, learnt from the units given."""

from __future__ import annotations

import numpy as np
from scipy import sparse

N_VARIABLE = 2000


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


def standardised(features: np.ndarray, seen: np.ndarray, *, clip: float = 10.0) -> np.ndarray:
    """Return features less their mean over the units `seen`, over their deviation there; ``(n, f)`` float32.

    A constant feature is 0 everywhere, so that what never varied in training cannot speak later. Values are
    clipped, since a gene detected in one training cell has a deviation next to nothing.
    """
    known = features[seen].astype(np.float64)
    mean, sd = known.mean(axis=0), known.std(axis=0)
    scale = np.where(sd > 1e-8, 1 / np.maximum(sd, 1e-8), 0.0)
    return np.clip((features - mean) * scale, -clip, clip).astype(np.float32)


def centred(features: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return features less their mean over the units `seen`, in units of one common deviation; float32.

    What varies much stays large, as in components: with few labels, dividing every feature by its own
    deviation gives noise the voice of a signal.
    """
    known = features[seen].astype(np.float64)
    scale = float(np.sqrt(known.var(axis=0).max(initial=0.0)))
    return np.asarray((features - known.mean(axis=0)) / max(scale, 1e-8), dtype=np.float32)


def principal_components(features: np.ndarray, seen: np.ndarray, *, n: int = 50, seed: int) -> np.ndarray:
    """Return ``(n_units, k)`` float32 scores on components of the units `seen`, the first of variance 1."""
    from sklearn.decomposition import PCA

    k = min(n, len(seen) - 1, features.shape[1])
    if k < 1:
        return np.zeros((len(features), 1), dtype=np.float32)
    model = PCA(n_components=k, svd_solver="randomized" if k < 0.8 * len(seen) else "full", random_state=seed)
    first = float(np.sqrt(model.fit(features[seen]).explained_variance_[0]))
    return np.asarray(model.transform(features) / max(first, 1e-8), dtype=np.float32)


def expression_components(log: sparse.csr_matrix, seen: np.ndarray, *, seed: int) -> np.ndarray:
    """Return components of standardised variable genes, ``(n, k)``, all learnt from the cells `seen`."""
    genes = variable_genes(log, seen)
    return principal_components(standardised(log[:, genes].toarray(), seen), seen, seed=seed)
