"""What a fine-tuned model has to beat on cells, in one registry.

L1 logistic regression on log counts is hard to beat on cell types; a table without it says little. None of
them is weakened: penalties are chosen on the validation cells from a grid, and the classes weighted or not.
"""

from __future__ import annotations

import numpy as np

from geneformer_grn.evaluation.label_data import Baseline, LabelData, prediction_of, taught, training_shares
from geneformer_grn.evaluation.label_features import (
    expression_components,
    over_deviation,
    standardised,
    variable_genes,
)
from geneformer_grn.evaluation.linear_fits import fit_linear
from geneformer_grn.evaluation.model_baselines import components_and_states, linear_probe, random_weights
from geneformer_grn.evaluation.sequence_baselines import bilstm, cnn, denoising_autoencoder, mlp
from geneformer_grn.training.supervision import Kind, Prediction, Split, Task

CLASSES: frozenset[Kind] = frozenset({"classification", "ordinal"})
VALUES: frozenset[Kind] = frozenset({"regression"})
EVERY: frozenset[Kind] = CLASSES | VALUES


def majority(data: LabelData, task: Task, split: Split, *, seed: int, units: np.ndarray) -> Prediction:
    """Predict the classes by their shares in training; values by their mean."""
    shares = training_shares(task, split)
    scores = np.broadcast_to(shares, (len(units), *shares.shape)).copy()
    return Prediction(task.name, units, scores, {"settings": {}})


def hvg_pca_linear(data: LabelData, task: Task, split: Split, *, seed: int, units: np.ndarray) -> Prediction:
    """Logistic regression or ridge on 50 components of 2,000 standardised variable genes: scanpy's way."""
    parts = taught(data, task, split)
    components = expression_components(data.log, parts.seen, seed=seed)
    return prediction_of(task, units, fit_linear(components, task, parts, seed=seed))


def all_genes_linear(
    data: LabelData, task: Task, split: Split, *, seed: int, units: np.ndarray
) -> Prediction:
    """L1 logistic regression, or ridge, on the log counts of every gene detected in training."""
    parts = taught(data, task, split)
    scaled = over_deviation(data.log, parts.seen)
    return prediction_of(task, units, fit_linear(scaled, task, parts, seed=seed, penalty="l1"))


def scvi_linear(data: LabelData, task: Task, split: Split, *, seed: int, units: np.ndarray) -> Prediction:
    """Logistic regression or ridge on the latent space of scVI, learnt from the training cells' counts.

    Lopez et al. (2018), Nature Methods 15. Needs the extra ``scvi``; run by hand with scvi-tools 1.4.2 (see
    `docs/LOG.md`), while the tests do without it.

    Raises
    ------
    ModuleNotFoundError
        scvi-tools is not installed.
    """
    try:
        import scvi
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'baseline scvi needs scvi-tools, which is not installed: pip install "geneformer-grn[scvi]"'
        ) from error
    import anndata

    parts = taught(data, task, split)
    genes = variable_genes(data.log, parts.seen)
    cells = anndata.AnnData(data.counts.matrix[:, genes])
    known = cells[parts.seen].copy()
    scvi.settings.seed = seed
    scvi.model.SCVI.setup_anndata(known)
    model = scvi.model.SCVI(known)
    model.train(early_stopping=True)
    latent = standardised(model.get_latent_representation(cells), parts.seen)
    return prediction_of(task, units, fit_linear(latent, task, parts, seed=seed))


CELL_BASELINES: dict[str, Baseline] = {
    "majority": Baseline(run=majority, title="Majority class", kinds=CLASSES),
    "mean": Baseline(run=majority, title="Mean of training", kinds=VALUES),
    "hvg_pca_logistic": Baseline(
        run=hvg_pca_linear, title="Variable genes, PCA, logistic regression", kinds=CLASSES
    ),
    "hvg_pca_ridge": Baseline(run=hvg_pca_linear, title="Variable genes, PCA, ridge", kinds=VALUES),
    "l1_logistic": Baseline(run=all_genes_linear, title="L1 logistic regression", kinds=CLASSES),
    "ridge": Baseline(run=all_genes_linear, title="Ridge on all genes", kinds=VALUES),
    "mlp": Baseline(run=mlp, title="MLP on log counts", kinds=EVERY),
    "cnn": Baseline(run=cnn, title="1D convolution on ranked genes", kinds=EVERY),
    "bilstm": Baseline(run=bilstm, title="Bidirectional LSTM on ranked genes", kinds=EVERY),
    "denoising_autoencoder": Baseline(
        run=denoising_autoencoder, title="Denoising autoencoder, linear head", kinds=EVERY
    ),
    "linear_probe": Baseline(
        run=linear_probe, title="Linear probe on the frozen model", kinds=EVERY, needs_model=True
    ),
    "components_and_states": Baseline(
        run=components_and_states,
        title="Components and frozen states together",
        kinds=EVERY,
        needs_model=True,
    ),
    "random_weights": Baseline(
        run=random_weights, title="Same model from random weights", kinds=EVERY, needs_model=True
    ),
    "scvi": Baseline(run=scvi_linear, title="scVI, linear head", kinds=EVERY, extra="scvi"),
}
"""Name -> baseline, in the order of the table."""
