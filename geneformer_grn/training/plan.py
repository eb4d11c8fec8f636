"""How long a run is and what it computes, from the config and the lengths of the cells alone.

The lengths are those of a corpus or, where it lies on another machine, drawn from a stated distribution.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from geneformer_grn.cells.batches import BatchSettings, n_training_batches, plan_epoch
from geneformer_grn.genes.vocabulary import MAX_LENGTH, GeneVocabulary, resolve_vocabulary
from geneformer_grn.training.config import PretrainConfig
from geneformer_grn.training.cost import REFERENCE_TOKENS, n_parameters, operations_per_token

# Spread of the stated lengths. Seven tenths of 18,523 cells of 18 public data sets lie within a factor of
# exp(0.53) of their median.
LENGTH_SIGMA = 0.53
_SAMPLE = 20_000  # stated lengths that are packed to learn how full batches are


def plan_steps(
    config: PretrainConfig,
    lengths: np.ndarray,
    vocabulary: GeneVocabulary,
    batches: BatchSettings,
    *,
    world_size: int,
) -> dict[str, Any]:
    """Return size, length and arithmetic of a run on a corpus.

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
    floating-point operations of the run, see `operations_per_token`. Steps are counted on the first epoch;
    others may differ by a batch or two.
    """
    lengths = np.minimum(lengths, vocabulary.max_length).astype(np.int64)
    n_batches = len(plan_epoch(lengths, batches, epoch=0))
    shape = {"vocabulary": len(vocabulary), "positions": vocabulary.max_length}
    return shape | _plan(config, lengths, len(lengths), n_batches, world_size=world_size, **shape)


def plan_stated(
    config: PretrainConfig,
    *,
    n_cells: int,
    mean_length: float,
    setting: str = "default",
    world_size: int = 1,
) -> dict[str, Any]:
    """Return the plan of a run whose corpus is not on this machine, as `plan_steps` does.

    The lengths stand for the corpus: log-normal with sigma `LENGTH_SIGMA`, cropped at the setting's longest
    input, their median such that the mean after cropping is `mean_length`.

    Parameters
    ----------
    config
        What is asked; its corpora are not opened.
    n_cells
        Cells of the corpus.
    mean_length
        Mean tokens of a cell, special tokens included, cropped.
    setting
        ``v1`` or ``v2``, the reference's vocabularies (25,426 and 20,275 tokens; inputs of 2,048 and 4,096),
        or ``default``, the shipped human one.
    world_size
        Number of processes.

    Raises
    ------
    ValueError
        No cell, no such setting, or the mean does not lie below the longest input.
    """
    if setting not in MAX_LENGTH:
        raise ValueError(f"setting {setting!r} is unknown; use {', '.join(MAX_LENGTH)}")
    if n_cells < 1 or world_size < 1:
        raise ValueError(f"{n_cells:,} cells on {world_size} processes cannot be planned; at least 1 of each")
    n_positions = MAX_LENGTH[setting]
    lengths = stated_lengths(min(n_cells, _SAMPLE), mean_length, longest=n_positions)
    batches = BatchSettings(token_budget=config.data.token_budget, seed=config.run.seed)
    sampled = len(plan_epoch(lengths, batches, epoch=0))
    n_batches = math.ceil(sampled * n_cells / len(lengths))
    n_tokens = REFERENCE_TOKENS.get(setting) or len(GeneVocabulary.load(resolve_vocabulary("human")))
    shape = {"vocabulary": n_tokens, "positions": n_positions}
    stated = f"stated: log-normal, sigma {LENGTH_SIGMA}, mean {mean_length:g} cropped at {n_positions:,}"
    return (
        shape
        | _plan(config, lengths, n_cells, n_batches, world_size=world_size, **shape)
        | {"lengths": stated}
    )


def stated_lengths(n: int, mean: float, *, longest: int) -> np.ndarray:
    """Return the `n` evenly spaced quantiles of a log-normal cropped at `longest` whose mean is `mean`.

    Raises
    ------
    ValueError
        The mean is not between 1 and `longest`.
    """
    from scipy import optimize, special

    if not 1 <= mean < longest:
        raise ValueError(f"a mean length of {mean:g} tokens is not possible in inputs of 1 to {longest:,}")
    spread = np.exp(LENGTH_SIGMA * special.ndtri((np.arange(n) + 0.5) / n))

    def cropped(median: float) -> np.ndarray:
        return np.clip(median * spread, 1, longest)

    highest = longest / float(spread.min())
    median = optimize.brentq(lambda median: float(cropped(median).mean()) - mean, 0.0, highest)
    return np.rint(cropped(median)).astype(np.int64)


def _plan(
    config: PretrainConfig,
    lengths: np.ndarray,
    n_cells: int,
    n_batches: int,
    *,
    world_size: int,
    vocabulary: int,
    positions: int,
) -> dict[str, Any]:
    """Return the plan from cropped lengths that stand for `n_cells` cells in `n_batches` batches."""
    steps_per_epoch = math.ceil(n_training_batches(n_batches, world_size) / config.optim.accumulation)
    epochs = config.run.epochs
    steps = (config.run.max_steps or 1) if epochs is None else max(1, round(epochs * steps_per_epoch))
    tokens = int(lengths.sum()) * n_cells // len(lengths)
    per_token = operations_per_token(
        config.model,
        n_tokens=vocabulary,
        mean_length=float((lengths.astype(np.float64) ** 2).sum() / lengths.sum()),
        mask_rate=config.data.mask_rate,
    )
    total_tokens = round(tokens * steps / steps_per_epoch)
    return {
        "parameters": n_parameters(config.model, vocabulary, positions),
        "cells": n_cells,
        "mean_length": round(tokens / n_cells, 1),
        "tokens_per_epoch": tokens,
        "token_budget": config.data.token_budget,
        "budget_filled": round(tokens / (n_batches * config.data.token_budget), 4),
        "processes": world_size,
        "steps_per_epoch": steps_per_epoch,
        "steps": steps,
        "tokens_per_step": round(tokens / steps_per_epoch),
        "tokens": total_tokens,
        "mflop_per_token": round(per_token / 1e6, 3),
        "pflop": round(per_token * total_tokens / 1e15, 4),
    }
