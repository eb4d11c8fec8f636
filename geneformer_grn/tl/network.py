"""``gg.tl.network``: the gene network of an AnnData, per cell group and method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from geneformer_grn._runtime import Precision, logger, package_version

if TYPE_CHECKING:
    from anndata import AnnData

    from geneformer_grn.genes.mapping import Species


def network(
    adata: AnnData,
    model: str | Path = "mini",
    *,
    methods: Sequence[str] | str = ("attention", "correlation"),
    groups: str | None = None,
    regulators: Sequence[str] | None = None,
    truth: str | Path | None = None,
    compare: tuple[str, str] | None = None,
    within: str | None = None,
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
    seed: int = 0,
    **options: Any,
) -> None:
    """Score regulator → target edges of `adata`, in place.

    Parameters
    ----------
    adata
        Cells with raw counts.
    model
        A shipped name, a checkpoint folder, or a Hugging Face id on disk. Its weights are read where a method
        needs them; its vocabulary always.
    methods
        Names, or ``all``. From the model: ``attention``, ``attention_rank_corrected``, ``attention_rollout``,
        ``attention_heads`` (each head on its own), ``embedding``, ``contextual``, ``influence``,
        ``gene_shifts``. From the counts: ``correlation``, ``spearman``, ``partial_correlation``, ``ridge``
        and the others of `geneformer_grn.network.methods.MODEL_FREE`. ``combined``: those named beside it
        (alone: a choice of them) as one ranking, learned from `truth` where there is one.
    groups
        obs column of cell groups; None: all cells are one group, ``all``.
    regulators
        Symbols or Ensembl IDs; None: the vocabulary's transcription factors.
    truth
        Table of known edges (``source``, ``target``, ``sign`` if known): scores all methods against it.
    compare
        Two groups: which edges change between them.
    within
        obs column of states; within a group, pairs are scored in each state alone and averaged.
    top, max_targets, min_cells
        See `geneformer_grn.workflows.network_settings.NetworkSettings`.
    layer, gene_column, counts_column, allow_normalised, sum_duplicates, drop_empty, species
        How the counts are read; see `geneformer_grn.cells.counts.ReadSettings`.
    device, precision, token_budget
        Where and how the model runs; lasso and elastic net run on that device too.
    seed
        Of everything random.
    **options
        Others of `NetworkSettings` (``min_support``, ``attention_heads``, ``attention_direction``,
        ``attention_correction``, ``cells_per_regulator``, ...), and ``n_splits`` of the comparison.

    Returns
    -------
    None
        Writes ``uns["geneformer_edges"]``, the edge table (``source``, ``target`` Ensembl IDs, ``weight``
        float32, ``support`` int32, ``sign``, ``group``, ``method``, ``p_value``, ``q_value``, ``agreement``,
        symbols), and ``uns["geneformer_grn"]["network"]``: version, model, parameters, and the tables
        ``n_cells`` (``group``, ``n_cells``), ``skipped`` (the same, of groups that were too small) and
        ``agreement`` of the methods (``group``, ``method``, ``with``, ``n_pairs``, ``spearman``, ...). With a
        truth there also ``card``, a table of scores (``group``, ``method``, ``auprc_ratio``, ``epr``,
        ``auroc`` and intervals, ``verdict`` beside correlation, ...), which is logged, too. With `compare`
        ``uns["geneformer_edge_differences"]``, see
        `geneformer_grn.workflows.network_differences.compare_groups`.

    Raises
    ------
    FileNotFoundError
        There is no such checkpoint.
    ValueError
        The cells, a group column, a method, the regulators or the truth are wrong; the message says which.

    Examples
    --------
    >>> import geneformer_grn as gg
    >>> gg.tl.network(adata, groups="cell_type")  # doctest: +SKIP
    >>> gg.pl.network(adata.uns["geneformer_edges"], group="B cells", method="attention")  # doctest: +SKIP
    """
    from geneformer_grn.cells.counts import ReadSettings
    from geneformer_grn.workflows.cells import OpenSettings
    from geneformer_grn.workflows.network_card import card_frame, methods_card
    from geneformer_grn.workflows.network_file import NetworkExtras, network_of_cells
    from geneformer_grn.workflows.network_settings import NetworkSettings, methods_of

    extras = NetworkExtras(truth=truth, compare=compare, within=within, n_splits=options.pop("n_splits", 50))
    settings = NetworkSettings(
        methods=methods_of(methods) if isinstance(methods, str) else tuple(methods),
        regulators="auto" if regulators is None else tuple(regulators),
        top=top,
        max_targets=max_targets,
        min_cells=min_cells,
        token_budget=token_budget,
        device=device,
        seed=seed,
        **options,
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
    result = network_of_cells(adata, settings=settings, opening=opening, extras=extras)
    adata.uns["geneformer_edges"] = result.edges
    if result.differences is not None:
        adata.uns["geneformer_edge_differences"] = result.differences
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
        "seed": seed,
        "within": within or "",
        "agreement": pd.DataFrame(agreement, columns=["group", "method"] if not agreement else None),
    }
    if result.card is not None:
        logger.info("%s", methods_card(result.card))
        provenance["truth"] = result.card["comparison"]["truth"]
        provenance["card"] = card_frame(result.card)
    adata.uns["geneformer_grn"] = {**adata.uns.get("geneformer_grn", {}), "network": provenance}


def _group_sizes(sizes: dict[str, int]) -> pd.DataFrame:
    """Return group -> number of cells as a table; ``group`` str, ``n_cells`` int64."""
    return pd.DataFrame(
        {
            "group": pd.Series(list(sizes), dtype=object),
            "n_cells": pd.Series(list(sizes.values()), dtype="int64"),
        }
    )
