"""Masked-gene prediction of a checkpoint, beside two guesses it has to beat on the same cells and masks.

The first is the rank-position baseline: how often each gene stood at this rank in the training cells,
renormalised over the genes that are not visible in the cell. The second is an untrained copy: the same
architecture with random weights and its output bias at the gene frequencies. Pretraining may start further on
(gene embeddings from components of the corpus, positions from waves); the copy goes without such a start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import BertForMaskedLM

from geneformer_grn.cells.rank_position import RankPositionBaseline
from geneformer_grn.cells.ranking import RankedCells, model_input
from geneformer_grn.model.encoder import Encoder
from geneformer_grn.model.untrained import untrained_twin
from geneformer_grn.statistics import bootstrap_ratio
from geneformer_grn.training.validation import CellScores, masked_cells, score_masked_cells

MaskedCells = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Contestants:
    """What is scored: the model, its untrained copy, and the baseline where the checkpoint carries one."""

    model: Encoder
    untrained: BertForMaskedLM
    baseline: RankPositionBaseline | None


def prepare(encoder: Encoder, baseline: RankPositionBaseline | None, *, seed: int) -> Contestants:
    """Return a checkpoint with its untrained copy.

    Parameters
    ----------
    encoder
        The trained model.
    baseline
        Rank-position frequencies of its training corpus; they also give the untrained copy its output bias
        (without them it starts at 0).
    seed
        Of the random weights.
    """
    untrained = untrained_twin(encoder, seed=seed).model
    if baseline is not None:
        counts = torch.from_numpy(baseline.counts.sum(axis=0) + 1.0)
        with torch.no_grad():
            untrained.cls.predictions.bias.copy_(torch.log(counts / counts.sum()))
    return Contestants(model=encoder, untrained=untrained, baseline=baseline)


def hidden_genes(ranked: RankedCells, encoder: Encoder, *, seed: int, max_cells: int) -> MaskedCells:
    """Return model inputs with 15 % of their genes hidden, and the answers, the same for the same `seed`."""
    sequences = [model_input(ranked.cell(row), encoder.vocabulary) for row in range(len(ranked))]
    return masked_cells(sequences, encoder.vocabulary, seed=seed, max_cells=max_cells)


def score_contestants(
    contestants: Contestants, cells: MaskedCells, *, token_budget: int
) -> dict[str, CellScores]:
    """Return the scores of ``model``, ``untrained`` and, where there is one, ``rank_position``."""
    how: dict[str, Any] = {
        "device": contestants.model.device,
        "precision": contestants.model.precision,
        "token_budget": token_budget,
    }
    scores = {
        "model": score_masked_cells(contestants.model.model, cells, **how),
        "untrained": score_masked_cells(contestants.untrained, cells, **how),
    }
    if contestants.baseline is not None:
        scores["rank_position"] = _score_baseline(contestants.baseline, cells)
    return scores


def _score_baseline(baseline: RankPositionBaseline, cells: MaskedCells) -> CellScores:
    rows = np.zeros((3, len(cells)))
    for number, cell in enumerate(cells):
        score = baseline.score([cell])
        n_masked = score["n_masked"]
        rows[:, number] = score["loss"] * n_masked, score["accuracy"] * n_masked, n_masked
    return CellScores(*rows)


def joined(parts: Sequence[dict[str, CellScores]]) -> dict[str, CellScores]:
    """Return the scores of several files as those of all their cells."""
    return {
        name: CellScores(
            *(np.concatenate([getattr(part[name], field) for part in parts]) for field in _FIELDS)
        )
        for name in parts[0]
    }


_FIELDS = ("loss", "right", "n_masked")


def score_card(scores: dict[str, CellScores], *, seed: int) -> dict[str, Any]:
    """Return losses and accuracies, and how far the model is ahead of each other contestant.

    Parameters
    ----------
    scores
        As `score_contestants` gives them.
    seed
        Of the bootstrap.

    Returns
    -------
    dict
        Contestant -> ``loss`` (nats per hidden gene), ``accuracy``; and ``ahead_of``: contestant ->
        ``loss`` (theirs minus the model's: positive is better) and ``accuracy`` (the model's minus theirs),
        each with a 95 % interval by bootstrap over cells, paired.
    """
    model = scores["model"]
    card: dict[str, Any] = {name: score.summary() for name, score in scores.items()}
    card["ahead_of"] = {}
    for name in [name for name in scores if name != "model"]:
        other = scores[name]
        gains = {"loss": other.loss - model.loss, "accuracy": model.right - other.right}
        card["ahead_of"][name] = {
            measure: _with_interval(gain, model.n_masked, seed) for measure, gain in gains.items()
        }
    return card


def _with_interval(gain: np.ndarray, n_masked: np.ndarray, seed: int) -> dict[str, float]:
    low, high = bootstrap_ratio(gain, n_masked, rng=np.random.default_rng(seed))
    return {"mean": float(gain.sum() / n_masked.sum()), "low": low, "high": high}
