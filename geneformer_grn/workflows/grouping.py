"""Cell groups: a column of the user's, or clusters of the counts named by marker genes.

Clusters are made from the counts (variable genes, principal components, Leiden), not from the model's
embedding, so that what is later said about the groups is no consequence of the model. Names come from a
short table of canonical markers and are a help to the reader, not an annotation: the note says so.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from scipy import sparse

    from geneformer_grn.cells.counts import CellCounts
    from geneformer_grn.genes.vocabulary import GeneVocabulary

UNLABELLED = "unlabelled"
_MAX_GROUPS = 100
_MIN_SCORE = 0.6  # mean standardised excess of a type's markers for its name to be given


@dataclass(frozen=True)
class Grouping:
    """A label for every cell.

    Parameters
    ----------
    labels
        ``(n,)`` str.
    source
        ``column`` or ``clusters``.
    note
        One sentence for the reader: where the labels come from.
    """

    labels: np.ndarray
    source: str
    note: str


def group_cells(
    counts: CellCounts,
    expression: sparse.csr_matrix,
    *,
    column: str | None,
    vocabulary: GeneVocabulary,
    seed: int,
) -> Grouping:
    """Label cells by an obs column, or by clusters where none is named.

    Parameters
    ----------
    counts
        The cells; `column` is looked up in ``counts.obs``.
    expression
        ``(n, genes)`` log-normalised expression, columns as in `counts`.
    column
        An obs column; missing values become the group "unlabelled". None: cluster.
    vocabulary
        Gives the columns their symbols, for naming clusters.
    seed
        Seed of the clustering.

    Raises
    ------
    ValueError
        The column does not exist, or holds more than 100 distinct values.
    """
    if column is None:
        return _clusters(counts, expression, vocabulary, seed)
    labels = column_labels(counts.obs, column)
    return Grouping(labels, "column", f"Groups are the values of the column {column!r} of the input.")


def column_labels(obs: pd.DataFrame, column: str) -> np.ndarray:
    """Return the values of an obs column as ``(n,)`` str labels.

    Raises
    ------
    ValueError
        The column does not exist, or holds more than 100 distinct values.
    """
    if column not in obs.columns:
        known = ", ".join(map(str, obs.columns)) or "none"
        raise ValueError(f"no obs column {column!r} for --groups; the file has: {known}")
    values = obs[column]
    labels = values.astype(object).where(values.notna(), UNLABELLED).astype(str).to_numpy(dtype=object)
    n_groups = len(np.unique(labels))
    if n_groups > _MAX_GROUPS:
        raise ValueError(
            f"the obs column {column!r} has {n_groups:,} distinct values, too many for cell groups (at most "
            f"{_MAX_GROUPS}); choose a column of cell types, states or donors"
        )
    return labels


def _clusters(
    counts: CellCounts, expression: sparse.csr_matrix, vocabulary: GeneVocabulary, seed: int
) -> Grouping:
    n_cells = expression.shape[0]
    if n_cells < 30:
        return Grouping(
            np.full(n_cells, "all cells", dtype=object),
            "clusters",
            f"{n_cells} cells are too few to cluster: they are one group.",
        )
    clusters = _leiden(expression, seed)
    symbols = vocabulary.symbols[counts.column_tokens]
    names = name_clusters(expression, clusters, symbols)
    note = (
        "No column of labels was named: the cells were clustered by their counts (variable genes, principal "
        "components, Leiden) and each cluster was named after marker genes. The names are a guide, not an "
        "annotation."
    )
    if dying := sorted({name for name in names.values() if name.startswith("MT-")}):
        note += (
            f" {', '.join(dying)}: what stands out most is a mitochondrial gene, which often marks dying or "
            "broken cells and no type; think of leaving them out (--where filters by columns of obs)."
        )
    return Grouping(np.array([names[cluster] for cluster in clusters], dtype=object), "clusters", note)


def _leiden(expression: sparse.csr_matrix, seed: int) -> np.ndarray:
    """Return ``(n,)`` cluster numbers, the largest cluster first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scanpy's own deprecation notes are not the user's business
        import anndata
        import scanpy

        cells = anndata.AnnData(expression.astype(np.float32))
        scanpy.pp.filter_genes(cells, min_cells=3)
        if cells.n_vars > 2000:
            scanpy.pp.highly_variable_genes(cells, n_top_genes=2000)
            cells = cells[:, cells.var["highly_variable"]].copy()
        n_components = min(30, min(cells.shape) - 1)
        scanpy.pp.pca(cells, n_comps=n_components, random_state=seed)
        scanpy.pp.neighbors(cells, n_neighbors=min(15, cells.n_obs - 1), random_state=seed)
        scanpy.tl.leiden(
            cells, resolution=0.8, flavor="igraph", n_iterations=2, directed=False, random_state=seed
        )
    return cells.obs["leiden"].astype(int).to_numpy()


@cache
def _markers() -> dict[str, list[str]]:
    table = pd.read_csv(str(files("geneformer_grn.workflows") / "markers.tsv"), sep="\t")
    return {
        str(cell_type): str(markers).split(",")
        for cell_type, markers in zip(table["cell_type"], table["markers"], strict=True)
    }


def name_clusters(expression: sparse.csr_matrix, clusters: np.ndarray, symbols: np.ndarray) -> dict[int, str]:
    """Name each cluster by the type whose markers stand out most, else by its own strongest gene.

    The score of a type is the mean, over its markers, of the cluster's mean expression minus the mean over
    all cells, divided by the standard deviation over all cells.

    Parameters
    ----------
    expression
        ``(n, genes)`` log-normalised expression.
    clusters
        ``(n,)`` int cluster numbers.
    symbols
        ``(genes,)`` str.

    Returns
    -------
    Cluster number -> name; names are unique, by a running number where two clusters share a type.
    """
    mean = np.asarray(expression.mean(axis=0)).ravel()
    square = np.asarray(expression.multiply(expression).mean(axis=0)).ravel()
    deviation = np.sqrt(np.maximum(square - mean**2, 1e-12))
    column_of = {symbol: column for column, symbol in enumerate(symbols)}
    detected = np.asarray((expression > 0).mean(axis=0)).ravel()
    names: dict[int, str] = {}
    for cluster in np.unique(clusters):
        inside = np.asarray(expression[clusters == cluster].mean(axis=0)).ravel()
        excess = (inside - mean) / deviation
        scores = {}
        for cell_type, markers in _markers().items():
            columns = [column_of[marker] for marker in markers if marker in column_of]
            if len(columns) >= 2:
                scores[cell_type] = float(excess[columns].mean())
        best = max(scores, key=lambda name: scores[name], default=None)
        if best is not None and scores[best] >= _MIN_SCORE:
            names[int(cluster)] = best
        else:
            strongest = int(np.argmax(np.where(detected >= 0.05, excess, -np.inf)))
            names[int(cluster)] = f"{symbols[strongest]}+ cells"
    return _numbered(names)


def _numbered(names: dict[int, str]) -> dict[int, str]:
    values = list(names.values())
    seen: dict[str, int] = {}
    numbered = {}
    for cluster, name in names.items():
        seen[name] = seen.get(name, 0) + 1
        numbered[cluster] = f"{name} {seen[name]}" if values.count(name) > 1 else name
    return numbered
