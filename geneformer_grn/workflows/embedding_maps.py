"""UMAP and t-SNE of the embeddings that ``evaluate embeddings`` scores: as a figure, and in the cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geneformer_grn._runtime import atomic_path
from geneformer_grn.workflows.evaluate_embeddings import TITLES, EmbeddedCells, EvaluateEmbeddingsSettings

if TYPE_CHECKING:
    from anndata import AnnData


def write_maps(
    cells: Path | str | AnnData,
    embedded: EmbeddedCells,
    results: dict[str, Any],
    settings: EvaluateEmbeddingsSettings,
    *,
    figure: Path | str | None,
    h5ad: Path | str | None,
) -> None:
    """Draw and store a UMAP and a t-SNE of every embedding."""
    maps = {name: cell_maps(values, seed=settings.seed) for name, values in embedded.embeddings.items()}
    if figure is not None:
        from geneformer_grn.report.drawing import to_png, to_svg
        from geneformer_grn.report.embedding_figures import embedding_maps_figure

        drawn = embedding_maps_figure(
            {TITLES[name]: found["umap"] for name, found in maps.items()},
            {TITLES[name]: found["tsne"] for name, found in maps.items()},
            embedded.data.labels, embedded.data.batches,
        )  # fmt: skip
        content = to_png(drawn) if Path(figure).suffix == ".png" else to_svg(drawn).encode()
        with atomic_path(figure) as temporary:
            temporary.write_bytes(content)
    if h5ad is None:
        return
    from geneformer_grn.cells.opening import read_anndata

    whole = read_anndata(Path(cells), settings.read.layer) if isinstance(cells, str | Path) else cells
    stored = whole[embedded.rows].copy()
    for name, values in embedded.embeddings.items():
        stored.obsm[f"X_{name}"] = values
        stored.obsm[f"X_umap_{name}"], stored.obsm[f"X_tsne_{name}"] = maps[name]["umap"], maps[name]["tsne"]
    stored.uns["integration_total"] = {name: row["total"] for name, row in results["scores"].items()}
    with atomic_path(h5ad) as temporary:
        stored.write_h5ad(temporary)


def cell_maps(embedding: np.ndarray, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Return ``umap`` and ``tsne`` of an embedding by scanpy at its defaults, each ``(n, 2)`` float32."""
    import warnings

    import anndata
    import scanpy

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of umap's and scanpy's own making: fixed seeds mean one thread
        adata = anndata.AnnData(np.asarray(embedding, dtype=np.float32))
        scanpy.pp.neighbors(adata, use_rep="X", random_state=seed)
        scanpy.tl.umap(adata, random_state=seed)
        perplexity = min(30.0, (len(embedding) - 1) / 3)
        scanpy.tl.tsne(adata, use_rep="X", perplexity=perplexity, random_state=seed)
    return {
        "umap": np.asarray(adata.obsm["X_umap"], dtype=np.float32),
        "tsne": np.asarray(adata.obsm["X_tsne"], dtype=np.float32),
    }
