"""From a file of cells to its edge table: open, rank, score, compare, write."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geneformer_grn._runtime import library_versions, logger, write_json
from geneformer_grn.cells.counts import log_normalised
from geneformer_grn.cells.ranking import rank_cells
from geneformer_grn.network.edges import check_destination, write_edges, write_table
from geneformer_grn.network.truth import Truth, read_truth
from geneformer_grn.report.network_page import check_page, write_network_page
from geneformer_grn.workflows.cells import OpenedCells, OpenSettings, open_cells
from geneformer_grn.workflows.grouping import UNLABELLED, column_labels
from geneformer_grn.workflows.network import NetworkResult, score_groups, with_symbols
from geneformer_grn.workflows.network_differences import compare_groups, group_pair, split_groups
from geneformer_grn.workflows.network_scorers import NetworkCells
from geneformer_grn.workflows.network_settings import NetworkSettings

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True, kw_only=True)
class NetworkExtras:
    """What is done beside scoring.

    Parameters
    ----------
    truth
        Table of known edges: all methods are scored against it, and ``combined`` learns from it.
    circular
        Why that table is not independent of expression, if so.
    within
        obs column of states; within a group, pairs are scored in each state alone and averaged.
    compare
        Two groups, or ``A,B``: which edges change between them.
    n_splits
        Of that comparison, see `geneformer_grn.network.differences.edge_differences`.
    """

    truth: Path | str | None = None
    circular: str = ""
    within: str | None = None
    compare: tuple[str, str] | str | None = None
    n_splits: int = 50


def network_of_cells(
    source: Path | str | AnnData,
    *,
    settings: NetworkSettings,
    opening: OpenSettings,
    extras: NetworkExtras | None = None,
) -> NetworkResult:
    """Read cells and score their networks; the model is loaded only where a method reads it.

    Parameters
    ----------
    source
        A file, or an AnnData.
    settings, opening, extras
        How networks are scored; which model reads the cells and how; what is done beside it.

    Raises
    ------
    FileNotFoundError, ValueError
        See `geneformer_grn.workflows.cells.open_cells`, `geneformer_grn.network.truth.read_truth`,
        `geneformer_grn.workflows.network.score_groups` and
        `geneformer_grn.workflows.network_differences.compare_groups`.
    """
    extras = extras or NetworkExtras()
    truth: Truth | None = None
    if extras.truth is not None:
        truth = read_truth(extras.truth, circular=extras.circular)
    opened = open_cells(source, opening, with_model=settings.needs_model)
    compare = None
    if extras.compare is not None:
        named = extras.compare
        compare = split_groups(named, opened.labels) if isinstance(named, str) else named
        group_pair(opened.labels, compare, min_cells=settings.min_cells)
    cells = _cells(opened, within=extras.within)
    result = score_groups(
        cells, settings=settings, labels=opened.labels, groups_column=opening.groups, truth=truth
    )
    if truth is not None:
        result.universe.settings["truth"] = truth.name
    result.universe.settings["within"] = extras.within
    result.universe.settings["cells"] = opening.n_cells
    if compare is None or opened.labels is None:
        return result
    token_of = opened.vocabulary.token_of
    regulators, targets = (
        np.array([token_of[gene] for gene in genes], dtype=np.int64)
        for genes in (result.universe.regulators, result.universe.targets)
    )
    differences = compare_groups(
        cells, opened.labels, compare,
        genes=(regulators, targets), methods=result.universe.settings["methods"],
        settings=settings, n_splits=extras.n_splits,
    )  # fmt: skip
    result.universe.settings["compare"] = {"groups": compare, "n_splits": extras.n_splits}
    return replace(result, differences=with_symbols(differences, opened.vocabulary))


def network_of_file(
    source: Path | str,
    out: Path,
    *,
    settings: NetworkSettings,
    opening: OpenSettings,
    extras: NetworkExtras | None = None,
    page: Path | None = None,
) -> NetworkResult:
    """Score the networks of a file and write the edge table, its universe and parameters beside it.

    With a truth also ``<name>.card.json``, the scores of all methods; with two groups compared also
    ``<name>.differences.tsv``; the edges as an interactive page where `page` says so.

    Raises
    ------
    FileNotFoundError, PermissionError, ValueError
        The input or the destination is wrong; nothing is written then.
    """
    check_destination(out)
    if page is not None:
        check_page(page)
    result = network_of_cells(source, settings=settings, opening=opening, extras=extras)
    settled = result.universe.settings | {"file": Path(source).name, "versions": library_versions()}
    write_edges(result.edges, out, universe=replace(result.universe, settings=settled))
    logger.info("wrote %d edges to %s", len(result.edges), out)
    if result.card is not None:
        write_json(beside(out, "card.json"), result.card)
    if result.differences is not None:
        changed = beside(out, "differences.tsv")
        write_table(result.differences, changed)
        n_sure = int((result.differences["q_value"] < 0.05).sum())
        logger.info("wrote %d differences to %s, %d with q < 0.05", len(result.differences), changed, n_sure)
    if page is not None:
        write_network_page(result.edges, page, title=f"Gene network of {Path(source).name}")
    return result


def beside(out: Path, ending: str) -> Path:
    """Return the path of a file that belongs to a table: ``edges.tsv.gz`` -> ``edges.card.json``."""
    return out.with_name(f"{out.name.removesuffix('.gz').removesuffix('.tsv')}.{ending}")


def _cells(opened: OpenedCells, *, within: str | None) -> NetworkCells:
    states = None
    if within is not None:
        states = column_labels(opened.counts.obs, within)
        states = np.where(states == UNLABELLED, "", states)  # cells of no state are left out
    ranked = rank_cells(opened.counts, opened.vocabulary) if opened.encoder is not None else None
    return NetworkCells(
        expression=log_normalised(opened.counts), counts=opened.counts, vocabulary=opened.vocabulary,
        encoder=opened.encoder, ranked=ranked, states=states,
    )  # fmt: skip
