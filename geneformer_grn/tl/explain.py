"""``gg.tl.explain``: the genes that drive each class of a fine-tuned model, written into an AnnData."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

    from geneformer_grn.genes.mapping import Species
    from geneformer_grn.model.heads import Finetuned


def explain(
    adata: AnnData,
    model: str | Path | Finetuned | Sequence[str | Path | Finetuned],
    label: str | None = None,
    *,
    task: str | None = None,
    classes: Sequence[str] = (),
    methods: Sequence[str] = ("integrated_gradients",),
    n_cells: int = 200,
    baseline: Literal["mask", "pad"] = "mask",
    kind: Literal["delete", "knockout"] = "delete",
    n_top: int = 50,
    donors: str | None = None,
    layer: str | None = None,
    gene_column: str | None = None,
    counts_column: str | None = None,
    allow_normalised: bool = False,
    sum_duplicates: bool = False,
    drop_empty: bool = False,
    species: Species = "human",
    device: str = "auto",
    precision: Literal["fp32", "bf16"] = "fp32",
    token_budget: int = 16_384,
    seed: int = 0,
) -> pd.DataFrame:
    """Find the genes that drive each class of a fine-tuned model, and whether losing them matters to it.

    Parameters
    ----------
    adata
        Cells with raw counts; best ones that the model did not learn from.
    model
        Folder of a fine-tuned model, or one loaded before; several where they are folds of one task.
    label
        obs column of the classes; None: what the model predicts.
    task
        Head to explain, where the model has several.
    classes
        Classes to explain; empty: all.
    methods
        Of ``integrated_gradients`` (needs captum), ``gradient_x_input``, ``attention`` and ``occlusion``.
    n_cells
        At most so many cells are explained, equally many of each class.
    baseline
        Integrated gradients: the token that stands in every gene's place in the cell that says nothing.
    kind
        How genes are taken away: ``delete`` or ``knockout``.
    n_top
        Length of the lists that are compared.
    donors
        obs column: intervals of the deletion curve are then over donors.
    layer, gene_column, counts_column, allow_normalised, sum_duplicates, drop_empty, species
        How the counts are read; see `geneformer_grn.cells.reading.ReadSettings`.
    device, precision, token_budget
        How the models run; of no meaning for one that is loaded.
    seed
        Seed of everything random.

    Returns
    -------
    The driver genes, a row per method, class and gene, the largest score first. Written to
    ``adata.uns["geneformer_grn"]["explain"]``: ``drivers``, ``deletion`` (the deletion curves),
    ``agreement``, ``cells`` and the record. ``adata.varm["geneformer_drivers"]`` holds the scores of the
    first method, ``(n_vars, n_classes)``, NaN for genes that no explained cell of the class holds.

    Raises
    ------
    FileNotFoundError
        There is no such folder, or it holds no fine-tuned model.
    ModuleNotFoundError
        Integrated gradients without captum.
    ValueError
        No such column, task, method or class, or no cell of a class.

    Examples
    --------
    >>> import geneformer_grn as gg
    >>> drivers = gg.tl.explain(adata, "runs/cell_type/model", "cell_type")  # doctest: +SKIP
    >>> drivers.query("rank <= 3")[["class", "gene_symbol", "score"]]  # doctest: +SKIP
    """
    from pathlib import Path

    from geneformer_grn.cells.reading import ReadSettings
    from geneformer_grn.explanation.settings import AttributionSettings, DeletionSettings
    from geneformer_grn.model.heads import Finetuned
    from geneformer_grn.workflows.explain import ExplainOptions
    from geneformer_grn.workflows.explain_adata import explain_adata

    asked = ExplainOptions(
        label=label,
        task=task,
        classes=tuple(classes),
        methods=tuple(methods),
        n_cells=n_cells,
        n_top=n_top,
        donors=donors,
        attribution=AttributionSettings(baseline=baseline, occlusion=kind, token_budget=token_budget),
        deletion=DeletionSettings(kind=kind, token_budget=token_budget, seed=seed),
        seed=seed,
    )
    reading = ReadSettings(
        layer=layer,
        gene_column=gene_column,
        counts_column=counts_column,
        allow_normalised=allow_normalised,
        sum_duplicates=sum_duplicates,
        drop_empty=drop_empty,
        species=species,
    )
    models = [model] if isinstance(model, str | Path | Finetuned) else list(model)
    return explain_adata(adata, models, asked, reading, device=device, precision=precision)
