"""``gg.pp``: prepare the cells of an AnnData - name their genes, rank them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from geneformer_grn._runtime import package_version

if TYPE_CHECKING:
    from anndata import AnnData

    from geneformer_grn.cells.ranking import RankedCells
    from geneformer_grn.genes.mapping import Species
    from geneformer_grn.genes.vocabulary import GeneVocabulary

__all__ = ["map_genes", "rank"]


def map_genes(
    adata: AnnData,
    model: str | Path | GeneVocabulary = "mini",
    *,
    gene_column: str | None = None,
    species: Species = "human",
) -> None:
    """Name the genes of `adata` by the Ensembl IDs that a model knows, in place.

    Parameters
    ----------
    adata
        Cells; genes named by Ensembl IDs (with or without version), symbols or both.
    model
        Whose genes: a shipped name, a checkpoint folder, a Hugging Face id on disk, or a vocabulary.
    gene_column
        var column with the identifiers (``index``: var_names); None: found by content.
    species
        ``mouse``: they are mouse genes, to be named by their one-to-one human orthologs.

    Returns
    -------
    None
        Writes ``var["ensembl_id"]`` (empty for genes that the model does not know; several rows of one gene
        have one ID, and their counts are summed on reading) and ``uns["geneformer_grn"]["map_genes"]``
        (version, vocabulary fingerprint, genes matched and lost).

    Raises
    ------
    ValueError
        No gene is known, or `gene_column` is not there.

    Examples
    --------
    >>> import geneformer_grn as gg
    >>> gg.pp.map_genes(adata)  # doctest: +SKIP
    >>> adata.var["ensembl_id"].iloc[0]  # doctest: +SKIP
    'ENSG00000010610'
    """
    import numpy as np

    from geneformer_grn.cells.matching import map_identifiers

    if adata.isbacked and adata.is_view:
        raise ValueError("a view of a backed AnnData cannot be written to; pass adata.to_memory()")
    vocabulary = _vocabulary(model)
    mapping, identifiers = map_identifiers(
        adata.var,
        vocabulary,
        gene_column=gene_column,
        sum_duplicates=True,
        mapped="map_genes" in adata.uns.get("geneformer_grn", {}),
        species=species,
        name="the AnnData",
    )
    known = mapping.tokens >= 0
    adata.var["ensembl_id"] = np.where(known, vocabulary.ensembl_ids[mapping.tokens], "").astype(str)
    adata.uns["geneformer_grn"] = {
        **adata.uns.get("geneformer_grn", {}),
        "map_genes": {
            "package_version": package_version(),
            "vocabulary_fingerprint": vocabulary.fingerprint,
            "identifiers": identifiers,
            "n_matched": int(known.sum()),
            "n_lost": int((~known).sum()),
        },
    }


def rank(
    adata: AnnData,
    model: str | Path | GeneVocabulary = "mini",
    *,
    layer: str | None = None,
    gene_column: str | None = None,
    counts_column: str | None = None,
    allow_normalised: bool = False,
    sum_duplicates: bool = False,
    drop_empty: bool = False,
    species: Species = "human",
) -> RankedCells:
    """Rank the genes of each cell by count over non-zero median, as the model reads them.

    Parameters
    ----------
    adata
        Cells with raw counts.
    model
        Whose genes and medians: a shipped name, a checkpoint folder, a Hugging Face id on disk, or a
        vocabulary.
    layer, gene_column, counts_column, allow_normalised, sum_duplicates, drop_empty, species
        How the counts are read; see `geneformer_grn.cells.counts.ReadSettings`.

    Returns
    -------
    RankedCells
        Tokens of the cells that were read, in input order, highest rank first.
        ``uns["geneformer_grn"]["rank"]`` says which vocabulary and settings were used and how many genes and
        cells were left out (not in a view of a backed AnnData, which cannot be written to).

    Raises
    ------
    FileNotFoundError
        There is no such checkpoint.
    ValueError
        The cells cannot be read as raw counts of known genes.

    Examples
    --------
    >>> import geneformer_grn as gg
    >>> gg.pp.rank(adata).cell(0)[:3]  # doctest: +SKIP
    array([ 713, 9041,   55], dtype=uint16)
    """
    from geneformer_grn.cells.counts import ReadSettings, read_counts
    from geneformer_grn.cells.ranking import rank_cells

    vocabulary = _vocabulary(model)
    read = ReadSettings(
        layer=layer,
        gene_column=gene_column,
        counts_column=counts_column,
        allow_normalised=allow_normalised,
        sum_duplicates=sum_duplicates,
        drop_empty=drop_empty,
        species=species,
    )
    counts = read_counts(adata, vocabulary, read)
    if adata.isbacked and adata.is_view:  # which cannot be written to
        return rank_cells(counts, vocabulary)
    facts = {**asdict(read), **counts.report}
    adata.uns["geneformer_grn"] = {
        **adata.uns.get("geneformer_grn", {}),
        "rank": {
            "package_version": package_version(),
            "vocabulary_fingerprint": vocabulary.fingerprint,
            # Single values only: what every AnnData version can write.
            **{key: value for key, value in facts.items() if isinstance(value, str | bool | int | float)},
        },
    }
    return rank_cells(counts, vocabulary)


def _vocabulary(model: str | Path | GeneVocabulary) -> GeneVocabulary:
    from geneformer_grn.genes.vocabulary import GeneVocabulary

    if isinstance(model, GeneVocabulary):
        return model
    from geneformer_grn.model.folder import read_vocabulary, resolve_checkpoint

    return read_vocabulary(resolve_checkpoint(model))
