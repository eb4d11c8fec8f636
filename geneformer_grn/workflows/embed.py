"""Embeddings of an AnnData: counts read, cells ranked, the model run, results written where scverse looks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geneformer_grn._runtime import Precision, package_version
from geneformer_grn.cells.counts import ReadSettings, read_counts
from geneformer_grn.cells.matching import map_identifiers
from geneformer_grn.cells.ranking import rank_cells

if TYPE_CHECKING:
    from anndata import AnnData

    from geneformer_grn.embedding import EmbedSettings
    from geneformer_grn.model.encoder import Encoder


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Where and how a model runs; ignored where an encoder is handed in, which has its own."""

    device: str = "auto"
    precision: Precision = "fp32"


def embed_adata(
    adata: AnnData,
    model: str | Path | Encoder,
    settings: EmbedSettings,
    *,
    read: ReadSettings | None = None,
    run: ModelSettings | None = None,
    name: str | None = None,
) -> None:
    """Embed the cells and genes of `adata`, in place; see ``gg.tl.embed`` for what is written where.

    Parameters
    ----------
    adata
        Cells with raw counts.
    model
        A shipped name, a checkpoint folder, a Hugging Face id on disk, or an encoder.
    settings
        Pooling, layer and batch size.
    read
        How the counts are read.
    run
        Device and precision.
    name
        What messages call the cells; default: the AnnData.

    Raises
    ------
    FileNotFoundError, ValueError
        There is no such checkpoint, or the cells cannot be read as raw counts of known genes.
    """
    from geneformer_grn.embedding import embed_cells_and_genes
    from geneformer_grn.model.encoder import Encoder, load_encoder

    read, run = read or ReadSettings(), run or ModelSettings()
    if not isinstance(model, Encoder):
        model = load_encoder(model, device=run.device, precision=run.precision)
    if settings is not None:
        model.require_layer(settings.encoder_layer)
    vocabulary = model.vocabulary
    counts = read_counts(adata, vocabulary, read, name=name)
    cells, genes = embed_cells_and_genes(model, rank_cells(counts, vocabulary), settings)
    # Duplicates were judged by read_counts; with layer="raw" the gene column is one of adata.raw.
    column = None if read.layer == "raw" else read.gene_column
    tokens = map_identifiers(
        adata.var, vocabulary, gene_column=column, sum_duplicates=True,
        mapped="map_genes" in adata.uns.get("geneformer_grn", {}), species=read.species, name="the AnnData",
    )[0].tokens  # fmt: skip
    embedded = np.full((adata.n_obs, cells.shape[1]), np.nan, dtype=np.float32)
    embedded[counts.kept] = cells
    adata.obsm["X_geneformer"] = embedded
    adata.varm["geneformer"] = np.where(tokens[:, None] >= 0, genes[tokens], np.float32(np.nan))
    adata.uns["geneformer_grn"] = {
        **adata.uns.get("geneformer_grn", {}),
        "embed": {
            "package_version": package_version(),
            "model": model.name,
            "vocabulary_fingerprint": vocabulary.fingerprint,
            "parameters": _storable(asdict(settings) | asdict(read) | {"precision": model.precision}),
            "cells": _storable(counts.report),
        },
    }


def _storable(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the single values of `facts`: what every AnnData version can write (no None, no lists)."""
    return {key: value for key, value in facts.items() if isinstance(value, str | bool | int | float)}
