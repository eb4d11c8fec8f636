"""``gg.tl.embed``: cell and gene embeddings of an AnnData."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from geneformer_grn._runtime import Precision

if TYPE_CHECKING:
    from anndata import AnnData

    from geneformer_grn.genes.mapping import Species
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
    species: Species = "human",
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
    layer, gene_column, counts_column, allow_normalised, sum_duplicates, drop_empty, species
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
    from geneformer_grn.cells.counts import ReadSettings
    from geneformer_grn.embedding import EmbedSettings
    from geneformer_grn.workflows.embed import ModelSettings, embed_adata

    read = ReadSettings(
        layer=layer,
        gene_column=gene_column,
        counts_column=counts_column,
        allow_normalised=allow_normalised,
        sum_duplicates=sum_duplicates,
        drop_empty=drop_empty,
        species=species,
    )
    settings = EmbedSettings(pooling=pooling, encoder_layer=encoder_layer, token_budget=token_budget)
    embed_adata(adata, model, settings, read=read, run=ModelSettings(device=device, precision=precision))
