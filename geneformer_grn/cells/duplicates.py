"""The same cell in several files, or twice in one, found by its counts and not by its name.

Public data sets hold each other's cells: a subset of a study, a panel cut out of its genes, rows shuffled
and renamed. Two files are compared over the genes that both measured. Genes are dealt into bands; cells that
agree in every count of a band are candidates, and are then compared count by count. So a cell is found again
though a few genes were mapped or summed in another way. A cell that was sequenced or down-sampled anew has
other counts and is not found.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse import csgraph

from geneformer_grn._runtime import progress
from geneformer_grn.cells.counts import CellCounts
from geneformer_grn.cells.duplicate_kernels import N_BANDS, compared, signatures

MIN_GENES = 50
"""Genes that two cells must express between them, for agreement to mean anything."""

MIN_EQUAL = 0.9
"""Share of those genes whose counts agree, from which two cells are one."""

_LEAST_IN_BAND = 4
COLUMNS = ("file", "row", "cell", "kept_file", "kept_row", "kept_cell", "n_genes", "share_equal")
"""Of the table of duplicates: the cell to leave out, the cell that stays, and how far they agree."""


@dataclass(frozen=True, eq=False)
class _Cells:
    """One file: CSR arrays with genes ascending, and the genes it measured."""

    name: str
    rows: np.ndarray
    names: np.ndarray
    indptr: np.ndarray
    genes: np.ndarray
    counts: np.ndarray
    measured: np.ndarray


def find_duplicates(
    files: Sequence[CellCounts],
    n_tokens: int,
    *,
    stay: Collection[str] = (),
    min_genes: int = MIN_GENES,
    min_equal: float = MIN_EQUAL,
) -> pd.DataFrame:
    """Return the cells that are in another file, or further down in the same one, a row each.

    Of several copies the one stays whose file is named in `stay`, else whose file measured most genes; of
    equals the first.

    Parameters
    ----------
    files
        Counts, all read with one vocabulary.
    n_tokens
        Length of that vocabulary.
    stay
        Names of files whose cells stay before all others, such as those that models are judged on.
    min_genes
        Genes that two cells must express between them, among those that both files measured.
    min_equal
        Share of those whose counts must be equal, at least.

    Returns
    -------
    DataFrame
        `COLUMNS`; rows are row numbers of the files; ``n_genes`` and ``share_equal`` of the cell with the
        nearest copy of it that was found.

    Raises
    ------
    ValueError
        Two files have one name, or a threshold is out of range.

    Examples
    --------
    >>> find_duplicates([read_counts(path, vocabulary) for path in paths], len(vocabulary))  # doctest: +SKIP
    """
    if not 0.5 < min_equal <= 1 or min_genes < 1:
        raise ValueError(
            f"min_equal must lie in (0.5, 1] and min_genes be positive: {min_equal}, {min_genes}"
        )
    opened = [_arranged(counts, n_tokens) for counts in files]
    if len({file.name for file in opened}) < len(opened):
        raise ValueError("two files have one name; copies could not be told apart. Rename one of them")
    if unknown := sorted(set(stay) - {file.name for file in opened}):
        raise ValueError(f"{unknown[0]} shall keep its cells, but is not among the files")
    starts = np.concatenate([[0], np.cumsum([len(file.rows) for file in opened])])
    edges: list[np.ndarray] = []
    pairs = list(combinations_with_replacement(range(len(opened)), 2))
    for a, b in progress(pairs, desc="comparing files", unit="pair"):
        found, genes, share = _between(opened[a], opened[b], min_genes, min_equal, same=a == b)
        edges.append(np.column_stack([found[:, 0] + starts[a], found[:, 1] + starts[b], genes, share]))
    first = np.array([file.name in stay for file in opened])
    return _left_out(opened, starts, np.concatenate(edges) if edges else np.empty((0, 4)), first)


def _arranged(counts: CellCounts, n_tokens: int) -> _Cells:
    """Sort each cell's genes by token; copies where the counts' columns are not in that order."""
    tokens = np.asarray(counts.column_tokens)
    matrix = sparse.csr_matrix(
        (counts.matrix.data.astype(np.float64), tokens[counts.matrix.indices], counts.matrix.indptr),
        shape=(counts.matrix.shape[0], n_tokens),
    )
    matrix.sum_duplicates()
    measured = np.zeros(n_tokens, dtype=bool)
    measured[tokens[tokens >= 0]] = True
    return _Cells(
        name=counts.name, rows=np.asarray(counts.kept), names=counts.obs.index.astype(str).to_numpy(),
        indptr=matrix.indptr.astype(np.int64), genes=matrix.indices.astype(np.int64), counts=matrix.data,
        measured=measured,
    )  # fmt: skip


def _between(
    a: _Cells, b: _Cells, min_genes: int, min_equal: float, *, same: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ``(k, 2)`` cells of a and of b that are one, their genes, and the share that is equal."""
    shared = a.measured & b.measured
    if shared.sum() < min_genes:
        return np.empty((0, 2), dtype=np.int64), np.empty(0), np.empty(0)
    of_a = signatures(a.indptr, a.genes, a.counts, shared, _LEAST_IN_BAND)
    of_b = of_a if same else signatures(b.indptr, b.genes, b.counts, shared, _LEAST_IN_BAND)
    found = [_equal_keys(of_a[:, band], of_b[:, band], same=same) for band in range(N_BANDS)]
    candidates = np.unique(np.concatenate(found), axis=0)
    either, equal = compared(candidates, a.indptr, a.genes, a.counts, b.indptr, b.genes, b.counts, shared)
    share = equal / np.maximum(either, 1)
    good = (either >= min_genes) & (share >= min_equal)
    return candidates[good], either[good], share[good]


def _equal_keys(of_a: np.ndarray, of_b: np.ndarray, *, same: bool) -> np.ndarray:
    """Return ``(k, 2)`` places with equal keys, 0 matching nothing; within one file each pair once."""
    order = np.argsort(of_b, kind="stable")
    ascending = of_b[order]
    first = np.searchsorted(ascending, of_a, side="left")
    n_matches = np.searchsorted(ascending, of_a, side="right") - first
    n_matches[of_a == 0] = 0
    left = np.repeat(np.arange(len(of_a)), n_matches)
    offset = np.arange(len(left)) - np.repeat(np.cumsum(n_matches) - n_matches, n_matches)
    right = order[np.repeat(first, n_matches) + offset]
    pairs = np.column_stack([left, right]).astype(np.int64)
    return pairs[pairs[:, 0] < pairs[:, 1]] if same else pairs


def _left_out(files: list[_Cells], starts: np.ndarray, edges: np.ndarray, first: np.ndarray) -> pd.DataFrame:
    """Join pairs to groups of copies, let the best of each group stay, and list the others."""
    n_cells = int(starts[-1])
    ends = edges[:, :2].astype(np.int64)
    graph = sparse.csr_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(n_cells, n_cells))
    _, group = csgraph.connected_components(graph, directed=False)
    file = np.repeat(np.arange(len(files)), np.diff(starts))
    width = np.array([int(entry.measured.sum()) for entry in files])[file]
    later = ~first[file]
    order = np.lexsort((np.arange(n_cells), -width, later, group))  # of each group, what stays is first
    heads = order[np.concatenate([[True], np.diff(group[order]) != 0])] if n_cells else order
    kept = np.empty(int(group.max(initial=-1)) + 1, dtype=np.int64)
    kept[group[heads]] = heads
    genes, share = np.zeros(n_cells), np.zeros(n_cells)
    for end in (0, 1):
        nearer = edges[:, 3] > share[ends[:, end]]
        share[ends[nearer, end]], genes[ends[nearer, end]] = edges[nearer, 3], edges[nearer, 2]
    dropped = np.flatnonzero(kept[group] != np.arange(n_cells))
    stays = kept[group[dropped]]
    names = np.array([entry.name for entry in files], dtype=object)
    rows = np.concatenate([entry.rows for entry in files]) if files else np.empty(0, dtype=np.int64)
    cells = np.concatenate([entry.names for entry in files]) if files else np.empty(0, dtype=object)
    columns = (
        names[file[dropped]], rows[dropped], cells[dropped], names[file[stays]], rows[stays], cells[stays],
        genes[dropped].astype(np.int64), share[dropped],
    )  # fmt: skip
    return pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))
