"""A gene network per cell group: counts and model joined, each method printed next to correlation.

Regulators and targets are fixed once for all groups, so that groups and methods can be compared over the same
pairs. Within a group only genes that enough of its cells express are scored.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geneformer_grn._runtime import logger
from geneformer_grn.cells.counts import CellCounts, log_normalised
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.network.edges import Universe
from geneformer_grn.network.truth import Truth
from geneformer_grn.workflows.grouping import UNLABELLED
from geneformer_grn.workflows.network_card import MethodCards
from geneformer_grn.workflows.network_group import agreements_of, combined, score_group, tables_of
from geneformer_grn.workflows.network_scorers import NetworkCells, scorers
from geneformer_grn.workflows.network_settings import COMBINED, NetworkSettings, affordable
from geneformer_grn.workflows.regulators import choose_genes, detected

if TYPE_CHECKING:
    from geneformer_grn.cells.ranking import RankedCells
    from geneformer_grn.model.encoder import Encoder

ALL_CELLS = "all"
"""Name of the group where cells are not grouped."""


@dataclass(frozen=True, kw_only=True)
class NetworkResult:
    """Scored networks.

    Parameters
    ----------
    edges
        Edge table of all groups and methods, with ``source_symbol`` and ``target_symbol``; with two methods
        or more also ``agreement``, the percentile (0 to 100) of the pair under the method it is compared
        with.
    universe
        Pairs scored and parameters.
    agreement
        Group -> method -> how far it agrees with correlation (see `geneformer_grn.network.scored.agreement`).
    skipped
        Group -> number of cells, for groups that were too small.
    card
        Scores of all methods against known edges, where there was a truth; see
        `geneformer_grn.workflows.network_card`.
    differences
        Where two groups were compared, see `geneformer_grn.workflows.network_differences`.
    """

    edges: pd.DataFrame
    universe: Universe
    agreement: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    card: dict[str, Any] | None = None
    differences: pd.DataFrame | None = None


def score_network(
    counts: CellCounts,
    vocabulary: GeneVocabulary,
    *,
    settings: NetworkSettings | None = None,
    encoder: Encoder | None = None,
    ranked: RankedCells | None = None,
    labels: np.ndarray | None = None,
    groups_column: str | None = None,
) -> NetworkResult:
    """Score the network of every cell group by every method.

    Parameters
    ----------
    counts
        The cells.
    vocabulary
        The vocabulary they were read with.
    settings
        See `NetworkSettings`.
    encoder, ranked
        The model, and the cells as it sees them; needed for the model's methods only.
    labels, groups_column
        See `score_groups`.

    Raises
    ------
    ValueError
        See `score_groups`.
    """
    cells = NetworkCells(
        expression=log_normalised(counts), counts=counts, vocabulary=vocabulary,
        encoder=encoder, ranked=ranked,
    )  # fmt: skip
    return score_groups(cells, settings=settings, labels=labels, groups_column=groups_column)


def score_groups(
    cells: NetworkCells,
    *,
    settings: NetworkSettings | None = None,
    labels: np.ndarray | None = None,
    groups_column: str | None = None,
    truth: Truth | None = None,
) -> NetworkResult:
    """Score the network of every cell group by every method.

    Parameters
    ----------
    cells
        The cells, and the model where a method needs it.
    settings
        See `NetworkSettings`.
    labels
        ``(n,)`` str group of each cell; None: one group, ``all``.
    groups_column
        Where the labels come from, recorded in the universe.
    truth
        Known edges: every method is scored against them, ``combined`` learns from them, and
        ``attention_selected`` chooses heads by them.

    Raises
    ------
    ValueError
        Every group is too small, no regulator or target is expressed, the truth knows none of the pairs, or
        the model is asked for without being there.
    """
    settings = settings or NetworkSettings()
    counts, vocabulary = cells.counts, cells.vocabulary
    groups, skipped = group_rows(labels, len(counts), settings.min_cells)
    if skipped:
        sizes = ", ".join(f"{group} ({size})" for group, size in skipped.items())
        logger.warning("no network for groups of fewer than %d cells: %s", settings.min_cells, sizes)
    regulators, targets = choose_genes(
        counts, cells.expression, vocabulary,
        regulators=settings.regulators, groups=groups,
        max_targets=settings.max_targets, min_support=settings.min_support,
    )  # fmt: skip
    names = vocabulary.ensembl_ids
    cards = None
    if truth is not None:
        cards = MethodCards(truth, names[regulators].tolist(), names[targets].tolist(), seed=settings.seed)
    methods = affordable(
        settings, n_genes=len(np.union1d(regulators, targets)),
        n_regulators=len(regulators), n_targets=len(targets),
    )  # fmt: skip
    logger.info(
        "network: %d regulators × %d targets in %d group(s): %s",
        len(regulators), len(targets), len(groups), ", ".join(methods),
    )  # fmt: skip
    alone = tuple(method for method in methods if method != COMBINED)
    score = scorers(cells, settings, alone, truth=truth)
    tables, agreements = [], {}
    for group, rows in groups.items():
        enough = detected(cells.expression, counts, rows, settings.min_support)
        present = [np.array([gene for gene in genes if gene in enough]) for genes in (regulators, targets)]
        if not all(len(genes) for genes in present):
            logger.warning("group %r: too few cells express any regulator, or any target", group)
            continue
        scored = score_group(score, rows, *present, group=group, lenient=settings.lenient)
        if COMBINED in methods:
            try:
                scored[COMBINED] = combined(scored, cells, rows, truth=truth, seed=settings.seed)
            except ValueError as error:
                if settings.methods != "all" or not scored:
                    raise
                logger.warning("group %r: left out: %s: %s", group, COMBINED, error)
        tables += tables_of(scored, settings.top, group)
        agreements[group] = agreements_of(scored, settings.top)
        if cards is not None:
            cards.add(group, scored, cells.expression[rows], cells.gene_ids)
    if not tables:
        raise ValueError(
            f"no group has a regulator and a target that {settings.min_support} of its cells express; give "
            "more cells, or other regulators"
        )
    edges = with_symbols(pd.concat(tables, ignore_index=True), vocabulary)
    universe = Universe(
        regulators=tuple(names[regulators]),
        targets=tuple(names[targets]),
        n_cells={group: len(rows) for group, rows in groups.items()},
        groups_column=groups_column,
        settings=asdict(settings)
        | {"methods": tuple(edges["method"].unique()), "vocabulary": vocabulary.fingerprint}
        | {"model": cells.encoder.name if cells.encoder is not None else None},
    )
    return NetworkResult(
        edges=edges, universe=universe, agreement=agreements, skipped=skipped,
        card=None if cards is None else cards.card(),
    )  # fmt: skip


def with_symbols(table: pd.DataFrame, vocabulary: GeneVocabulary) -> pd.DataFrame:
    """Return a table with ``<column>_symbol`` for each of its columns ``source``, ``target`` and ``gene``."""
    symbol_of = dict(zip(vocabulary.ensembl_ids, vocabulary.symbols, strict=True))
    genes = [column for column in ("source", "target", "gene") if column in table.columns]
    return table.assign(**{f"{column}_symbol": table[column].map(symbol_of) for column in genes})


def group_rows(
    labels: np.ndarray | None, n_cells: int, min_cells: int
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Return the rows of every group that is large enough, and the sizes of the others.

    Cells without a label are in no group.

    Raises
    ------
    ValueError
        No group is large enough.
    """
    labels = np.full(n_cells, ALL_CELLS, dtype=object) if labels is None else labels
    if len(labels) != n_cells:
        raise ValueError(f"{len(labels):,} group labels were given for {n_cells:,} cells")
    names = sorted(set(labels) - {UNLABELLED})
    rows = {str(group): np.flatnonzero(labels == group) for group in names}
    skipped = {group: len(members) for group, members in rows.items() if len(members) < min_cells}
    kept = {group: members for group, members in rows.items() if group not in skipped}
    sizes = ", ".join(f"{group} ({size})" for group, size in skipped.items())
    if not kept:
        raise ValueError(
            f"no group has the {min_cells} cells that a network needs: {sizes or 'none is labelled'}; "
            "give more cells, or group them by a coarser column"
        )
    return kept, skipped
