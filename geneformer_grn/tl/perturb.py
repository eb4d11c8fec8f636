"""``gg.tl.perturb``: in-silico perturbation over an AnnData."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from geneformer_grn.workflows.perturb_options import NULL_GENES

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

    from geneformer_grn.genes.mapping import Species
    from geneformer_grn.model.encoder import Encoder


def perturb(
    adata: AnnData,
    genes: Sequence[str] | str,
    model: str | Path | Encoder = "mini",
    *,
    kind: str = "delete",
    quartiles: int = 1,
    together: bool = False,
    pairs: bool = False,
    anchor: str | None = None,
    groups: str | None = None,
    states: str | None = None,
    start: str | None = None,
    goal: str | None = None,
    alternatives: Sequence[str] = (),
    readouts: Sequence[str] | None = None,
    donors: str | None = None,
    statistics: Sequence[str] | str = (),
    encoder_layer: int = -1,
    pooling: Literal["mean", "cls"] | None = None,
    n_null: int = NULL_GENES,
    null_cells: int = 10,
    max_passes: int | None = None,
    keep_cells: bool = False,
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
    """Perturb genes in silico and say how far the cells move, next to genes of the same rank.

    Parameters
    ----------
    adata
        Cells with raw counts.
    genes
        Symbols or Ensembl IDs (a list, or text with commas), ``"all"`` or ``"regulators"``.
    model
        A shipped name, a checkpoint folder, a Hugging Face id on disk, or an encoder loaded before.
    kind
        ``delete``: remove the gene, later ones move up; ``knockout``: hide it, none moves; ``overexpress``:
        put it in front; ``inhibit``, ``activate``: move it down or up the ranking. All but ``overexpress``
        leave out cells without the gene.
    quartiles
        How many quartiles of the ranking ``inhibit`` and ``activate`` move a gene, 1 to 3, to the middle of
        the quartile reached.
    together
        Perturb the genes as one set.
    pairs
        Perturb each gene, and all pairs of them; the readout ``interaction`` is the pair's shift minus the
        sum of the shifts of its genes, in the same cells.
    anchor
        A gene to perturb alone and together with each of `genes`; the readout ``beyond_anchor`` is their
        shift minus that of the anchor alone, in the same cells. Of `together`, `pairs` and `anchor`, one.
    groups
        obs column of cell groups.
    states, start, goal, alternatives
        obs column of cell states, and its values to start from and to measure towards. Only cells in the
        start state are perturbed then.
    readouts
        Of ``cell``, ``state``, ``genes``, ``expression``; None: ``cell``, with states also ``state``.
    donors
        obs column of donors: intervals are then over donors and the cells within them.
    statistics
        ``reference``: the reference method's statistics too, in tables of their own.
    encoder_layer
        0 is the last layer, -1 the one before.
    pooling
        ``mean`` over genes or ``cls``; None: as the reference does for the model's vocabulary.
    n_null, null_cells
        Null genes per perturbed gene (0: no p-values), and cells each is perturbed in.
    max_passes
        Upper bound on passes through the model.
    keep_cells
        Also keep the table with a row per cell, gene and readout, ``["cell_shifts"]``, which
        `geneformer_grn.perturbation.position.position_shift` compares. Large where many genes are perturbed.
    n_cells
        Use a random sample of at most this many cells.
    layer, gene_column, counts_column, allow_normalised, sum_duplicates, drop_empty, species
        How the counts are read; see `geneformer_grn.cells.counts.ReadSettings`.
    device, precision, token_budget
        How the model runs. ``bf16`` is refused where it changes shifts by more than 5 % of the median effect,
        measured on a sample of these passes.
    seed
        Seed of everything random.

    Returns
    -------
    The effects table: ``gene``, ``kind``, ``group``, ``readout``, ``state``, ``shift`` (``1 - cosine``;
    with states the difference of cosines), ``n_cells``, ``ci_low``, ``ci_high``, ``p_value``, ``q_value``,
    ``n_null``, and ``excess`` with its interval: the shift beyond that of matched genes. Written to
    ``adata.uns["geneformer_grn"]["perturb"]["effects"]`` with the parameters beside it, with the readouts
    ``genes`` and ``expression`` the tables ``["gene_shifts"]`` and ``["expression"]``, and the reference's
    statistics as ``["reference_*"]``.

    Raises
    ------
    ValueError
        No known gene, no raw counts, an unknown column, state, kind, anchor or model, or ways of combining
        genes that exclude each other.

    Notes
    -----
    A cell is not a replicate: the interval says how well the mean is known in these cells; the p-value
    compares with genes of the same rank. Theodoris et al. (2023), Nature 618.

    Examples
    --------
    >>> import geneformer_grn as gg  # doctest: +SKIP
    >>> gg.tl.perturb(adata, ["CD74"], groups="cell_type")  # doctest: +SKIP
    """
    from geneformer_grn.cells.counts import ReadSettings, read_counts
    from geneformer_grn.tl._encoder import encoder_of
    from geneformer_grn.workflows.perturb import (
        PerturbOptions,
        parse_genes,
        perturb_counts,
        split_names,
    )

    options = PerturbOptions(
        genes=parse_genes(genes),
        kind=kind,
        quartiles=quartiles,
        together=together,
        pairs=pairs,
        anchor=anchor,
        groups=groups,
        states=states,
        start=start,
        goal=goal,
        alternatives=split_names(alternatives),
        readouts=None if readouts is None else split_names(readouts),
        donors=donors,
        statistics=split_names(statistics),
        n_null=n_null,
        null_cells=null_cells,
        max_passes=max_passes,
        encoder_layer=encoder_layer,
        pooling=pooling,
        token_budget=token_budget,
        seed=seed,
    )
    encoder = encoder_of(model, device=device, precision=precision)
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
    result = perturb_counts(encoder, counts, options)
    tables = {
        "effects": result.effects,
        "cell_shifts": result.cells if keep_cells else None,
        "gene_shifts": result.gene_shifts,
        "expression": result.expression,
        **{f"reference_{name}": table for name, table in result.reference.items()},
    }
    stored = {**result.record, **{name: table for name, table in tables.items() if table is not None}}
    adata.uns["geneformer_grn"] = {**adata.uns.get("geneformer_grn", {}), "perturb": stored}
    return result.effects
