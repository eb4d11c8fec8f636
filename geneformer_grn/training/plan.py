"""How long a run is and what it costs, from the config and the lengths of the cells alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from geneformer_grn.cells.batches import BatchSettings, n_training_batches, plan_epoch
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.training.config import ModelSection, PretrainConfig


def plan_steps(
    config: PretrainConfig,
    lengths: np.ndarray,
    vocabulary: GeneVocabulary,
    batches: BatchSettings,
    *,
    world_size: int,
) -> dict[str, Any]:
    """Return size, length and cost of a run.

    Parameters
    ----------
    config
        What is asked.
    lengths
        ``(n_cells,)`` tokens of each cell of the training corpus.
    vocabulary
        Its vocabulary.
    batches
        How cells become batches.
    world_size
        Number of processes.

    Returns
    -------
    Counts of parameters, cells, tokens and steps, the share of the token budget that is filled, and the
    floating-point operations of the run. Those count matrix products, forward and backward (three times
    forward): layers on every token, attention on the true lengths, the head on the masked tokens only.
    Steps are counted on the first epoch; others may differ by a batch or two.
    """
    lengths = np.minimum(lengths, vocabulary.max_length).astype(np.int64)
    n_batches = len(plan_epoch(lengths, batches, epoch=0))
    steps_per_epoch = math.ceil(n_training_batches(n_batches, world_size) / config.optim.accumulation)
    epochs = config.run.epochs
    steps = config.run.max_steps if epochs is None else max(1, round(epochs * steps_per_epoch))
    steps = steps or 1
    tokens = int(lengths.sum())
    per_token = _operations_per_token(
        config.model,
        n_tokens=len(vocabulary),
        mean_length=float((lengths.astype(np.float64) ** 2).sum() / tokens),
        mask_rate=config.data.mask_rate,
    )
    total_tokens = round(tokens * steps / steps_per_epoch)
    return {
        "parameters": n_parameters(config.model, len(vocabulary), vocabulary.max_length),
        "cells": len(lengths),
        "tokens_per_epoch": tokens,
        "budget_filled": round(tokens / (n_batches * batches.token_budget), 4),
        "processes": world_size,
        "steps_per_epoch": steps_per_epoch,
        "steps": steps,
        "tokens_per_step": round(tokens / steps_per_epoch),
        "tokens": total_tokens,
        "mflop_per_token": round(per_token / 1e6, 3),
        "pflop": round(per_token * total_tokens / 1e15, 4),
    }


def n_parameters(model: ModelSection, n_tokens: int, n_positions: int) -> int:
    """Return the number of weights of a ``BertForMaskedLM`` of this shape, its tied decoder counted once."""
    width, inner = model.hidden_size, model.ffn_size
    embeddings = (n_tokens + n_positions + 2) * width + 2 * width
    layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    head = width * width + 3 * width + n_tokens
    return embeddings + model.n_layers * layer + head


def _operations_per_token(
    model: ModelSection, *, n_tokens: int, mean_length: float, mask_rate: float
) -> float:
    """Return floating-point operations per token; `mean_length` is the length of the cell of a mean token."""
    width, inner = model.hidden_size, model.ffn_size
    layer = 2 * (4 * width * width + 2 * width * inner) + 4 * mean_length * width
    head = 2 * (width * width + width * n_tokens) * mask_rate
    return 3.0 * (model.n_layers * layer + head)
