"""From cells to effects: one row per perturbed gene and group, with an interval and a p-value.

A cell is not a replicate. Cells of one donor share everything but their noise, so a test across cells finds
everything significant once there are many. Here cells, and donors where they are known, give the interval of
the mean only; without donors it says how well the mean is known in *these* cells. The p-value asks another
question: whether the gene does more than genes like it do. Its unit is the gene. What trend the effects still
show among matched genes, by rank above all, is taken out first: a gene that ranks first has no equals above
it, and without that every such gene would look special, also to a model of random weights.

What of it is the move of later genes by one position is the matter of `perturbation.position`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from geneformer_grn._runtime import logger
from geneformer_grn.cells.counts import CellCounts
from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.model.encoder import Encoder
from geneformer_grn.perturbation.effects_table import (
    EFFECT_COLUMNS,
    Reader,
    effects_summary,
    effects_table,
    reader_of,
)
from geneformer_grn.perturbation.engine import CELL_COLUMNS, perturb_cells, set_names
from geneformer_grn.perturbation.matching import GroupRanks, rank_groups
from geneformer_grn.perturbation.requests import PerturbSettings
from geneformer_grn.perturbation.screen import PerturbationPlan, Screen, plan_screen

__all__ = [
    "EFFECT_COLUMNS", "CellFacts", "PerturbationResult", "Prepared", "Reader", "effects_summary",
    "effects_table", "prepare", "reader_of", "run_screen", "summarise",
]  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class CellFacts:
    """What is known of the cells beside their ranking.

    Parameters
    ----------
    counts
        Their counts, in the same order: null genes are then matched on expression, too.
    donors
        ``(n,)`` label of the donor of each cell: intervals are then over donors and cells.
    """

    counts: CellCounts | None = None
    donors: Sequence[object] | np.ndarray | pd.Series | None = None


@dataclass(frozen=True, eq=False)
class PerturbationResult:
    """What a perturbation screen found.

    Parameters
    ----------
    effects
        One row per gene set, group, readout and state: `EFFECT_COLUMNS`, and ``gene_symbol``.
    cells
        One row per gene set, cell, readout and state: the engine's `CELL_COLUMNS`; null perturbations left
        out.
    gene_shifts
        One row per (perturbed, affected) pair and group, or None.
    expression
        The same for the readout ``expression``, or None.
    facts
        What was done: passes, cells per gene, null genes (asked for, the fewest and the most that a gene was
        compared with, and the share of genes that had as many as asked for), what they were matched on, pairs
        in which the cell lacked the gene.
    """

    effects: pd.DataFrame
    cells: pd.DataFrame
    gene_shifts: pd.DataFrame | None
    facts: dict[str, Any]
    expression: pd.DataFrame | None = None


@dataclass(frozen=True, eq=False)
class Prepared:
    """A screen before its passes: all that turns shifts into effects, and no cells.

    Parameters
    ----------
    plan
        What was asked for.
    sets
        The tested gene sets, each once.
    screen
        The requests, tested and null.
    names
        ``(n_requests,)`` names of their gene sets: Ensembl IDs joined by ``+``.
    symbols
        The same in gene symbols, the ID where a gene has none.
    traits
        ``(n_requests, t)`` what null genes are matched on, the mean over the genes of a set.
    donors
        Donor of each row of the ranked cells, or None.
    matched_on
        The traits, in words.
    """

    plan: PerturbationPlan
    sets: list[tuple[int, ...]]
    screen: Screen
    names: np.ndarray
    symbols: np.ndarray
    traits: np.ndarray
    donors: pd.Series | None
    matched_on: str


def prepare(
    ranked: RankedCells,
    groups: Sequence[object] | np.ndarray | pd.Series | None,
    genes: Sequence[int | Sequence[int]],
    vocabulary: GeneVocabulary,
    plan: PerturbationPlan,
    known: CellFacts | None = None,
) -> Prepared:
    """Decide which genes are perturbed in which cells, tested and null genes.

    Parameters
    ----------
    ranked
        The cells.
    groups
        ``(n,)`` labels, or None for one group ``all``; cells with a missing label are left out.
    genes
        Tokens; an inner sequence is a set perturbed together.
    vocabulary
        The vocabulary the cells were ranked with.
    plan
        Kind and size of the screen.
    known
        Counts and donors of the cells, where they are known.

    Raises
    ------
    ValueError
        No genes; labels, donors or counts that do not match the cells; a bound on passes too low.
    """
    known = known or CellFacts()
    donors = None if known.donors is None else pd.Series(np.asarray(known.donors, dtype=object))
    if donors is not None and len(donors) != len(ranked):
        raise ValueError(f"{len(donors):,} donor labels were given for {len(ranked):,} cells")
    sets = list(dict.fromkeys(_as_set(item) for item in genes))
    if not sets:
        raise ValueError("no gene to perturb")
    ranks = rank_groups(ranked, groups, vocabulary, seed=plan.seed, counts=known.counts)
    screen = plan_screen(ranks, sets, plan)
    logger.info(
        "%s of %d gene sets in %d groups: up to %d passes (%d cells per null gene, %d null genes per gene)",
        plan.kind, len(sets), len(ranks), screen.n_passes, screen.cells_per_gene, screen.n_null,
    )  # fmt: skip
    return Prepared(
        plan=plan,
        sets=sets,
        screen=screen,
        names=set_names(screen.requests, vocabulary),
        symbols=_set_symbols(screen, vocabulary),
        traits=_traits(screen, ranks),
        donors=donors,
        matched_on="rank, detection" + ("" if known.counts is None else ", expression"),
    )


def summarise(prepared: Prepared, read: Reader) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the effects of a screen after its passes, and what they were compared with.

    Parameters
    ----------
    prepared
        The screen.
    read
        Gives the shifts of some requests, rows of readouts that are no effects left out.

    Returns
    -------
    tuple
        `EFFECT_COLUMNS` (see `effects_table`), and last ``gene_symbol``, symbols joined by ``+``; facts in
        single values: ``n_passes_planned``, ``cells_per_gene``, ``n_null`` and ``matched_on``, and with null
        genes ``n_null_fewest``, ``n_null_most`` and ``share_full_null``.
    """
    screen = prepared.screen
    effects = effects_table(
        screen, prepared.names, read, donors=prepared.donors, traits=prepared.traits, seed=prepared.plan.seed
    )
    symbol_of = dict(zip(prepared.names, prepared.symbols, strict=True))
    effects["gene_symbol"] = effects["gene"].map(symbol_of).astype(object)
    facts = {
        "n_passes_planned": screen.n_passes,
        "cells_per_gene": screen.cells_per_gene,
        "n_null": screen.n_null,
        "matched_on": prepared.matched_on,
        **_n_null_facts(effects, screen.n_null),
    }
    if "n_null_fewest" in facts:
        logger.info(
            "matched on %s; %.0f %% of genes were compared with %d null genes, each with at least %d and at "
            "most %d: no p-value can be below %.2g", prepared.matched_on, 100 * facts["share_full_null"],
            screen.n_null, facts["n_null_fewest"], facts["n_null_most"], 1 / (1 + facts["n_null_most"]),
        )  # fmt: skip
    return effects, facts


def run_screen(
    encoder: Encoder,
    ranked: RankedCells,
    groups: Sequence[object] | np.ndarray | pd.Series | None,
    genes: Sequence[int | Sequence[int]],
    plan: PerturbationPlan | None = None,
    *,
    settings: PerturbSettings | None = None,
    states: Mapping[str, np.ndarray] | None = None,
    known: CellFacts | None = None,
) -> PerturbationResult:
    """Perturb genes in each group of cells, next to null genes that match them; all tables in memory.

    Parameters
    ----------
    encoder
        The model, with its vocabulary.
    ranked, groups, genes, plan, known
        As in `prepare`; the cells ranked with the model's vocabulary.
    settings
        Layer, pooling, readouts.
    states
        Name -> ``(d,)`` mean embedding, for the readout ``state``.

    Returns
    -------
    Effects, cells, gene shifts, and what was done.

    Raises
    ------
    ValueError
        As in `prepare`; states missing.

    Examples
    --------
    >>> run_screen(encoder, ranked, None, find_genes(["CD74"], encoder.vocabulary)).effects  # doctest: +SKIP
    """
    settings = settings or PerturbSettings()
    prepared = prepare(ranked, groups, genes, encoder.vocabulary, plan or PerturbationPlan(), known)
    requests = prepared.screen.requests
    found = perturb_cells(encoder, ranked, requests, settings, states=states)
    cells = found.cells[found.cells["readout"].isin(settings.readouts)]
    tested = np.array([not request.is_null for request in requests], dtype=bool)
    kept = cells.loc[tested[cells["request"].to_numpy()], list(CELL_COLUMNS)]
    effects, facts = summarise(prepared, reader_of(cells))
    return PerturbationResult(
        effects=effects,
        cells=kept.reset_index(drop=True),
        gene_shifts=found.gene_shifts,
        expression=found.expression,
        facts={"n_passes": found.n_passes, **facts, "n_pairs_without_gene": found.n_without_gene},
    )


def _n_null_facts(effects: pd.DataFrame, asked: int) -> dict[str, Any]:
    """Return with how many null genes the tested genes were compared; nothing without nulls."""
    compared = effects.loc[effects["n_cells"] > 0, "n_null"]
    if asked == 0 or compared.empty:
        return {}
    return {
        "n_null_fewest": int(compared.min()),
        "n_null_most": int(compared.max()),
        "share_full_null": float((compared >= asked).mean()),
    }


def _as_set(item: int | Sequence[int]) -> tuple[int, ...]:
    """Return one gene, or genes perturbed together, as a tuple of distinct tokens in the given order."""
    members = item if isinstance(item, Sequence) else [item]
    return tuple(dict.fromkeys(int(gene) for gene in members))


def _set_symbols(screen: Screen, vocabulary: GeneVocabulary) -> np.ndarray:
    """Return the ``(n_requests,)`` symbols of the gene sets joined by ``+``, the ID where a gene has none."""
    symbols = pd.Series(vocabulary.symbols, dtype=object)
    known = symbols.notna() & (symbols != "")
    shown = np.where(known, symbols, vocabulary.ensembl_ids)
    return np.array(["+".join(shown[list(request.genes)]) for request in screen.requests], dtype=object)


def _traits(screen: Screen, ranks: Sequence[GroupRanks]) -> np.ndarray:
    """Return the ``(n_requests, t)`` traits that genes are matched on, mean over the genes of a set."""
    groups = {group.name: group.traits() for group in ranks}
    return np.array([groups[request.group][list(request.genes)].mean(axis=0) for request in screen.requests])
