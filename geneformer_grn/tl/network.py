"""``gg.tl.network``: the gene network of an AnnData, per cell group and method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from geneformer_grn._runtime import Precision, package_version

if TYPE_CHECKING:
    from anndata import AnnData

    from geneformer_grn.genes.mapping import Species


def network(
    adata: AnnData,
    model: str | Path = "mini",
    *,
    methods: Sequence[str] = ("attention", "correlation"),
    groups: str | None = None,
    regulators: Sequence[str] | None = None,
    top: int = 5000,
    max_targets: int = 2000,
    min_cells: int = 20,
    layer: str | None = None,
    gene_column: str | None = None,
    counts_column: str | None = None,
    allow_normalised: bool = False,
    sum_duplicates: bool = False,
    drop_empty: bool = False,
    species: Species = "human",
    device: str = "auto",
    precision: Precision = "fp32",
    token_budget: int = 16_384,
) -> None:
    """Score regulator → target edges of `adata`, in place.

    Parameters
    ----------
    adata
        Cells with raw counts.
    model
        A shipped name, a checkpoint folder, or a Hugging Face id on disk. Its weights are read for attention
        only; its vocabulary always.
    methods
        Of ``attention`` and, from the counts alone, ``correlation``, ``spearman``, ``partial_correlation``
        (at most 5,000 genes), ``graphical_lasso`` (at most 500), ``ridge``, ``lasso`` and ``elastic_net``.
    groups
        obs column of cell groups; None: all cells are one group, ``all``.
    regulators
        Symbols or Ensembl IDs; None: the vocabulary's transcription factors.
    top, max_targets, min_cells
        See `geneformer_grn.workflows.network.NetworkSettings`.
    layer, gene_column, counts_column, allow_normalised, sum_duplicates, drop_empty, species
        How the counts are read; see `geneformer_grn.cells.counts.ReadSettings`.
    device, precision, token_budget
        Where and how the model runs; lasso and elastic net run on that device too.

    Returns
    -------
    None
        Writes ``uns["geneformer_edges"]``, the edge table (``source``, ``target`` Ensembl IDs, ``weight``
        float32, ``support`` int32, ``sign``, ``group``, ``method``, ``p_value``, ``q_value``, ``agreement``,
        symbols), and ``uns["geneformer_grn"]["network"]``: version, model, parameters, and the tables
        ``n_cells`` (``group``, ``n_cells``), ``skipped`` (the same, of groups that were too small) and
        ``agreement`` of the methods (``group``, ``method``, ``with``, ``n_pairs``, ``spearman``, ...).

    Raises
    ------
    FileNotFoundError
        There is no such checkpoint.
    ValueError
        The cells, a group column, a method or the regulators are wrong; the message says which.

    Examples
    --------
    >>> import geneformer_grn as gg
    >>> gg.tl.network(adata, groups="cell_type")  # doctest: +SKIP
    >>> gg.pl.network(adata.uns["geneformer_edges"], group="B cells", method="attention")  # doctest: +SKIP
    """
    from geneformer_grn.cells.counts import ReadSettings
    from geneformer_grn.workflows.cells import OpenSettings
    from geneformer_grn.workflows.network import NetworkSettings
    from geneformer_grn.workflows.network_file import network_of_cells

    settings = NetworkSettings(
        methods=tuple(methods),
        regulators="auto" if regulators is None else tuple(regulators),
        top=top,
        max_targets=max_targets,
        min_cells=min_cells,
        token_budget=token_budget,
        device=device,
    )
    read = ReadSettings(
        layer=layer,
        gene_column=gene_column,
        counts_column=counts_column,
        allow_normalised=allow_normalised,
        sum_duplicates=sum_duplicates,
        drop_empty=drop_empty,
        species=species,
    )
    opening = OpenSettings(model=model, device=device, precision=precision, groups=groups, read=read)
    result = network_of_cells(adata, settings=settings, opening=opening)
    adata.uns["geneformer_edges"] = result.edges
    agreement = [
        {"group": group, "method": method, **facts}
        for group, methods_of in result.agreement.items()
        for method, facts in methods_of.items()
    ]
    # Tables, since AnnData takes a "/" in a key of uns (a group CD4/CD8) for a level of nesting.
    provenance: dict[str, Any] = {
        "package_version": package_version(),
        "model": Path(model).name,
        "vocabulary_fingerprint": result.universe.settings["vocabulary"],
        "methods": list(result.universe.settings["methods"]),
        "groups": groups or "",
        "n_cells": _group_sizes(result.universe.n_cells),
        "skipped": _group_sizes(result.skipped),
        "regulators": list(result.universe.regulators),
        "targets": list(result.universe.targets),
        "top": top,
        "agreement": pd.DataFrame(agreement, columns=["group", "method"] if not agreement else None),
    }
    adata.uns["geneformer_grn"] = {**adata.uns.get("geneformer_grn", {}), "network": provenance}


def _group_sizes(sizes: dict[str, int]) -> pd.DataFrame:
    """Return group -> number of cells as a table; ``group`` str, ``n_cells`` int64."""
    return pd.DataFrame(
        {
            "group": pd.Series(list(sizes), dtype=object),
            "n_cells": pd.Series(list(sizes.values()), dtype="int64"),
        }
    )
