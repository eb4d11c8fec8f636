"""``gg.tl.screen``: many genes of an AnnData estimated, the top of them perturbed exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

    from geneformer_grn.genes.mapping import Species
    from geneformer_grn.model.encoder import Encoder


def screen(
    adata: AnnData,
    genes: Sequence[str] | str = "all",
    model: str | Path | Encoder = "mini",
    *,
    kind: str = "delete",
    share: float | None = None,
    audit: float = 0.05,
    effort: float = 0.125,
    groups: str | None = None,
    states: str | None = None,
    start: str | None = None,
    goal: str | None = None,
    alternatives: Sequence[str] = (),
    readouts: Sequence[str] | None = None,
    donors: str | None = None,
    encoder_layer: int = -1,
    pooling: Literal["mean", "cls"] | None = None,
    n_cells: int | None = None,
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
    """Find the genes whose loss moves the cells most, without running every gene.

    Parameters
    ----------
    adata
        Cells with raw counts.
    genes
        ``"all"``, ``"regulators"``, or symbols or Ensembl IDs.
    model
        A shipped name, a checkpoint folder, a Hugging Face id on disk, or an encoder loaded before.
    kind
        ``delete`` or ``knockout``; other kinds have no estimate, use `gg.tl.perturb`.
    share
        Share of each group's genes that is run exactly: the top of the estimate. None: as many as a third of
        the passes that running every gene takes allows, or every gene. One that is given is obeyed.
    audit
        Share of all genes, drawn at random, that is run exactly to measure the recall; 0: not measured. Its
        interval says how well: below 20 genes of the true top tenth among them it is too few to tell.
    effort
        What the estimate may cost, as a share of the passes that running every gene takes.
    states, start, goal, alternatives
        As in `gg.tl.perturb`; genes are ranked by the size of their shift towards the goal then.
    groups, readouts, donors, encoder_layer, pooling, n_cells
        As in `gg.tl.perturb`; of the readouts ``cell`` and ``state``.
    layer, gene_column, counts_column, allow_normalised, sum_duplicates, drop_empty, species
        How the counts are read; see `geneformer_grn.cells.reading.ReadSettings`.
    device, precision, token_budget
        How the model runs. Estimates are always in fp32.
    seed
        Seed of everything random.

    Returns
    -------
    One row per gene and group, the largest estimate first: ``gene``, ``group``, ``n_cells``, ``estimate``,
    ``rank``, ``listed``, ``audited`` and the exact ``shift`` where it was run. Written to
    ``adata.uns["geneformer_grn"]["screen"]["genes"]``, with the exact ``["effects"]`` (as `gg.tl.perturb`
    has them, without p-values) and the measured recall and passes in ``["found"]`` beside it.

    Raises
    ------
    ValueError
        A kind or readout that a screen does not have, or as in `gg.tl.perturb`.

    Examples
    --------
    >>> import geneformer_grn as gg  # doctest: +SKIP
    >>> gg.tl.screen(adata, kind="knockout", groups="cell_type")  # doctest: +SKIP
    """
    from geneformer_grn.cells.counts import ReadSettings, read_counts
    from geneformer_grn.model.encoder import Encoder, load_encoder
    from geneformer_grn.workflows.perturb_options import PerturbOptions, parse_genes, split_names
    from geneformer_grn.workflows.screen import ScreenOptions, screen_counts

    asked = PerturbOptions(
        genes=parse_genes(genes),
        kind=kind,
        groups=groups,
        states=states,
        start=start,
        goal=goal,
        alternatives=split_names(alternatives),
        readouts=None if readouts is None else split_names(readouts),
        donors=donors,
        n_null=0,
        encoder_layer=encoder_layer,
        pooling=pooling,
        token_budget=token_budget,
        seed=seed,
    )
    chosen = ScreenOptions(perturb=asked, share=share, audit=audit, effort=effort)
    encoder = model if isinstance(model, Encoder) else load_encoder(model, device=device, precision=precision)
    reading = ReadSettings(
        layer=layer,
        gene_column=gene_column,
        counts_column=counts_column,
        allow_normalised=allow_normalised,
        sum_duplicates=sum_duplicates,
        drop_empty=drop_empty,
        species=species,
    )
    counts = read_counts(adata, encoder.vocabulary, reading, n_cells=n_cells, seed=seed)
    found = screen_counts(encoder, counts, chosen)
    stored = {**found.record, "genes": found.genes, "effects": found.effects}
    adata.uns["geneformer_grn"] = {**adata.uns.get("geneformer_grn", {}), "screen": stored}
    return found.genes
