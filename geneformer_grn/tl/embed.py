"""``gg.tl.embed``: cell and gene embeddings of an AnnData."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from geneformer_grn._runtime import Precision, package_version

if TYPE_CHECKING:
    from anndata import AnnData

    from geneformer_grn.model.encoder import Encoder


def embed(
    adata: AnnData,
    model: str | Path | Encoder = "mini",
    *,
    encoder_layer: int = -1,
    pooling: Literal["mean", "cls"] = "mean",
    layer: str | None = None,
    gene_column: str | None = None,
    counts_column: str | None = None,
    allow_normalised: bool = False,
    sum_duplicates: bool = False,
    drop_empty: bool = False,
    device: str = "auto",
    precision: Precision = "fp32",
    token_budget: int = 16_384,
) -> None:
    """Embed the cells and genes of `adata`, in place.

    Parameters
    ----------
    adata
        Cells with raw counts.
    model
        A shipped name, a checkpoint folder, a Hugging Face id on disk, or an encoder loaded before.
    encoder_layer
        0 is the last layer, -1 (as the reference method has it) the one before.
    pooling
        Cells: ``mean`` over their genes, or the ``cls`` state.
    layer, gene_column, counts_column, allow_normalised, sum_duplicates, drop_empty
        How the counts are read; see `geneformer_grn.cells.counts.ReadSettings`.
    device, precision, token_budget
        Where and how the model runs; `device` and `precision` are those of `model` where that is an encoder.

    Returns
    -------
    None
        Writes ``obsm["X_geneformer"]`` ``(n, d)`` float32 (NaN for cells left out: ``filter_pass`` other than
        1, empty cells), ``varm["geneformer"]`` ``(n_vars, d)`` float32 (mean contextual state of each gene;
        NaN where unknown or unseen) and ``uns["geneformer_grn"]["embed"]`` (version, model, vocabulary
        fingerprint, parameters, genes matched and lost).

    Raises
    ------
    FileNotFoundError
        There is no such checkpoint.
    ValueError
        The cells cannot be read as raw counts of known genes, or a setting is wrong.

    Examples
    --------
    >>> import geneformer_grn as gg
    >>> gg.tl.embed(adata)  # doctest: +SKIP
    >>> sc.pp.neighbors(adata, use_rep="X_geneformer")  # doctest: +SKIP
    """
    import numpy as np

    from geneformer_grn.cells.counts import ReadSettings, read_counts
    from geneformer_grn.cells.matching import map_identifiers
    from geneformer_grn.cells.ranking import rank_cells
    from geneformer_grn.embedding import EmbedSettings, embed_cells_and_genes
    from geneformer_grn.model.encoder import Encoder, load_encoder

    read = ReadSettings(
        layer=layer,
        gene_column=gene_column,
        counts_column=counts_column,
        allow_normalised=allow_normalised,
        sum_duplicates=sum_duplicates,
        drop_empty=drop_empty,
    )
    settings = EmbedSettings(pooling=pooling, encoder_layer=encoder_layer, token_budget=token_budget)
    encoder = model if isinstance(model, Encoder) else load_encoder(model, device=device, precision=precision)
    vocabulary = encoder.vocabulary
    counts = read_counts(adata, vocabulary, read)
    cells, genes = embed_cells_and_genes(encoder, rank_cells(counts, vocabulary), settings)
    # Duplicates were judged by read_counts; with layer="raw" the gene column is one of adata.raw.
    column = None if layer == "raw" else gene_column
    tokens = map_identifiers(
        adata, adata.var, vocabulary=vocabulary, gene_column=column, sum_duplicates=True, name="the AnnData"
    )[0].tokens
    embedded = np.full((adata.n_obs, cells.shape[1]), np.nan, dtype=np.float32)
    embedded[counts.kept] = cells
    adata.obsm["X_geneformer"] = embedded
    adata.varm["geneformer"] = np.where(tokens[:, None] >= 0, genes[tokens], np.float32(np.nan))
    adata.uns["geneformer_grn"] = {
        **adata.uns.get("geneformer_grn", {}),
        "embed": {
            "package_version": package_version(),
            "model": encoder.name,
            "vocabulary_fingerprint": vocabulary.fingerprint,
            "parameters": _storable(asdict(settings) | asdict(read) | {"precision": encoder.precision}),
            "cells": _storable(counts.report),
        },
    }


def _storable(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the single values of `facts`: what every AnnData version can write (no None, no lists)."""
    return {key: value for key, value in facts.items() if isinstance(value, str | bool | int | float)}
