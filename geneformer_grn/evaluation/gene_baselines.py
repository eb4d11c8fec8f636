"""What a fine-tuned model has to beat on genes: how much, how variably and with whom they are expressed.

Regulators, and genes that matter, are expressed differently from others; a model that has learnt no more than
that does no better than these. Features come from counts without labels: a gene's own need no training genes,
and components of co-expression are learnt without the genes of validation and test.
"""

from __future__ import annotations

import numpy as np

from geneformer_grn.evaluation.label_baselines import CLASSES, EVERY, VALUES, majority
from geneformer_grn.evaluation.label_data import (
    LAYERS,
    Baseline,
    Fitted,
    LabelData,
    choose,
    prediction_of,
    taught,
)
from geneformer_grn.evaluation.label_features import scaled_states, standardised
from geneformer_grn.evaluation.linear_fits import fit_linear
from geneformer_grn.evaluation.model_baselines import linear_probe, random_weights
from geneformer_grn.training.supervision import Prediction, Split, Task

N_COMPONENTS = 50
_ENTRIES = 50_000_000  # of a dense matrix of cells and genes


def expression_linear(
    data: LabelData, task: Task, split: Split, *, seed: int, units: np.ndarray
) -> Prediction:
    """Logistic regression or ridge on a gene's mean, variance and detection, also as logarithms squared."""
    parts = taught(data, task, split)
    features = standardised(expression_features(data, task), parts.seen)
    return prediction_of(task, units, fit_linear(features, task, parts, seed=seed))


def coexpression_linear(
    data: LabelData, task: Task, split: Split, *, seed: int, units: np.ndarray
) -> Prediction:
    """Logistic regression or ridge on the components of a gene's profile over cells."""
    parts = taught(data, task, split)
    features = standardised(coexpression_features(data, task, split, seed=seed), parts.seen)
    return prediction_of(task, units, fit_linear(features, task, parts, seed=seed))


def expression_and_coexpression_linear(
    data: LabelData, task: Task, split: Split, *, seed: int, units: np.ndarray
) -> Prediction:
    """Logistic regression or ridge on both together."""
    parts = taught(data, task, split)
    features = _from_counts(data, task, split, seed=seed)
    return prediction_of(task, units, fit_linear(features, task, parts, seed=seed))


def expression_and_states(
    data: LabelData, task: Task, split: Split, *, seed: int, units: np.ndarray
) -> Prediction:
    """Logistic regression or ridge on both and on the model's gene states, side by side.

    States as of ``linear_probe``, means over the cells; of the last layer or the one before. Ahead of both
    alone, states hold what counts do not tell in this way.
    """
    parts = taught(data, task, split)
    counted = _from_counts(data, task, split, seed=seed)
    candidates: list[Fitted] = []
    for layer in LAYERS:
        states = scaled_states(data.gene_embeddings(layer)[task.gene_tokens], parts.seen, standardised)
        settings, predict = fit_linear(np.hstack([counted, states]), task, parts, seed=seed)
        candidates.append(({"encoder_layer": layer} | settings, predict))
    return prediction_of(task, units, choose(task, parts.validation, candidates))


def _from_counts(data: LabelData, task: Task, split: Split, *, seed: int) -> np.ndarray:
    both = [expression_features(data, task), coexpression_features(data, task, split, seed=seed)]
    return standardised(np.hstack(both), taught(data, task, split).seen)


def expression_features(data: LabelData, task: Task) -> np.ndarray:
    """Return mean, variance and detection of each labelled gene in log counts, and more, ``(n, 9)``.

    Their logarithms and the squares of these, since what is told apart by expression need not be so along a
    straight line. Genes that the data lack are 0 in all three.
    """
    columns = _columns(data, task)
    log = data.log.astype(np.float64).tocsc()[:, np.maximum(columns, 0)]
    mean = np.asarray(log.mean(axis=0)).ravel()
    variance = np.maximum(np.asarray(log.multiply(log).mean(axis=0)).ravel() - mean**2, 0.0)
    detection = np.diff(log.indptr) / log.shape[0]
    plain = np.where(columns[:, None] >= 0, np.column_stack([mean, variance, detection]), 0.0)
    logs = np.log10(plain + 1e-4)
    return np.hstack([plain, logs, logs**2])


def coexpression_features(data: LabelData, task: Task, split: Split, *, seed: int) -> np.ndarray:
    """Return where each labelled gene lies on the components of co-expression, ``(n, 50)`` at most.

    Genes, each standardised over the cells, are the samples. The components are those of all genes of the
    data but the ones of validation and test. Of many cells a sample is drawn.
    """
    from sklearn.decomposition import TruncatedSVD

    columns = _columns(data, task)
    held_out = columns[np.concatenate([split.validation, split.test])]
    n_cells, n_genes = data.log.shape
    most = max(_ENTRIES // n_genes, 100)
    rows = np.arange(n_cells)
    if n_cells > most:
        rows = np.sort(np.random.default_rng(seed).choice(n_cells, most, replace=False))
    profiles = data.log[rows].T.toarray()
    mean, sd = profiles.mean(axis=1, keepdims=True), profiles.std(axis=1, keepdims=True)
    profiles = (profiles - mean) / np.where(sd > 1e-6, sd, np.inf) / np.sqrt(len(rows))
    learnt = np.setdiff1d(np.arange(n_genes), held_out)
    k = min(N_COMPONENTS, len(learnt) - 1, len(rows) - 1)
    if k < 1:
        return np.zeros((len(columns), 1))
    model = TruncatedSVD(n_components=k, random_state=seed).fit(profiles[learnt])
    return np.where(columns[:, None] >= 0, model.transform(profiles[np.maximum(columns, 0)]), 0.0)


def _columns(data: LabelData, task: Task) -> np.ndarray:
    """Return the column of each labelled gene, -1 where the data lack it.

    Raises
    ------
    ValueError
        The task is not one of genes, or the data hold none of its genes.
    """
    if task.gene_tokens is None:
        raise ValueError(f"task {task.name!r} labels cells; this baseline is one of genes")
    tokens = data.counts.column_tokens
    place = np.minimum(np.searchsorted(tokens, task.gene_tokens), len(tokens) - 1)
    columns = np.where(tokens[place] == task.gene_tokens, place, -1)
    if (columns < 0).all():
        raise ValueError(f"the cells hold none of the {len(columns):,} genes labelled by {task.name!r}")
    return columns


GENE_BASELINES: dict[str, Baseline] = {
    "majority": Baseline(run=majority, title="Majority class", kinds=CLASSES),
    "mean": Baseline(run=majority, title="Mean of training", kinds=VALUES),
    "expression_logistic": Baseline(
        run=expression_linear, title="Logistic regression on mean, variance, detection", kinds=CLASSES
    ),
    "coexpression_logistic": Baseline(
        run=coexpression_linear, title="Logistic regression on co-expression", kinds=CLASSES
    ),
    "expression_coexpression_logistic": Baseline(
        run=expression_and_coexpression_linear, title="Logistic regression on both", kinds=CLASSES
    ),
    "expression_ridge": Baseline(
        run=expression_linear, title="Ridge on mean, variance, detection", kinds=VALUES
    ),
    "coexpression_ridge": Baseline(run=coexpression_linear, title="Ridge on co-expression", kinds=VALUES),
    "expression_coexpression_ridge": Baseline(
        run=expression_and_coexpression_linear, title="Ridge on both", kinds=VALUES
    ),
    "linear_probe": Baseline(
        run=linear_probe, title="Linear probe on the frozen model", kinds=EVERY, needs_model=True
    ),
    "expression_and_states": Baseline(
        run=expression_and_states,
        title="Expression, co-expression and frozen states together",
        kinds=EVERY,
        needs_model=True,
    ),
    "random_weights": Baseline(
        run=random_weights, title="Same model from random weights", kinds=EVERY, needs_model=True
    ),
}
"""Name -> baseline, in the order of the table."""
