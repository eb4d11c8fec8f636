"""Effects that travel through the model itself: delete a gene, re-rank as the model expects, ask again.

One perturbation says what the model expects of every other gene right away. Here that expectation is taken
at its word: the genes of the cell are put where the model now expects them, and it is asked again, which lets
what moved first move others. It needs no network, and it is a statement about the model, not about cells.
Errors feed on themselves, so that few hops are meant; ranks have no unit, only an order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from geneformer_grn._runtime import logger, progress
from geneformer_grn.cells.batches import pack, plan_by_budget
from geneformer_grn.cells.ranking import RankedCells, model_input
from geneformer_grn.extraction.removals import draw_removals
from geneformer_grn.model.encoder import Encoder
from geneformer_grn.perturbation.edits import InputLayout
from geneformer_grn.perturbation.expectations import expectations
from geneformer_grn.perturbation.readouts import flat_index
from geneformer_grn.perturbation.requests import PerturbSettings

_TOKENS_TOGETHER = 1_000_000  # of the cells that take a hop together


@dataclass(frozen=True, kw_only=True)
class RerankSettings:
    """How cells are re-ranked.

    Parameters
    ----------
    n_hops
        How often the model is asked; 1 is the direct effect.
    cells_per_source
        Most cells each gene is deleted in.
    masked_share
        Share of a cell's genes that are masked at a time.
    token_budget
        Most tokens in one packed batch.
    seed
        Of the cells drawn and the folds.
    """

    n_hops: int = 2
    cells_per_source: int = 50
    masked_share: float = 0.15
    token_budget: int = 16_384
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_hops", "cells_per_source", "token_budget"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        PerturbSettings(masked_share=self.masked_share)


@dataclass(eq=False)
class _Cell:
    """A cell on its way.

    Parameters
    ----------
    genes
        ``(m,)`` int64 genes but the source, as ranked in the unperturbed cell.
    places
        ``(m,)`` their places there, ascending, the source's left out.
    fold
        ``(m,)`` which of them are masked together.
    """

    genes: np.ndarray
    places: np.ndarray
    fold: np.ndarray


def rerank_effects(
    encoder: Encoder,
    ranked: RankedCells,
    sources: Sequence[int],
    *,
    cells: np.ndarray | None = None,
    settings: RerankSettings | None = None,
) -> pd.DataFrame:
    """Follow the deletion of genes through the model's expectations of all others.

    In every cell the expected place of each gene, masked, is taken before and after (as
    `geneformer_grn.perturbation.expression` does). Genes are then put in the order of their place in the
    unperturbed cell less that change, and the model asked again, `n_hops` times; each time the change is
    counted from the unperturbed cell, with the source still gone.

    Parameters
    ----------
    encoder
        The model; all its layers are run.
    ranked
        Cells ranked with its vocabulary.
    sources
        Tokens of genes, each deleted on its own.
    cells
        ``(n,)`` int rows to draw from; None: all.
    settings
        See `RerankSettings`.

    Returns
    -------
    DataFrame
        ``source``, ``gene`` Ensembl IDs, ``group`` ("all"), ``hop`` from 1, ``effect`` float64: by how many
        ranks the hop moves the gene to the front, mean over the cells that hold it (the sum over hops is the
        whole change), and ``n_cells``.

    Raises
    ------
    ValueError
        A source is named twice, or no cell holds any of them beside another gene.

    Examples
    --------
    >>> rerank_effects(encoder, ranked, [token], settings=RerankSettings(n_hops=3))  # doctest: +SKIP
    """
    settings = settings or RerankSettings()
    wanted = np.asarray(sources, dtype=np.int64)
    if len(np.unique(wanted)) != len(wanted):
        raise ValueError("a source is named twice; each gene is deleted on its own")
    removals = draw_removals(
        encoder.vocabulary, ranked, wanted, cells,
        cells_per_regulator=settings.cells_per_source, seed=settings.seed,
    )  # fmt: skip
    if not len(removals.cell):
        raise ValueError(f"none of the {len(wanted)} sources is in the model input of any of the cells")
    parts = []
    with progress(total=len(removals.cell), desc="re-ranking", unit="cell") as bar:
        for number, source in enumerate(wanted):
            rows = removals.cell[removals.regulator == number]
            if len(rows) == 0:
                logger.warning("no cell holds %s; it has no effects", encoder.vocabulary.ensembl_ids[source])
                continue
            parts.append(_of_source(encoder, ranked, int(source), rows, settings))
            bar.update(len(rows))
    return pd.concat(parts, ignore_index=True)


def _of_source(
    encoder: Encoder, ranked: RankedCells, source: int, rows: np.ndarray, settings: RerankSettings
) -> pd.DataFrame:
    """Return the effects of one source, over its cells."""
    n_tokens = len(encoder.vocabulary)
    total, support = np.zeros((settings.n_hops, n_tokens)), np.zeros(n_tokens, dtype=np.int64)
    step = max(1, _TOKENS_TOGETHER // encoder.vocabulary.max_length)
    for start in range(0, len(rows), step):
        inputs = [
            model_input(ranked.cell(int(row)), encoder.vocabulary) for row in rows[start : start + step]
        ]
        some = [_without(ids, source, encoder, settings) for ids in inputs]
        before = _expected_places(encoder, inputs, some, settings, source=source)
        shifts = [np.zeros(len(cell.genes)) for cell in some]
        for hop in range(settings.n_hops):
            orders = [np.argsort(c.places - s, kind="stable") for c, s in zip(some, shifts, strict=True)]
            moved = [_input_of(ids, c.genes[o]) for ids, c, o in zip(inputs, some, orders, strict=True)]
            after = _expected_places(encoder, moved, some, settings)
            for number, cell in enumerate(some):
                shift = before[number] - after[number]
                total[hop, cell.genes] += shift - shifts[number]
                shifts[number] = shift
        for cell in some:
            support[cell.genes] += 1
    genes = np.flatnonzero(support)
    ids = encoder.vocabulary.ensembl_ids
    return pd.DataFrame(
        {
            "source": ids[source],
            "gene": np.tile(ids[genes], settings.n_hops),
            "group": "all",
            "hop": np.repeat(np.arange(1, settings.n_hops + 1), len(genes)),
            "effect": (total[:, genes] / support[genes]).ravel(),
            "n_cells": np.tile(support[genes], settings.n_hops),
        }
    )


def _without(ids: np.ndarray, source: int, encoder: Encoder, settings: RerankSettings) -> _Cell:
    """Return the other genes of a cell; folds are dealt as in the readout ``expression``."""
    layout = InputLayout.of(encoder.vocabulary)
    positions = layout.genes(len(ids))
    deal = np.random.default_rng(settings.seed).permutation(len(encoder.vocabulary))
    n_folds = min(PerturbSettings(masked_share=settings.masked_share).n_folds, len(positions))
    fold = np.empty(len(positions), dtype=np.int64)
    fold[np.argsort(deal[ids[positions]])] = np.arange(len(positions)) % n_folds
    others = np.flatnonzero(ids[positions] != source)
    return _Cell(genes=ids[positions[others]], places=others.astype(np.float64), fold=fold[others])


def _input_of(ids: np.ndarray, genes: np.ndarray) -> np.ndarray:
    """Return the model input of other genes, between the special tokens of `ids`."""
    n_front = (len(ids) - len(genes) - 1) // 2  # the source is missing; specials stand on both sides or none
    return np.concatenate([ids[:n_front], genes, ids[len(ids) - n_front :]])


def _expected_places(
    encoder: Encoder,
    inputs: Sequence[np.ndarray],
    cells: Sequence[_Cell],
    settings: RerankSettings,
    *,
    source: int | None = None,
) -> list[np.ndarray]:
    """Return where the model expects each gene of each cell, in the order of ``cell.genes``.

    Positions of an input stand for the places of the unperturbed cell's other genes, from the front, so that
    moving up with all others is no change.
    """
    mask = encoder.vocabulary.token_of["<mask>"]
    found = [np.empty(len(cell.genes)) for cell in cells]
    passes: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]] = []
    for number, (ids, cell) in enumerate(zip(inputs, cells, strict=True)):
        n_front = (len(ids) - len(cell.genes) - (source is not None)) // 2
        position_of = np.full(len(encoder.vocabulary), -1, dtype=np.int64)
        genes = ids[n_front : len(ids) - n_front]
        position_of[genes] = np.arange(n_front, n_front + len(genes))
        positions = position_of[cell.genes]
        places = np.empty(len(cell.genes))
        places[np.argsort(positions)] = cell.places
        for fold in np.unique(cell.fold):
            members = np.flatnonzero(cell.fold == fold)
            passes.append((number, members, positions[members], places[members]))
    lengths = [len(inputs[number]) for number, *_ in passes]
    for group in plan_by_budget(lengths, settings.token_budget):
        chosen = [passes[i] for i in group]
        hidden = [inputs[number].copy() for number, *_ in chosen]
        for ids, (_, _, positions, _) in zip(hidden, chosen, strict=True):
            ids[positions] = mask
        batch = pack(hidden)
        states = encoder.hidden_states(batch, encoder_layer=0)
        rows, _ = flat_index([positions for _, _, positions, _ in chosen], batch.cu_seqlens[:-1].numpy())
        answers = expectations(
            encoder,
            states[torch.from_numpy(rows).to(states.device)],
            [cells[number].genes[members] for number, members, _, _ in chosen],
            [places for *_, places in chosen],
        )
        for (number, members, _, _), answer in zip(chosen, answers, strict=True):
            found[number][members] = answer.place
    return found
