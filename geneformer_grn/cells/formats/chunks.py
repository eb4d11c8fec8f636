"""Arrays in chunks: whether all of them are there, and how a dense matrix is read without unpacking it whole.

A zarr store lacks the chunks that hold nothing but zeros, and those that were not copied; zarr reads both as
zeros. A sparse matrix tells them apart. A dense one does not, so there the user is asked to look.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any

import numpy as np

from geneformer_grn._runtime import logger
from geneformer_grn.cells.formats import sorting
from geneformer_grn.cells.formats.matrices import DenseRows, SparseRows, StoredMatrix, readable_dtype
from geneformer_grn.cells.formats.transpose import Entries, GeneMajorMatrix

# Values of one slice of whole chunks that are still read at once.
SLICE_VALUES = 1 << 26


def dense_matrix(node: Any, what: str, resources: ExitStack, *, by_gene: bool = False) -> StoredMatrix:
    """Return the reader of a dense matrix in HDF5 or zarr.

    Where chunks are low it is read in slices of cells, each chunk once. Where a chunk spans so many cells
    that such a slice would not be small, chunks are read one after the other and put in order of cells.

    Parameters
    ----------
    node
        Its array.
    what
        What messages call it.
    resources
        Deletes temporary files.
    by_gene
        The array is ``(n_genes, n_cells)``, as in loom files.
    """

    def part(cells: slice, genes: slice) -> np.ndarray:
        return np.asarray(node[genes, cells]).T if by_gene else np.asarray(node[cells, genes])

    lacking, of = _lacking(node)
    if lacking:
        logger.warning(
            "%s: %d of %d chunks are not there and are read as zeros. Nothing is wrong if those values are "
            "zeros; if the store was copied only in part, copy it again",
            what, lacking, of,
        )  # fmt: skip
    shape, step = node.shape, node.chunks or (1, 1)
    (n_cells, n_genes), (cell_step, gene_step) = (shape[::-1], step[::-1]) if by_gene else (shape, step)
    if cell_step * n_genes <= SLICE_VALUES:
        return DenseRows(
            lambda start, stop: part(slice(start, stop), slice(None)),
            shape=(n_cells, n_genes), dtype=node.dtype, what=what, step=cell_step,
        )  # fmt: skip
    readable_dtype(node.dtype, what)
    width = cell_step * max(1, sorting.LOT // (gene_step * cell_step))

    def entries() -> Entries:
        for gene in range(0, n_genes, gene_step):
            for cell in range(0, n_cells, width):
                values = part(slice(cell, cell + width), slice(gene, gene + gene_step))
                cells, genes = np.nonzero(values)
                yield cells + cell, genes + gene, values[cells, genes]

    return GeneMajorMatrix(
        entries, shape=(n_cells, n_genes), dtype=node.dtype, layout="dense",
        n_expected=n_genes * n_cells // 10, what=what, resources=resources,
    )  # fmt: skip


def check_chunks(data: Any, indices: Any, indptr: Any, *, shape: tuple[int, int], what: str) -> None:
    """Refuse a sparse matrix of which chunks are missing.

    Zeros are not stored in a sparse matrix, so `data` has no chunk of zeros alone. `indices` and `indptr` may
    have one, but if values were lost there, some row (or column) holds the same index twice.

    Parameters
    ----------
    data, indices, indptr
        Arrays of HDF5, which is never in part, or zarr.
    shape
        (rows, columns) of a matrix stored by row; of the transpose if stored by column.
    what
        What messages call the matrix.

    Raises
    ------
    ValueError
        See above.
    """
    lacking, of = _lacking(data)
    if lacking:
        raise ValueError(_missing(lacking, of, "data", what))
    for key, array in (("indices", indices), ("indptr", indptr)):
        lacking, of = _lacking(array)
        if lacking and _repeats(SparseRows(data, indices, indptr, shape=shape, what=what)):
            raise ValueError(_missing(lacking, of, key, what))


def _missing(lacking: int, of: int, key: str, what: str) -> str:
    return (
        f"{what} is damaged: {lacking:,} of {of:,} chunks of its {key} are missing and would be read as "
        "zeros. Copy the store again"
    )


def _lacking(array: Any) -> tuple[int, int]:
    """Return how many chunks (or shards) of a zarr array are not there, and of how many."""
    if not hasattr(array, "nchunks_initialized"):
        return 0, 0
    whole = getattr(array, "shards", None) or array.chunks
    n_chunks = math.prod(-(-length // step) for length, step in zip(array.shape, whole, strict=True))
    # zarr counts the chunks of a shard, those beyond the edge of the array among them.
    there = array.nchunks_initialized // (math.prod(whole) // math.prod(array.chunks))
    return max(0, n_chunks - there), n_chunks


def _repeats(rows: SparseRows) -> bool:
    """Return whether a row holds an index twice."""
    for _, block in rows.blocks(0, rows.shape[0], sorting.LOT):
        if int(np.diff(block.indptr).max()) > rows.shape[1]:
            return True
        block = block.copy()
        n_stored = block.nnz
        block.sum_duplicates()
        if block.nnz < n_stored:
            return True
    return False
