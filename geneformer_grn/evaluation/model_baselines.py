"""The same architecture without its training, or without being trained further.

A linear probe leaves the pretrained model as it is. ``random_weights`` fine-tunes a model of the same shape
that has seen no cell, all of it, with the same settings as the model it stands beside. Together they say what
pretraining bought. ``components_and_states`` says what it adds to what expression alone tells.
"""

from __future__ import annotations

import numpy as np

from geneformer_grn.evaluation.label_data import (
    LAYERS,
    Fitted,
    LabelData,
    choose,
    prediction_of,
    taught,
    without_gaps,
)
from geneformer_grn.evaluation.label_features import (
    centred,
    expression_components,
    scaled_states,
    standardised,
)
from geneformer_grn.evaluation.linear_fits import fit_linear
from geneformer_grn.training.supervision import Prediction, Split, Task


def linear_probe(data: LabelData, task: Task, split: Split, *, seed: int, units: np.ndarray) -> Prediction:
    """Logistic regression or ridge on the states of the pretrained model, left as it is.

    Cells are means over their genes, genes means over the cells; of the last layer or the one before, every
    dimension divided by its own deviation or all by one, whichever predicts the validation units better. A
    gene in no cell has the mean of the others.
    """
    parts = taught(data, task, split)
    candidates: list[Fitted] = []
    for layer in LAYERS:
        if task.gene_tokens is None:
            states = data.cell_embeddings(layer)
        else:
            states = data.gene_embeddings(layer)[task.gene_tokens]
        for scale in (standardised, centred):
            scaled = scaled_states(states, parts.seen, scale)
            settings, predict = fit_linear(scaled, task, parts, seed=seed)
            candidates.append(({"encoder_layer": layer, "scaling": scale.__name__} | settings, predict))
    return prediction_of(task, units, choose(task, parts.validation, candidates))


def components_and_states(
    data: LabelData, task: Task, split: Split, *, seed: int, units: np.ndarray
) -> Prediction:
    """Logistic regression or ridge on components of expression and states of the model, side by side.

    Components as of ``hvg_pca_logistic``, states as of ``linear_probe``, either in units of its largest
    deviation; of the last layer or the one before. Ahead of both alone, states hold what components do not.
    """
    parts = taught(data, task, split)
    components = expression_components(data.log, parts.seen, seed=seed)
    candidates: list[Fitted] = []
    for layer in LAYERS:
        states = scaled_states(data.cell_embeddings(layer), parts.seen, centred)
        features = np.hstack([components, states])
        settings, predict = fit_linear(features, task, parts, seed=seed)
        candidates.append(({"encoder_layer": layer} | settings, predict))
    return prediction_of(task, units, choose(task, parts.validation, candidates))


def random_weights(data: LabelData, task: Task, split: Split, *, seed: int, units: np.ndarray) -> Prediction:
    """Fine-tune a model of the same shape from random weights, all layers.

    Rates that spare pretrained weights may be too low for random ones: ``random_settings`` of the data has
    its own.
    """
    from geneformer_grn.model.untrained import untrained_twin
    from geneformer_grn.training.finetune import finetune
    from geneformer_grn.training.finetune_settings import FinetuneSettings

    encoder = untrained_twin(data.require_encoder(), seed=seed)
    settings = data.random_settings or data.settings or FinetuneSettings()
    part = settings.model.model_copy(update={"mode": "full", "quantised": "none"})
    settings = settings.model_copy(update={"model": part})
    result = finetune(encoder, data.ranked, [task], {task.level: split}, settings, seed=seed)
    if task.gene_tokens is None:
        scores = result.model.predict(data.ranked, cells=units)[task.name]
    else:
        scores = result.model.predict(data.ranked)[task.name][task.gene_tokens[units]]
    chosen = {"mode": "full", "lr": settings.optim.lr, "head_lr": settings.optim.head_lr}
    details: dict[str, object] = {"settings": chosen | {"epoch": result.best_epoch}}
    return without_gaps(Prediction(task.name, units, scores, details), task, split)
