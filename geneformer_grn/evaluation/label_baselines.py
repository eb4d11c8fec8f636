"""What a fine-tuned model has to beat on cells: the majority, linear models on expression, the frozen model.

L1 logistic regression on log counts is hard to beat on cell types; a table without it says little. None of
them is weakened: penalties are chosen on the validation cells from a grid, and the classes weighted or not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from geneformer_grn.evaluation.label_data import LAYERS, Baseline, LabelData, choose, taught
from geneformer_grn.evaluation.linear_fits import (
    fit_linear,
    principal_components,
    spread,
    standardised,
)
from geneformer_grn.training.supervision import Kind, Prediction, Split, Task

CLASSES: frozenset[Kind] = frozenset({"classification", "ordinal"})
VALUES: frozenset[Kind] = frozenset({"regression"})
EVERY: frozenset[Kind] = CLASSES | VALUES
N_VARIABLE = 2000
N_COMPONENTS = 50


def majority(data: LabelData, task: Task, split: Split, *, seed: int, units: np.ndarray) -> Prediction:
    """Predict the classes by their shares in training; values by their mean."""
    known = task.values[taught(data, task, split).train]
    if task.kind == "regression":
        return Prediction(task.name, units, np.full(len(units), known.mean()), {"settings": {}})
    present, counts = np.unique(known, return_counts=True)
    shares = np.tile(counts / counts.sum(), (len(units), 1))
    return Prediction(task.name, units, spread(shares, present, len(task.classes)), {"settings": {}})


def variable_genes(data: LabelData, seen: np.ndarray, *, n: int = N_VARIABLE) -> np.ndarray:
    """Return the columns most variable for their mean in the cells `seen`, ascending; at most `n`.

    Genes by the dispersion of their normalised counts, standardised among 20 bins of genes of like mean:
    Satija et al. (2015), Nature Biotechnology 33, as scanpy's flavour ``seurat``. Undetected genes are left
    out.
    """
    log = data.log[seen]
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


def hvg_pca_linear(data: LabelData, task: Task, split: Split, *, seed: int, units: np.ndarray) -> Prediction:
    """Logistic regression or ridge on 50 components of 2,000 standardised variable genes: scanpy's way."""
    parts = taught(data, task, split)
    genes = variable_genes(data, parts.seen)
    scaled = standardised(data.log[:, genes].toarray(), parts.seen)
    components = principal_components(scaled, parts.seen, n=N_COMPONENTS, seed=seed)
    return fit_linear(components, task, parts, units, seed=seed)


def all_genes_linear(
    data: LabelData, task: Task, split: Split, *, seed: int, units: np.ndarray
) -> Prediction:
    """L1 logistic regression, or ridge, on the log counts of every gene detected in training.

    Genes are divided by their deviation and not centred, which the intercept makes up for, so that the matrix
    stays sparse.
    """
    parts = taught(data, task, split)
    known = data.log[parts.seen].astype(np.float64)
    mean = np.asarray(known.mean(axis=0)).ravel()
    sd = np.sqrt(np.maximum(np.asarray(known.multiply(known).mean(axis=0)).ravel() - mean**2, 0.0))
    genes = np.flatnonzero(sd > 1e-8)
    scaled = data.log[:, genes].astype(np.float64) @ sparse.diags(1 / sd[genes])
    return fit_linear(scaled.tocsr(), task, parts, units, seed=seed, penalty="l1")


def linear_probe(data: LabelData, task: Task, split: Split, *, seed: int, units: np.ndarray) -> Prediction:
    """Logistic regression or ridge on the pretrained model's cells, the model left as it is.

    Mean-pooled states of the last layer or the one before, whichever predicts the validation cells better.
    """
    parts = taught(data, task, split)
    both = np.union1d(parts.validation, units)
    candidates, chosen = [], dict[int, Any]()
    for layer in LAYERS:
        scaled = standardised(np.nan_to_num(data.cell_embeddings(layer)), parts.seen)
        found = fit_linear(scaled, task, parts, both, seed=seed)
        chosen[layer] = found.details["settings"]
        candidates.append(
            ({"encoder_layer": layer}, lambda asked, found=found: found.scores[np.searchsorted(both, asked)])
        )
    settings, predict = choose(task, parts.validation, candidates)
    settings |= chosen[settings["encoder_layer"]]
    return Prediction(task.name, units, predict(units), {"settings": settings})


CELL_BASELINES: dict[str, Baseline] = {
    "majority": Baseline(run=majority, title="Majority class", kinds=CLASSES),
    "mean": Baseline(run=majority, title="Mean of the training cells", kinds=VALUES),
    "hvg_pca_logistic": Baseline(
        run=hvg_pca_linear, title="Variable genes + PCA + logistic regression", kinds=CLASSES
    ),
    "hvg_pca_ridge": Baseline(run=hvg_pca_linear, title="Variable genes + PCA + ridge", kinds=VALUES),
    "l1_logistic": Baseline(run=all_genes_linear, title="L1 logistic regression", kinds=CLASSES),
    "ridge": Baseline(run=all_genes_linear, title="Ridge on all genes", kinds=VALUES),
    "linear_probe": Baseline(
        run=linear_probe, title="Linear probe on the frozen model", kinds=EVERY, needs_model=True
    ),
}
"""Name -> baseline, in the order of the table."""
