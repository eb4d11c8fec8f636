"""From a file of cells to its edge table: open, rank, score, write."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from geneformer_grn._runtime import library_versions, logger
from geneformer_grn.cells.ranking import rank_cells
from geneformer_grn.network.edges import check_destination, write_edges
from geneformer_grn.workflows.cells import OpenSettings, open_cells
from geneformer_grn.workflows.network import NetworkResult, NetworkSettings, score_network

if TYPE_CHECKING:
    from anndata import AnnData


def network_of_cells(
    source: Path | str | AnnData, *, settings: NetworkSettings, opening: OpenSettings
) -> NetworkResult:
    """Read cells and score their networks; the model is loaded only for attention.

    Parameters
    ----------
    source
        A file, or an AnnData.
    settings, opening
        How networks are scored; which model reads the cells and how.

    Raises
    ------
    FileNotFoundError, ValueError
        See `geneformer_grn.workflows.cells.open_cells` and `score_network`.
    """
    with_model = "attention" in settings.methods
    cells = open_cells(source, opening, with_model=with_model)
    ranked = rank_cells(cells.counts, cells.vocabulary) if with_model else None
    return score_network(
        cells.counts, cells.vocabulary, settings=settings, encoder=cells.encoder, ranked=ranked,
        labels=cells.labels, groups_column=opening.groups,
    )  # fmt: skip


def network_of_file(
    source: Path | str, out: Path, *, settings: NetworkSettings, opening: OpenSettings, seed: int = 0
) -> NetworkResult:
    """Score the networks of a file and write the edge table, its universe and parameters beside it.

    Nothing here is random; `seed` is recorded.

    Raises
    ------
    FileNotFoundError, PermissionError, ValueError
        The input or the destination is wrong; nothing is written then.
    """
    check_destination(out)
    result = network_of_cells(source, settings=settings, opening=opening)
    settled = result.universe.settings | {
        "file": Path(source).name,
        "seed": seed,
        "versions": library_versions(),
    }
    write_edges(result.edges, out, universe=replace(result.universe, settings=settled))
    logger.info("wrote %d edges to %s", len(result.edges), out)
    return result
