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
from geneformer_grn.model.encoder import Encoder
from geneformer_grn.perturbation.engine import CELL_COLUMNS, Perturbed, perturb_cells, set_names
from geneformer_grn.perturbation.matching import GroupRanks, rank_groups
from geneformer_grn.perturbation.requests import PerturbSettings
from geneformer_grn.perturbation.screen import PerturbationPlan, Screen, plan_screen
from geneformer_grn.report.words import effects_sentence
from geneformer_grn.statistics import (
    benjamini_hochberg,
    hierarchical_bootstrap,
    matched_null_p,
    without_trend,
)

EFFECT_COLUMNS = (
    "gene", "kind", "group", "readout", "state", "shift", "n_cells", "ci_low", "ci_high",
    "p_value", "q_value", "n_null", "null_mean", "null_low", "null_high",
)  # fmt: skip
_TREND_FROM = 20  # null genes: fewer cannot tell a trend in three traits from noise
RESAMPLES = 2000  # enough for the outer quantiles that few donors ask for


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
        One row per gene set, group, readout and state: `EFFECT_COLUMNS`.
    cells
        One row per gene set, cell, readout and state: the engine's `CELL_COLUMNS`; null perturbations left
        out.
    gene_shifts
        One row per (perturbed, affected) pair and group, or None.
    facts
        What was done: passes, cells per gene, null genes (asked for, and the fewest and most that a gene was
        compared with), what they were matched on, pairs in which the cell lacked the gene.
    """

    effects: pd.DataFrame
    cells: pd.DataFrame
    gene_shifts: pd.DataFrame | None
    facts: dict[str, Any]


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
    """Perturb genes in each group of cells, next to null genes that match them.

    Parameters
    ----------
    encoder
        The model, with its vocabulary.
    ranked
        Cells ranked with that vocabulary.
    groups
        ``(n,)`` labels, or None for one group ``all``; cells with a missing label are left out.
    genes
        Tokens; an inner sequence is a set perturbed together.
    plan
        Kind and size of the screen.
    settings
        Layer, pooling, readouts.
    states
        Name -> ``(d,)`` mean embedding, for the readout ``state``.
    known
        Counts and donors of the cells, where they are known.

    Returns
    -------
    Effects, cells, gene shifts, and what was done.

    Raises
    ------
    ValueError
        No genes; labels, donors or counts that do not match the cells; a bound on passes too low; states
        missing.

    Examples
    --------
    >>> run_screen(encoder, ranked, None, find_genes(["CD74"], encoder.vocabulary)).effects  # doctest: +SKIP
    """
    plan, settings = plan or PerturbationPlan(), settings or PerturbSettings()
    known = known or CellFacts()
    donors = None if known.donors is None else pd.Series(np.asarray(known.donors, dtype=object))
    if donors is not None and len(donors) != len(ranked):
        raise ValueError(f"{len(donors):,} donor labels were given for {len(ranked):,} cells")
    sets = list(dict.fromkeys(_as_set(item) for item in genes))
    if not sets:
        raise ValueError("no gene to perturb")
    ranks = rank_groups(ranked, groups, encoder.vocabulary, seed=plan.seed, counts=known.counts)
    screen = plan_screen(ranks, sets, plan)
    logger.info(
        "%s of %d gene sets in %d groups: up to %d passes (%d cells per null gene, %d null genes per gene)",
        plan.kind, len(sets), len(ranks), screen.n_passes, screen.cells_per_gene, screen.n_null,
    )  # fmt: skip
    found = perturb_cells(encoder, ranked, screen.requests, settings, states=states)
    cells = found.cells[found.cells["readout"].isin(settings.readouts)]
    tested = np.array([not request.is_null for request in screen.requests], dtype=bool)
    kept = cells.loc[tested[cells["request"].to_numpy()], list(CELL_COLUMNS)]
    names = set_names(screen.requests, encoder.vocabulary)
    effects = effects_table(
        screen, names, cells, donors=donors, traits=_traits(screen, ranks), seed=plan.seed
    )
    matched_on = "rank, detection" + ("" if known.counts is None else ", expression")
    n_null = _n_null_facts(effects, screen.n_null)
    if n_null:
        logger.info(
            "matched on %s; every gene was compared with %d or more null genes, so that no p-value can be "
            "below %.2g", matched_on, n_null["n_null_fewest"], 1 / (1 + n_null["n_null_fewest"]),
        )  # fmt: skip
    return PerturbationResult(
        effects=effects,
        cells=kept.reset_index(drop=True),
        gene_shifts=found.gene_shifts,
        facts={**_facts(screen, found), **n_null, "matched_on": matched_on},
    )


def _n_null_facts(effects: pd.DataFrame, asked: int) -> dict[str, int]:
    """Return the fewest and the most null genes a tested gene was compared with; nothing without nulls."""
    compared = effects.loc[effects["n_cells"] > 0, "n_null"]
    if asked == 0 or compared.empty:
        return {}
    return {"n_null_fewest": int(compared.min()), "n_null_most": int(compared.max())}


def _facts(screen: Screen, found: Perturbed) -> dict[str, Any]:
    """Return how large the screen was in the end."""
    return {
        "n_passes": found.n_passes,
        "n_passes_planned": screen.n_passes,
        "cells_per_gene": screen.cells_per_gene,
        "n_null": screen.n_null,
        "n_pairs_without_gene": found.n_without_gene,
    }


def _as_set(item: int | Sequence[int]) -> tuple[int, ...]:
    """Return one gene, or genes perturbed together, as a tuple of distinct tokens in the given order."""
    members = item if isinstance(item, Sequence) else [item]
    return tuple(dict.fromkeys(int(gene) for gene in members))


def effects_table(
    screen: Screen,
    names: np.ndarray,
    cells: pd.DataFrame,
    *,
    donors: pd.Series | None = None,
    traits: np.ndarray | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Summarise the cells of a screen into effects.

    Parameters
    ----------
    screen
        The screen; its tested requests become rows.
    names
        ``(n_requests,)`` names of the gene sets.
    cells
        The engine's cells table with its column ``request``, nulls included, cells in the order of their
        request.
    donors
        Donor of each ``cell_id``; None where they are not known.
    traits
        ``(n_requests, t)`` what genes are matched on; None: p-values compare the means as they are.
    seed
        Seed of the bootstrap.

    Returns
    -------
    `EFFECT_COLUMNS`, with donors also ``n_donors``. ``shift`` is the mean over the ``n_cells`` cells that
    hold the genes, ``ci_low`` to ``ci_high`` its 95 % bootstrap interval (NaN below two cells): over donors
    and cells within them, over cells alone where donors are not known or only one is. ``p_value`` compares
    the mean over the first cells drawn with the means of the ``n_null`` null sets over equally many, all less
    their linear trend in `traits` where there are 20 null sets or more: larger is extreme without states,
    either direction with them; ``null_mean`` and ``null_low`` to ``null_high``
    (2.5 to 97.5 %) describe those means. ``q_value`` is Benjamini-Hochberg over the gene sets of a group,
    readout and state.

    Raises
    ------
    ValueError
        The donor of a cell is missing.
    """
    rows = []
    for (readout, state), part in cells.groupby(["readout", "state"], sort=False):
        part = part[part["shift"].notna()]
        cuts = np.searchsorted(part["request"].to_numpy(), np.arange(1, len(screen.requests)))
        shifts = np.split(part["shift"].to_numpy(), cuts)
        donor = None if donors is None else np.split(part["cell_id"].map(donors).to_numpy(), cuts)
        for number, null in screen.nulls.items():
            request, values = screen.requests[number], shifts[number]
            of_donor = None if donor is None else donor[number]
            rng = np.random.default_rng([seed, number])
            low, high = hierarchical_bootstrap(values, of_donor, rng=rng, n=RESAMPLES)
            compared = min(len(values), screen.cells_per_gene)
            null_means = np.array([_mean(shifts[other][:compared]) for other in null])
            own, others = _mean(values[:compared]), null_means
            if traits is not None:
                own, others = _adjusted(own, null_means, traits[number], traits[null])
            p_value = matched_null_p(own, others, alternative="two-sided" if state else "greater")
            known = null_means[~np.isnan(null_means)]
            null_low, null_high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
            rows.append(
                (
                    names[number], request.kind, request.group, readout, state,
                    _mean(values), len(values), low, high, p_value, np.nan,
                    len(known), _mean(known), null_low, null_high,
                    0 if of_donor is None else len(pd.unique(of_donor)),
                )
            )  # fmt: skip
    effects = pd.DataFrame(rows, columns=[*EFFECT_COLUMNS, "n_donors"])
    if donors is None:
        effects = effects.drop(columns="n_donors")
    if len(effects):
        by_family = effects.groupby(["group", "readout", "state"], sort=False)["p_value"]
        effects["q_value"] = by_family.transform(lambda p: benjamini_hochberg(p.to_numpy()))
    return effects


def _traits(screen: Screen, ranks: Sequence[GroupRanks]) -> np.ndarray:
    """Return the ``(n_requests, t)`` traits that genes are matched on, mean over the genes of a set."""
    groups = {
        group.name: np.column_stack(
            [trait for trait in (group.rank, group.detection, group.expression) if trait is not None]
        )
        for group in ranks
    }
    return np.array([groups[request.group][list(request.genes)].mean(axis=0) for request in screen.requests])


def _adjusted(
    own: float, null: np.ndarray, own_traits: np.ndarray, null_traits: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return a mean and its null means without their trend; unchanged with few null means."""
    known = ~np.isnan(null)
    if np.isnan(own) or np.count_nonzero(known) < _TREND_FROM:
        return own, null
    without = without_trend(np.append(own, null[known]), np.vstack([own_traits, null_traits[known]]))
    return float(without[0]), without[1:]


def effects_summary(effects: pd.DataFrame) -> str:
    """Return in a sentence or two how many effects exceed those of matched genes, or that none does.

    Parameters
    ----------
    effects
        `EFFECT_COLUMNS`.
    """
    tested = effects[effects["p_value"].notna()]
    if tested.empty:
        return effects_sentence(effects)
    fewest = int(tested["n_null"].min())
    return (
        f"{effects_sentence(effects)} Each was compared with {fewest:,} or more matched genes, so that no "
        f"p-value can be below {1 / (1 + fewest):.2g}."
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
