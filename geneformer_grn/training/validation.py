"""Held-out score of a masked-gene model, and of the simplest guess that it has to beat, on the same masks.

For scoring every chosen token is hidden behind ``<mask>``; the 10 % kept and 10 % replaced of training would
leave the answer in sight. The mask of a cell is drawn from (seed, its index), so that scores of different
models, and of one model during training, are comparable number for number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import BertForMaskedLM

from geneformer_grn._runtime import Precision
from geneformer_grn.cells.batches import MaskSettings, mask_cell, pack, plan_by_budget
from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.model.encoder import masked_head, packed_states

SCORING_MASK = MaskSettings(rate=0.15, keep=0.0, random=0.0)


def masked_cells(
    sequences: Corpus | Sequence[np.ndarray],
    vocabulary: GeneVocabulary,
    *,
    seed: int = 0,
    max_cells: int | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Choose cells and hide 15 % of their genes, the same ones for the same `seed`.

    Parameters
    ----------
    sequences
        Model inputs (special tokens in): a corpus, or one integer array per cell.
    vocabulary
        Theirs.
    seed
        Chooses cells and masks.
    max_cells
        Score a random sample of so many; None: all.

    Returns
    -------
    (input_ids, labels) of each cell in corpus order, both ``(l,)`` int64; labels are -100 where nothing is
    hidden. `RankPositionBaseline.score` takes the same pairs.
    """
    n_cells = len(sequences)
    chosen = np.arange(n_cells)
    if max_cells is not None and max_cells < n_cells:
        chosen = np.sort(np.random.default_rng(seed).choice(n_cells, max_cells, replace=False))
    return [
        mask_cell(
            sequences.cell(cell) if isinstance(sequences, Corpus) else sequences[cell],
            vocabulary,
            SCORING_MASK,
            seed=seed,
            epoch=0,
            cell=cell,
        )
        for cell in chosen.tolist()
    ]


def masked_gene_scores(
    model: BertForMaskedLM,
    sequences: Corpus | Sequence[np.ndarray],
    vocabulary: GeneVocabulary,
    *,
    seed: int = 0,
    max_cells: int | None = None,
    device: torch.device | None = None,
    precision: Precision = "fp32",
    token_budget: int = 16_384,
) -> dict[str, float]:
    """Return how well a model guesses hidden genes of cells it was not trained on.

    Parameters
    ----------
    model
        Masked-language model; put into eval mode.
    sequences, vocabulary, seed, max_cells
        As in `masked_cells`.
    device
        Where the model is; None: found from its weights.
    precision
        ``bf16`` runs the matrix products in bfloat16.
    token_budget
        Tokens of one packed batch.

    Returns
    -------
    ``loss`` (mean cross-entropy in nats per hidden gene over the whole vocabulary), ``accuracy`` (share of
    hidden genes whose token has the highest logit), ``n_masked`` and ``n_cells``.

    Raises
    ------
    ValueError
        No token was hidden: there are no cells, or they are too short.
    """
    scores = score_masked_cells(
        model,
        masked_cells(sequences, vocabulary, seed=seed, max_cells=max_cells),
        device=device,
        precision=precision,
        token_budget=token_budget,
    )
    return scores.summary()


@dataclass(frozen=True, eq=False)
class CellScores:
    """What was guessed in each cell.

    Parameters
    ----------
    loss
        ``(n,)`` float64; sum of the cross-entropies (nats) over the hidden genes of the cell.
    right
        ``(n,)`` float64; hidden genes guessed first.
    n_masked
        ``(n,)`` float64; hidden genes.
    """

    loss: np.ndarray
    right: np.ndarray
    n_masked: np.ndarray

    def summary(self) -> dict[str, float]:
        """Return ``loss`` and ``accuracy`` per hidden gene, ``n_masked`` and ``n_cells``.

        Raises
        ------
        ValueError
            No gene was hidden: there are no cells, or they are too short.
        """
        n_masked = int(self.n_masked.sum())
        if n_masked == 0:
            raise ValueError("there is nothing to score: no gene is hidden in these cells")
        return {
            "loss": float(self.loss.sum()) / n_masked,
            "accuracy": float(self.right.sum()) / n_masked,
            "n_masked": n_masked,
            "n_cells": len(self.loss),
        }


@torch.inference_mode()
def score_masked_cells(
    model: BertForMaskedLM,
    cells: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    device: torch.device | None = None,
    precision: Precision = "fp32",
    token_budget: int = 16_384,
) -> CellScores:
    """Return how well a model guesses the hidden genes of each cell.

    Parameters
    ----------
    model
        Masked-language model; put into eval mode.
    cells
        (input_ids, labels) of each cell, as `masked_cells` gives them.
    device, precision, token_budget
        As in `masked_gene_scores`.
    """
    device = device or next(model.parameters()).device
    model.eval()
    sums = np.zeros((3, len(cells)))
    for group in plan_by_budget([len(input_ids) for input_ids, _ in cells], token_budget):
        batch = pack([cells[cell][0] for cell in group], labels=[cells[cell][1] for cell in group])
        cell_of = np.searchsorted(batch.cu_seqlens.numpy(), batch.masked_index.numpy(), side="right") - 1
        batch = batch.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = masked_head(model, packed_states(model, batch), batch.masked_index)
        answers = batch.labels[0, batch.masked_index]
        loss = torch.nn.functional.cross_entropy(logits, answers, reduction="none")
        right = logits.argmax(dim=1) == answers
        for row, values in enumerate((loss, right, torch.ones_like(loss))):
            sums[row, group] = np.bincount(cell_of, weights=values.cpu().double(), minlength=len(group))
    return CellScores(*sums)
