"""From cells to effects: one row per perturbed gene and group, with an interval and a p-value.

A cell is not a replicate. Cells of one donor share everything but their noise, so a test across cells finds
everything significant once there are many. Here cells give the interval of the mean only (how well it is
known in *these* cells); the p-value asks another question: whether the gene does more than genes of the
same rank do. Neither speaks of donors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from geneformer_grn._runtime import logger
from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.model.encoder import Encoder
from geneformer_grn.perturbation.engine import CELL_COLUMNS, Perturbed, perturb_cells, set_names
from geneformer_grn.perturbation.matching import rank_groups
from geneformer_grn.perturbation.requests import PerturbSettings
from geneformer_grn.perturbation.screen import PerturbationPlan, Screen, plan_screen
from geneformer_grn.statistics import benjamini_hochberg, bootstrap_interval, matched_null_p

EFFECT_COLUMNS = (
    "gene", "kind", "group", "readout", "state", "shift", "n_cells", "ci_low", "ci_high",
    "p_value", "q_value", "n_null", "null_mean", "null_low", "null_high",
)  # fmt: skip


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
        What was done: passes, cells per gene, null genes, pairs in which the cell lacked the gene.
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
) -> PerturbationResult:
    """Perturb genes in each group of cells, next to null genes of the same rank.

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

    Returns
    -------
    Effects, cells, gene shifts, and what was done.

    Raises
    ------
    ValueError
        No genes; labels that do not match the cells; a bound on passes too low; states missing.

    Examples
    --------
    >>> run_screen(encoder, ranked, None, find_genes(["CD74"], encoder.vocabulary)).effects  # doctest: +SKIP
    """
    plan, settings = plan or PerturbationPlan(), settings or PerturbSettings()
    sets = list(dict.fromkeys(_as_set(item) for item in genes))
    if not sets:
        raise ValueError("no gene to perturb")
    ranks = rank_groups(ranked, groups, encoder.vocabulary, seed=plan.seed)
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
    return PerturbationResult(
        effects=effects_table(screen, names, cells, seed=plan.seed),
        cells=kept.reset_index(drop=True),
        gene_shifts=found.gene_shifts,
        facts=_facts(screen, found),
    )


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


def effects_table(screen: Screen, names: np.ndarray, cells: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
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
    seed
        Seed of the bootstrap.

    Returns
    -------
    `EFFECT_COLUMNS`. ``shift`` is the mean over the ``n_cells`` cells that hold the genes, ``ci_low`` to
    ``ci_high`` its 95 % bootstrap interval over cells (NaN below two). ``p_value`` compares the mean over
    the first cells drawn with the means of the ``n_null`` null sets over equally many: larger is extreme
    without states, either direction with them; ``null_mean`` and ``null_low`` to ``null_high`` (2.5 to
    97.5 %) describe those means. ``q_value`` is Benjamini-Hochberg over the gene sets of a group, readout
    and state.
    """
    rows = []
    for (readout, state), part in cells.groupby(["readout", "state"], sort=False):
        shifts = _values_by_request(part, len(screen.requests))
        for number, null in screen.nulls.items():
            request, values = screen.requests[number], shifts[number]
            low, high = bootstrap_interval(values, rng=np.random.default_rng([seed, number]))
            compared = min(len(values), screen.cells_per_gene)
            null_means = np.array([_mean(shifts[other][:compared]) for other in null])
            p_value = matched_null_p(
                _mean(values[:compared]), null_means, alternative="two-sided" if state else "greater"
            )
            known = null_means[~np.isnan(null_means)]
            null_low, null_high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
            rows.append(
                (
                    names[number], request.kind, request.group, readout, state,
                    _mean(values), len(values), low, high, p_value, np.nan,
                    len(known), _mean(known), null_low, null_high,
                )
            )  # fmt: skip
    effects = pd.DataFrame(rows, columns=list(EFFECT_COLUMNS))
    if len(effects):
        by_family = effects.groupby(["group", "readout", "state"], sort=False)["p_value"]
        effects["q_value"] = by_family.transform(lambda p: benjamini_hochberg(p.to_numpy()))
    return effects


def _values_by_request(part: pd.DataFrame, n_requests: int) -> list[np.ndarray]:
    """Return the shifts of each request, in its order of cells, without the cells that lack the gene."""
    part = part[part["shift"].notna()]
    request = part["request"].to_numpy()
    cuts = np.searchsorted(request, np.arange(1, n_requests))
    return np.split(part["shift"].to_numpy(), cuts)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
