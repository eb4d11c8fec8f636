"""Whether an attribution is faithful: the output falls faster when the genes it names are taken away.

Taking any genes away hurts, and genes at the top of the ranking more than others. So the named genes are
compared with random ones of the same rank: the same scores, shuffled among genes that stand near each other
in the cell. Where scores say nothing beyond rank, both curves are one on average, whatever the scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import expit

from geneformer_grn._runtime import progress
from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.explanation.attributions import Attributions
from geneformer_grn.explanation.occlusion import without
from geneformer_grn.explanation.settings import DeletionSettings
from geneformer_grn.explanation.target import Explained, Input
from geneformer_grn.statistics import hierarchical_bootstrap

_SMALLEST_BIN = 10


@dataclass(frozen=True, eq=False)
class Deletion:
    """The outputs of cells from which genes were taken away.

    Parameters
    ----------
    shares
        ``(s,)`` shares taken away.
    intact
        ``(n,)`` float64 explained numbers of the whole cells.
    named
        ``(n, s)`` without the genes that score highest.
    random
        ``(n, s)`` without random genes of the same rank, mean over the sets.
    targets
        ``(n,)`` int64 class of each cell.
    is_class
        Whether the explained numbers are log odds of a class.
    """

    shares: np.ndarray
    intact: np.ndarray
    named: np.ndarray
    random: np.ndarray
    targets: np.ndarray
    is_class: bool

    def of(self, rows: np.ndarray) -> Deletion:
        """Return some of the cells."""
        names = ("intact", "named", "random", "targets")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    @property
    def excess(self) -> np.ndarray:
        """``(n, s)``: how much further the output falls by the named genes than by random ones."""
        return self.random - self.named

    @property
    def area(self) -> np.ndarray:
        """``(n,)`` area between the two curves, over shares from 0 to the last, per share: a mean excess."""
        shares = np.concatenate([[0.0], self.shares])
        excess = np.column_stack([np.zeros(len(self.intact)), self.excess])
        return np.asarray(np.trapezoid(excess, shares, axis=1) / shares[-1])


def deletion_curve(
    explained: Explained,
    ranked: RankedCells,
    attributions: Attributions,
    settings: DeletionSettings | None = None,
) -> Deletion:
    """Take the genes that score highest out of each cell, and random ones of the same rank beside them.

    Parameters
    ----------
    explained
        The model and its head.
    ranked
        The cells that `attributions` are of.
    attributions
        Scores of each gene in each cell.
    settings
        Shares, kind, random sets.

    Raises
    ------
    ValueError
        A cell has a single gene.

    Notes
    -----
    Samek et al. (2017), Evaluating the visualization of what a deep neural network has learned: the curve;
    the control that is matched on rank is ours.
    """
    settings = settings or DeletionSettings()
    rng = np.random.default_rng(settings.seed)
    n, n_shares = len(attributions), len(settings.shares)
    intact, named = np.empty(n), np.empty((n, n_shares))
    random = np.empty((n, n_shares))
    for number in progress(range(n), desc=f"deletion, {attributions.method}", unit="cell"):
        part = slice(attributions.offsets[number], attributions.offsets[number + 1])
        ids = explained.input_of(ranked, int(attributions.cells[number]))
        tokens, scores = attributions.tokens[part], attributions.scores[part]
        orders = [_order(scores)]
        orders += [_order(shuffled_nearby(scores, settings.n_bins, rng)) for _ in range(settings.n_random)]
        inputs: list[Input] = [(ids, None)]
        sizes = set_sizes(len(tokens), settings.shares)
        inputs += [
            without(ids, tokens[order[:size]], settings.kind, explained) for order in orders for size in sizes
        ]
        targets = np.full(len(inputs), attributions.targets[number])
        found = explained.run_many(inputs, targets, token_budget=settings.token_budget)
        curves = found[1:].reshape(len(orders), n_shares)
        intact[number], named[number], random[number] = found[0], curves[0], curves[1:].mean(axis=0)
    return Deletion(
        np.asarray(settings.shares), intact, named, random, attributions.targets,
        is_class=explained.spec.kind == "classification",
    )  # fmt: skip


def averaged_deletions(parts: Sequence[Deletion]) -> Deletion:
    """Return the mean curves of several models over the same cells, each model judged by its own scores."""
    names = ("intact", "named", "random")
    return replace(
        parts[0], **{name: np.mean([getattr(part, name) for part in parts], axis=0) for name in names}
    )


def set_sizes(n_genes: int, shares: Sequence[float]) -> list[int]:
    """Return how many of a cell's genes each share is: at least one, and never all."""
    return [min(max(1, round(share * n_genes)), n_genes - 1) for share in shares]


def shuffled_nearby(scores: np.ndarray, n_bins: int, rng: np.random.Generator) -> np.ndarray:
    """Return a cell's scores, highest ranked gene first, shuffled among genes that rank near each other.

    Each neighbourhood keeps its scores, so that any threshold takes as many genes of it as before.

    Parameters
    ----------
    scores
        ``(L,)``.
    n_bins
        Neighbourhoods of equal size that the ranking is cut into; fewer where they would hold less than ten
        genes.
    rng
        Source of the shuffle.
    """
    n_bins = min(n_bins, max(1, len(scores) // _SMALLEST_BIN))
    bins = np.arange(len(scores)) * n_bins // len(scores)
    by_bin_and_chance = np.lexsort((rng.random(len(scores)), bins))
    return scores[by_bin_and_chance]


def deletion_table(
    deletion: Deletion, *, groups: np.ndarray | None = None, n_bootstrap: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Return the two curves with intervals over cells.

    Parameters
    ----------
    deletion
        Of all cells, or of those of one class.
    groups
        ``(n,)`` donors of the cells: intervals are then over donors and cells within donors.
    n_bootstrap, seed
        Resamples.

    Returns
    -------
    One row per share, 0 first: ``share``, ``n_cells``; ``drop_named``, ``drop_random`` and ``excess`` (how
    far the output falls, and the difference), each with ``_low`` and ``_high``; of a class also
    ``probability_named`` and ``probability_random``, means over cells; ``area`` between the curves up to this
    share with ``area_low`` and ``area_high`` in the last row.
    """
    rng = np.random.default_rng(seed)
    n = len(deletion.intact)
    blank = np.zeros((n, 1))
    after = {"named": deletion.named, "random": deletion.random}
    drops = {name: np.column_stack([blank, deletion.intact[:, None] - part]) for name, part in after.items()}
    rows = []
    for column, share in enumerate([0.0, *deletion.shares.tolist()]):
        row: dict[str, float] = {"share": share, "n_cells": n}
        values = {f"drop_{name}": part[:, column] for name, part in drops.items()}
        values["excess"] = values["drop_named"] - values["drop_random"]
        for name, value in values.items():
            row |= _mean(name, value, groups, n_bootstrap, rng)
        if deletion.is_class:
            for name in after:
                outputs = deletion.intact - drops[name][:, column]
                row[f"probability_{name}"] = float(expit(outputs).mean())
        rows.append(row)
    rows[-1] |= _mean("area", deletion.area, groups, n_bootstrap, rng)
    return pd.DataFrame(rows)


def _order(scores: np.ndarray) -> np.ndarray:
    return np.argsort(-scores, kind="stable")


def _mean(
    name: str, values: np.ndarray, groups: np.ndarray | None, n: int, rng: np.random.Generator
) -> dict[str, float]:
    """Return a mean and the ends of its interval, named."""
    low, high = hierarchical_bootstrap(values, groups, rng=rng, n=n)
    return {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high}
