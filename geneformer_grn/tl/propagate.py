"""``gg.tl.propagate``: what perturbations do downstream, along the edges of an AnnData."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from geneformer_grn._runtime import package_version

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from geneformer_grn.genes.mapping import Species


def propagate(
    adata: AnnData,
    sources: str | Sequence[str],
    *,
    edges: pd.DataFrame | None = None,
    groups: str | None = None,
    kind: Literal["delete", "overexpress"] = "delete",
    method: Literal["iterated", "linear", "walk", "clamped", "covariance", "ordered", "rerank"] = "iterated",
    n_hops: int = 3,
    regulators: Sequence[str] | None = None,
    seed: int = 0,
    model: str | Path = "mini",
    device: str = "auto",
    layer: str | None = None,
    gene_column: str | None = None,
    counts_column: str | None = None,
    allow_normalised: bool = False,
    sum_duplicates: bool = False,
    drop_empty: bool = False,
    species: Species = "human",
) -> None:
    """Refit edges to the cells of `adata` and follow each source's change through them, in place.

    Parameters
    ----------
    adata
        Cells with raw counts.
    sources
        Symbols or Ensembl IDs (a list, or text with commas), each perturbed on its own.
    edges
        Edge table; None: ``uns["geneformer_edges"]``, written by `gg.tl.network`.
    groups
        obs column of the edges' groups; None: the one `gg.tl.network` was given.
    kind, method, n_hops
        See `geneformer_grn.workflows.propagation.propagate_cells`.
    regulators, seed
        Of ``ordered``: genes that may regulate (None: the sources of the edges), and the seed of its halves
        (``rerank`` draws its cells by it).
    model
        Whose vocabulary reads the cells; its weights are used by ``rerank`` alone.
    device
        Where ``rerank`` runs it.
    layer, gene_column, counts_column, allow_normalised, sum_duplicates, drop_empty, species
        How the counts are read; see `geneformer_grn.cells.counts.ReadSettings`.

    Returns
    -------
    None
        Writes ``uns["geneformer_propagated"]`` (``source``, ``gene``, ``group``, ``hop``, ``effect`` in mean
        log-normalised expression, symbols), ``uns["geneformer_signed_edges"]`` (the refitted edges;
        none for ``ordered`` and ``rerank``, whose effects are in ranks) and
        ``uns["geneformer_grn"]["propagate"]``.

    Raises
    ------
    ValueError
        There are no edges, a source is not in them, or a group has no cells.

    Examples
    --------
    >>> gg.tl.propagate(adata, ["SPI1"], groups="cell_type")  # doctest: +SKIP
    """
    from geneformer_grn.cells.counts import ReadSettings
    from geneformer_grn.network.edges import check_edges
    from geneformer_grn.network.propagation import PropagationSettings
    from geneformer_grn.workflows.cells import OpenSettings, open_cells
    from geneformer_grn.workflows.perturb import split_names
    from geneformer_grn.workflows.propagation import PropagateRequest, find_sources, propagate_opened

    earlier: dict[str, Any] = adata.uns.get("geneformer_grn", {})
    if edges is None:
        if "geneformer_edges" not in adata.uns:
            raise ValueError(
                "there are no edges to propagate along; run gg.tl.network(adata), or pass edges="
            )
        edges = adata.uns["geneformer_edges"]
        groups = groups or earlier.get("network", {}).get("groups") or None
    table = check_edges(edges)
    names = split_names(sources)
    read = ReadSettings(
        layer=layer,
        gene_column=gene_column,
        counts_column=counts_column,
        allow_normalised=allow_normalised,
        sum_duplicates=sum_duplicates,
        drop_empty=drop_empty,
        species=species,
    )
    request = PropagateRequest(
        sources=tuple(find_sources(names, table)),
        kind=kind,
        settings=PropagationSettings(method=method, n_hops=n_hops, seed=seed),
        regulators=None if regulators is None else tuple(regulators),
    )
    opening = OpenSettings(model=model, device=device, groups=groups, read=read)
    cells = open_cells(adata, opening, with_model=method == "rerank")
    result = propagate_opened(table, cells, request, sources=request.sources)
    adata.uns["geneformer_propagated"] = result.effects
    adata.uns["geneformer_signed_edges"] = result.edges
    provenance = {
        "package_version": package_version(),
        "vocabulary_fingerprint": cells.vocabulary.fingerprint,
        "sources": list(names),
        "groups": groups or "",
        "kind": kind,
        "method": method,
        "n_hops": n_hops,
        "seed": seed,
    }
    adata.uns["geneformer_grn"] = {**earlier, "propagate": provenance}
