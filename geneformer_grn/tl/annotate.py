"""``gg.tl.annotate``: labels for an AnnData from annotated cells or a fine-tuned model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from anndata import AnnData

    from geneformer_grn.model.encoder import Encoder


def annotate(
    adata: AnnData,
    reference: AnnData | str | Path,
    label: str,
    model: str | Path | Encoder | None = "mini",
    *,
    donors: str | None = None,
    features: Literal["auto", "expression", "model", "both"] = "auto",
    unknown: float = 0.05,
    min_probability: float = 0.5,
    folds: int = 5,
    max_reference: int = 10_000,
    layer: str | None = None,
    gene_column: str | None = None,
    reference_layer: str | None = None,
    reference_gene_column: str | None = None,
    device: str = "auto",
    seed: int = 0,
) -> None:
    """Label the cells of `adata`, in place.

    Parameters
    ----------
    adata
        Cells with raw counts.
    reference
        Labelled cells with raw counts (AnnData or file), or the folder of a fine-tuned model.
    label
        obs column of the reference; name of the task of a fine-tuned model.
    model
        Whose embeddings may be used beside expression; None: expression alone.
    donors
        obs column of the reference: held-out parts are then whole donors.
    features
        ``auto`` takes what predicts held-out reference cells best.
    unknown
        Share of held-out reference cells that may be called unknown; 0: every cell gets a label.
    min_probability
        With a fine-tuned model, cells below it are unknown.
    folds
        Parts that the reference is cut into.
    max_reference
        Reference cells used at most; large classes are thinned first.
    layer, gene_column, reference_layer, reference_gene_column
        Where the counts and gene identifiers are, of `adata` and of the reference.
    device
        Where the model runs.
    seed
        Of folds, samples and fits.

    Returns
    -------
    None
        Writes ``obs["predicted_<label>"]`` (categorical; ``unknown``: unlike the reference, or not read),
        ``obs["probability_<label>"]`` (calibrated, of the best class), ``obsm["probabilities_<label>"]``
        (DataFrame, a column per class) and ``uns["geneformer_grn"]["annotate"]`` (what was chosen, how well
        held-out reference cells were predicted, how many cells of a class were called unknown when the
        reference lacked the class).

    Raises
    ------
    FileNotFoundError, ValueError
        Files cannot be read, share too few genes, or the reference holds too few labels.

    Examples
    --------
    >>> gg.tl.annotate(adata, "labelled.h5ad", "cell_type")  # doctest: +SKIP
    >>> adata.obs["predicted_cell_type"].value_counts()  # doctest: +SKIP
    """
    from geneformer_grn.cells.reading import ReadSettings
    from geneformer_grn.evaluation.annotation import AnnotationSettings
    from geneformer_grn.workflows.annotate import AnnotateOptions, annotate_adata
    from geneformer_grn.workflows.embed import ModelSettings

    options = AnnotateOptions(
        label=label, donors=donors, max_reference=max_reference, min_probability=min_probability,
        read=ReadSettings(layer=layer, gene_column=gene_column),
        read_reference=ReadSettings(
            layer=reference_layer, gene_column=reference_gene_column, drop_empty=True
        ),
        run=ModelSettings(device=device),
    )  # fmt: skip
    settings = AnnotationSettings(features=features, folds=folds, unknown=unknown, seed=seed)
    annotate_adata(adata, reference, options, model=model, settings=settings)
