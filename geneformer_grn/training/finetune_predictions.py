"""What a network says of the validation part while it learns, unit by unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch

from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.model.heads import Finetuned, TaskHead
from geneformer_grn.training.finetune_batches import PooledStates
from geneformer_grn.training.finetune_network import Network
from geneformer_grn.training.supervision import Task

Scored = Mapping[str, tuple[Task, np.ndarray]]
"""By task: the task, and the units ``(m,)`` that are scored."""


def live_predictions(
    model: Finetuned, ranked: RankedCells, scored: Scored, *, cells: np.ndarray, token_budget: int
) -> dict[str, np.ndarray]:
    """Return predictions by task, ``(m, n_classes)`` or ``(m,)``, by running cells through the encoder.

    Parameters
    ----------
    model
        With the weights as they are.
    ranked
        All cells.
    scored
        What is asked.
    cells
        That the predictions of genes are averaged over.
    token_budget
        Of a batch.
    """
    of_genes = [name for name, (task, _) in scored.items() if task.level == "gene"]
    of_cells = [name for name, (task, _) in scored.items() if task.level == "cell"]
    predicted: dict[str, np.ndarray] = {}
    if of_genes:
        by_token = model.predict(ranked, token_budget=token_budget, tasks=of_genes, cells=cells)
        for name, table in by_token.items():
            task, units = scored[name]
            predicted[name] = table[cast("np.ndarray", task.gene_tokens)[units]]
    if of_cells:
        cells = np.unique(np.concatenate([scored[name][1] for name in of_cells]))
        by_cell = model.predict(ranked, token_budget=token_budget, tasks=of_cells, cells=cells)
        for name, table in by_cell.items():
            predicted[name] = table[np.searchsorted(cells, scored[name][1])]
    return predicted


@torch.no_grad()
def kept_predictions(
    network: Network, kept: PooledStates, scored: Scored, *, cells: np.ndarray
) -> dict[str, np.ndarray]:
    """Return what `live_predictions` does, from states that were pooled once; `network` in eval mode."""
    predicted = {}
    for number, (spec, module) in enumerate(zip(network.specs, network.heads, strict=True)):
        if spec.name not in scored:
            continue
        task, units = scored[spec.name]
        head, states = cast("TaskHead", module), kept.states[number]
        rows = kept.place[units] if task.gene_tokens is None else kept.gene_rows(number, cells)
        chosen = states[torch.from_numpy(np.maximum(rows, 0)).to(states.device)]
        table = head.probabilities(head(chosen).cpu().double()).numpy()
        if task.gene_tokens is None:
            table[rows < 0] = np.nan
        else:
            table = _means(table, kept.tokens[number][rows], size=len(network.encoder.vocabulary))
            table = table[task.gene_tokens[units]]
        predicted[spec.name] = table
    return predicted


def _means(table: np.ndarray, tokens: np.ndarray, *, size: int) -> np.ndarray:
    """Return the mean row of `table` of each token id below `size`; NaN where it has none."""
    columns = table.reshape(len(table), -1).T
    sums = np.stack([np.bincount(tokens, column, minlength=size) for column in columns], axis=1)
    with np.errstate(invalid="ignore"):
        means = sums / np.bincount(tokens, minlength=size)[:, None]
    return np.asarray(means.reshape(size, *table.shape[1:]))
