"""An explanation written into an AnnData, each part in its scverse place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from geneformer_grn._runtime import Precision
from geneformer_grn.cells.counts import ReadSettings, read_counts
from geneformer_grn.cells.matching import map_identifiers
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.workflows.explain import explain_counts
from geneformer_grn.workflows.explain_options import ExplainOptions
from geneformer_grn.workflows.run_record import flat

if TYPE_CHECKING:
    from anndata import AnnData

    from geneformer_grn.model.heads import Finetuned


def explain_adata(
    adata: AnnData,
    models: Sequence[str | Path | Finetuned],
    options: ExplainOptions,
    reading: ReadSettings,
    *,
    device: str = "auto",
    precision: Precision = "fp32",
) -> pd.DataFrame:
    """Explain the cells of an AnnData, in place; see ``gg.tl.explain`` for what is written where.

    Parameters
    ----------
    adata
        Cells with raw counts.
    models
        Fine-tuned models, or folders of them.
    options, reading
        What to do, and how counts are read.
    device, precision
        Where and how models of folders run.

    Returns
    -------
    The driver genes.

    Raises
    ------
    FileNotFoundError, ValueError
        As `geneformer_grn.workflows.explain.explain_counts`.
    """
    from geneformer_grn.model.head_files import load_finetuned

    loaded: list[Finetuned] = [
        load_finetuned(model, device=device, precision=precision) if isinstance(model, str | Path) else model
        for model in models
    ]
    if not loaded:
        raise ValueError("nothing to explain: name a fine-tuned model")
    vocabulary = loaded[0].encoder.vocabulary
    found = explain_counts(loaded, read_counts(adata, vocabulary, reading), options)
    first = found.drivers[found.drivers["method"] == options.methods[0]]
    adata.varm["geneformer_drivers"] = _by_gene(adata, first, vocabulary, reading)
    stored: dict[str, Any] = {
        "record": flat(found.record),
        **{name: _storable(getattr(found, name)) for name in ("drivers", "deletion", "agreement", "cells")},
    }
    adata.uns["geneformer_grn"] = {**adata.uns.get("geneformer_grn", {}), "explain": stored}
    return found.drivers


def _by_gene(
    adata: AnnData, drivers: pd.DataFrame, vocabulary: GeneVocabulary, reading: ReadSettings
) -> pd.DataFrame:
    """Return the scores ``(n_vars, n_classes)`` of one method by the AnnData's own gene names."""
    # Duplicates were judged by read_counts; with layer="raw" the gene column is one of adata.raw.
    column = None if reading.layer == "raw" else reading.gene_column
    tokens = map_identifiers(
        adata.var, vocabulary, gene_column=column, sum_duplicates=True,
        mapped="map_genes" in adata.uns.get("geneformer_grn", {}), species=reading.species,
        name="the AnnData",
    )[0].tokens  # fmt: skip
    scores = drivers.pivot(index="gene", columns="class", values="score").reindex(vocabulary.ensembl_ids)
    table = scores.reset_index(drop=True).reindex(tokens).set_index(adata.var_names)
    return table.rename_axis(columns=None)


def _storable(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table as an h5ad holds it: a plain index of text, as AnnData asks."""
    return table.set_axis(table.index.astype(str), axis=0)
