"""What a perturbation does downstream: edges refitted in each group's cells, then followed hop by hop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from geneformer_grn._runtime import logger
from geneformer_grn.cells.counts import CellCounts, log_normalised
from geneformer_grn.genes.table import load_gene_table
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.network.edges import check_edges
from geneformer_grn.network.inference import Expression, mean_and_sd
from geneformer_grn.network.propagation import PropagationSettings, propagate
from geneformer_grn.network.refit import expression_change, refit_signed
from geneformer_grn.network.responses import clamped_effects, marginal_response
from geneformer_grn.workflows.cells import OpenedCells
from geneformer_grn.workflows.model_propagation import rerank_groups
from geneformer_grn.workflows.network import ALL_CELLS, with_symbols
from geneformer_grn.workflows.ordered_propagation import first_symbols, ordered_effects


@dataclass(frozen=True, kw_only=True)
class PropagatedResult:
    """Effects through a network.

    Parameters
    ----------
    effects
        ``source``, ``gene``, ``group``, ``hop``, ``effect`` and symbols: changes of mean log-normalised
        expression (of the visiting probability, for the random walk; in ranks towards the front, for
        ``rerank``).
    edges
        The signed coefficients they travelled along: refitted edges of all groups, in the edge schema; none
        for ``ordered`` and ``rerank``.
    """

    effects: pd.DataFrame
    edges: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class PropagateRequest:
    """What is perturbed, and how its effects travel.

    Parameters
    ----------
    sources
        Genes, each perturbed on its own: symbols, Ensembl IDs, or names as the table has them.
    kind
        ``delete`` or ``overexpress``.
    edge_method
        Use only the edges of this method; None: all.
    settings
        Method and depth.
    regulators
        Of ``ordered``: genes that may regulate; None: the sources of the edges.
    """

    sources: tuple[str, ...]
    kind: str = "delete"
    edge_method: str | None = None
    settings: PropagationSettings = field(default_factory=PropagationSettings)
    regulators: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in {"delete", "overexpress"}:
            raise ValueError(f"perturbation kind {self.kind!r} does not propagate; use delete or overexpress")
        if self.regulators is not None and self.settings.method != "ordered":
            raise ValueError(
                f"regulators are named for the ordered response; {self.settings.method} follows the edges"
            )
        if self.kind != "delete" and self.settings.method == "rerank":
            raise ValueError(
                "rerank takes a gene out of the model's input; --kind delete is all it can follow"
            )


def propagate_cells(
    edges: pd.DataFrame,
    counts: CellCounts,
    vocabulary: GeneVocabulary,
    *,
    sources: Sequence[str],
    kind: str = "delete",
    labels: np.ndarray | None = None,
    settings: PropagationSettings | None = None,
    regulators: Sequence[str] | None = None,
) -> PropagatedResult:
    """Refit edges to the cells of each group and follow each source's change through them.

    Edges of several methods are pooled: a pair that any of them kept may carry an effect, how strong and with
    which sign is decided by the refit.

    Parameters
    ----------
    edges
        Edge table; its groups are those of `labels`.
    counts
        The cells.
    vocabulary
        The vocabulary they were read with.
    sources
        Ensembl IDs to perturb, each on its own. In a group that does not express a source, or where the
        source regulates nothing, it has no rows (reported).
    kind
        ``delete`` or ``overexpress``, see `geneformer_grn.network.refit.expression_change`.
    labels
        ``(n,)`` str group of each cell; None: the edges are those of all cells.
    settings
        Method and depth; ``rerank`` is for `propagate_opened`. Expression is not predicted to fall below zero
        by ``iterated`` and ``clamped``. ``covariance``
        predicts the genes of the edges, whichever of them are connected; for ``ordered`` see
        `geneformer_grn.workflows.ordered_propagation.ordered_effects`.
    regulators
        Of ``ordered``: symbols or Ensembl IDs that may regulate; None: the sources of each group's edges.

    Raises
    ------
    ValueError
        The edges are of groups and `labels` is None, a group of the edges has no cells, or its edges' genes
        are not those of the cells.
    """
    settings = settings or PropagationSettings()
    checked = grouped_edges(edges, labels)
    expression = log_normalised(counts)
    gene_ids = vocabulary.ensembl_ids[counts.column_tokens]
    if settings.method == "ordered":
        predicted = ordered_effects(
            checked, counts, vocabulary,
            sources=sources, kind=kind, labels=labels, regulators=regulators, seed=settings.seed,
        )  # fmt: skip
        return PropagatedResult(
            effects=with_symbols(predicted, vocabulary), edges=with_symbols(checked[:0], vocabulary)
        )
    effects, refitted = [], []
    for group, part in checked.groupby("group", sort=False):
        inside = expression[cells_of(str(group), labels, len(counts))]
        signed = refit_signed(part, inside, gene_ids)
        refitted.append(signed)
        mean, _ = mean_and_sd(inside)
        moved = _changes(signed, inside, gene_ids, sources=sources, kind=kind)
        if moved and settings.method == "covariance":
            genes = sorted({*signed["source"], *signed["target"]})
            effects.append(marginal_response(inside, gene_ids, moved, targets=genes, group=str(group)))
        elif moved and settings.method == "clamped":
            effects.append(
                clamped_effects(signed, inside, gene_ids, moved, n_steps=settings.n_hops, group=str(group))
            )
        elif moved:
            floor = dict(zip(gene_ids.tolist(), (-mean).tolist(), strict=True))
            effects.append(propagate(signed, moved, settings=settings, lowest=floor))
    empty = pd.DataFrame(columns=["source", "gene", "group", "hop", "effect"])
    return PropagatedResult(
        effects=with_symbols(pd.concat(effects, ignore_index=True) if effects else empty, vocabulary),
        edges=with_symbols(pd.concat(refitted, ignore_index=True), vocabulary),
    )


def propagate_opened(
    edges: pd.DataFrame, cells: OpenedCells, request: PropagateRequest, *, sources: Sequence[str]
) -> PropagatedResult:
    """Do what is asked with opened cells: through the model, or as `propagate_cells`.

    Parameters
    ----------
    edges
        Edge table.
    cells
        With the model, for ``rerank``.
    request
        What is perturbed, and how its effects travel.
    sources
        Its sources as the table writes them, see `find_sources`.

    Raises
    ------
    ValueError
        See `propagate_cells` and `geneformer_grn.workflows.model_propagation.rerank_groups`.
    """
    if request.settings.method != "rerank":
        return propagate_cells(
            edges, cells.counts, cells.vocabulary,
            sources=sources, kind=request.kind, labels=cells.labels, settings=request.settings,
            regulators=request.regulators,
        )  # fmt: skip
    checked = grouped_edges(edges, cells.labels)
    groups = {
        str(group): (cells_of(str(group), cells.labels, len(cells.counts)), part)
        for group, part in checked.groupby("group", sort=False)
    }
    effects = rerank_groups(groups, cells, sources=sources, settings=request.settings)
    return PropagatedResult(
        effects=with_symbols(effects, cells.vocabulary), edges=with_symbols(checked[:0], cells.vocabulary)
    )


def grouped_edges(edges: pd.DataFrame, labels: np.ndarray | None) -> pd.DataFrame:
    """Return checked edges with a column ``group``.

    Raises
    ------
    ValueError
        The edges are of groups, and the cells have none.
    """
    checked = check_edges(edges)
    if "group" not in checked.columns:
        checked["group"] = ALL_CELLS
    named = sorted(set(checked["group"].astype(str)) - {ALL_CELLS})
    if labels is None and named:
        raise ValueError(
            f"these are edges of the groups {', '.join(named[:5])}, and effects along them are those in the "
            "cells of each: the column of the groups is needed; name it by --groups"
        )
    return checked


def cells_of(group: str, labels: np.ndarray | None, n_cells: int) -> np.ndarray:
    """Return the rows of a group's cells; all rows where cells are not grouped.

    Raises
    ------
    ValueError
        It has none.
    """
    rows = np.arange(n_cells) if labels is None else np.flatnonzero(labels == group)
    if len(rows) == 0:
        raise ValueError(
            f"the edges of group {group!r} have no cells here; name the column of the groups by --groups "
            f"(groups found: {', '.join(sorted(set(labels if labels is not None else [])))})"
        )
    return rows


def find_sources(names: Sequence[str], edges: pd.DataFrame) -> list[str]:
    """Return the genes of an edge table that a user names, as the table writes them.

    Parameters
    ----------
    names
        Genes as the table has them, or symbols or Ensembl IDs in any case.
    edges
        A checked edge table.

    Raises
    ------
    ValueError
        A name is no gene of the table, or no name is given.
    """
    table = load_gene_table()
    genes = {str(gene).upper(): gene for gene in pd.unique(edges[["source", "target"]].to_numpy().ravel())}
    found, unknown = [], []
    for name in names:
        upper = name.strip().upper()
        gene = genes.get(upper) or genes.get(table.ensembl_of.get(upper, upper))
        if gene is None:
            unknown.append(name)
        else:
            found.append(gene)
    if unknown or not found:
        hubs = edges["source"].value_counts().index[:5]
        raise ValueError(
            f"{', '.join(map(repr, unknown)) or 'no gene'} is not among the {len(genes):,} genes of the "
            f"network; its largest regulators are {', '.join(table.symbol_of.get(hub, hub) for hub in hubs)}"
        )
    return list(dict.fromkeys(found))


def _changes(
    signed: pd.DataFrame, expression: Expression, gene_ids: np.ndarray, *, sources: Sequence[str], kind: str
) -> dict[str, float]:
    """Return the change of every source that regulates something here and is expressed."""
    group = signed["group"].iloc[0]
    regulating = [source for source in sources if source in set(signed["source"])]
    changes = expression_change(expression, gene_ids, genes=regulating, kind=kind)
    moved = {source: change for source, change in changes.items() if change != 0}
    idle = [source for source in sources if source not in moved]
    if idle:
        logger.warning(
            "group %r: nothing to propagate from %s (no outgoing edge, or not expressed)",
            group, first_symbols(idle),
        )  # fmt: skip
    return moved
