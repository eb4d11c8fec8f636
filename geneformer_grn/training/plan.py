"""How long a run is and what it computes, from the config and the lengths of the cells alone.

The lengths are those of a corpus or, where it lies on another machine, drawn from a stated distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from geneformer_grn.cells.epoch_plan import BatchSettings, n_training_batches, plan_stages
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
    floating-point operations of the run, see `operations_per_token`. Figures of an epoch are those of the
    first, with the cells that balancing draws and the lengths that a curriculum leaves them. Later epochs may
    differ by a batch or two, those of a curriculum's stages are counted one by one.
    """
    lengths = np.minimum(lengths, vocabulary.max_length).astype(np.int64)
    epochs = _epochs(config, lengths, batches, world_size=world_size)
    shape = {"vocabulary": len(vocabulary), "positions": vocabulary.max_length}
    return shape | _plan(config, epochs, world_size=world_size, **shape)


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
        What is asked; its corpora are not opened, so ``data.balance`` counts for nothing.
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
    batches = BatchSettings(
        token_budget=config.data.token_budget, seed=config.run.seed, stages=config.data.curriculum
    )
    epochs = _epochs(config, lengths, batches, world_size=world_size, n_cells=n_cells)
    n_tokens = REFERENCE_TOKENS.get(setting) or len(GeneVocabulary.load(resolve_vocabulary("human")))
    shape = {"vocabulary": n_tokens, "positions": n_positions}
    stated = f"stated: log-normal, sigma {LENGTH_SIGMA}, mean {mean_length:g} cropped at {n_positions:,}"
    return shape | _plan(config, epochs, world_size=world_size, **shape) | {"lengths": stated}


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


@dataclass(frozen=True)
class _Epoch:
    """What one epoch trains on: cells, their tokens as cropped, and the sum of squared lengths."""

    n_cells: int
    n_tokens: int
    squared: float
    n_batches: int

    def n_steps(self, config: PretrainConfig, world_size: int) -> int:
        return math.ceil(n_training_batches(self.n_batches, world_size) / config.optim.accumulation)


def _epochs(
    config: PretrainConfig,
    lengths: np.ndarray,
    batches: BatchSettings,
    *,
    world_size: int,
    n_cells: int | None = None,
) -> list[_Epoch]:
    """Return the epochs that differ by a curriculum, and then the one that all later ones are like.

    `lengths` stand for `n_cells` cells (None: for themselves).
    """
    most = math.inf if config.run.epochs is None else math.ceil(config.run.epochs)
    most_steps = config.run.max_steps or math.inf
    n_staged = math.ceil(max((until for until, _ in batches.stages), default=0.0))
    share = 1.0 if n_cells is None else n_cells / len(lengths)
    found: list[_Epoch] = []
    steps = 0
    while len(found) <= n_staged and len(found) < most and steps < most_steps:
        plan = plan_stages(lengths, batches, epoch=len(found), cells=None)
        parts = [(lengths[cells % len(lengths)], longest) for cells, longest in plan]
        used = np.concatenate(
            [own if longest is None else np.minimum(own, longest) for own, longest in parts]
        )
        found.append(
            _Epoch(
                n_cells=round(len(used) * share),
                n_tokens=round(int(used.sum()) * share),
                squared=float((used.astype(np.float64) ** 2).sum()) * share,
                n_batches=math.ceil(len(plan) * share),
            )
        )
        steps += found[-1].n_steps(config, world_size)
    return found


def _plan(
    config: PretrainConfig, epochs: list[_Epoch], *, world_size: int, vocabulary: int, positions: int
) -> dict[str, Any]:
    """Return the plan of a run through `epochs`, the last of them again and again."""
    first, last = epochs[0], epochs[-1]
    in_epoch = [epoch.n_steps(config, world_size) for epoch in epochs]
    steps = config.run.max_steps or 1
    if config.run.epochs is not None:
        shares = [min(max(config.run.epochs - number, 0.0), 1.0) for number in range(len(epochs) - 1)]
        shares.append(max(config.run.epochs - len(shares), 0.0))
        steps = max(1, round(sum(share * n for share, n in zip(shares, in_epoch, strict=True))))
    left, tokens, squared = steps, 0.0, 0.0
    for epoch, n_steps in zip(epochs, in_epoch, strict=True):
        share = (left if epoch is last else min(left, n_steps)) / n_steps
        left -= min(left, n_steps)
        tokens, squared = tokens + epoch.n_tokens * share, squared + epoch.squared * share
    per_token = operations_per_token(
        config.model,
        n_tokens=vocabulary,
        mean_length=squared / tokens,
        mask_rate=config.data.mask_rate,
    )
    return {
        "parameters": n_parameters(config.model, vocabulary, positions),
        "cells": first.n_cells,
        "mean_length": round(first.n_tokens / first.n_cells, 1),
        "tokens_per_epoch": first.n_tokens,
        "token_budget": config.data.token_budget,
        "budget_filled": round(first.n_tokens / (first.n_batches * config.data.token_budget), 4),
        "processes": world_size,
        "steps_per_epoch": in_epoch[0],
        "steps": steps,
        "tokens_per_step": round(tokens / steps),
        "tokens": round(tokens),
        "mflop_per_token": round(per_token / 1e6, 3),
        "pflop": round(per_token * tokens / 1e15, 4),
    }
