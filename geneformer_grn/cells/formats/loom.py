"""Loom files, read with h5py: genes are rows there, cells are columns.

A file whose chunks are narrow is read in slices of cells, each chunk once. Where a chunk spans so many cells
that such a slice would not be small, the entries are put in order of cells instead.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geneformer_grn.cells.formats.h5ad import chosen_place, explained
from geneformer_grn.cells.formats.matrices import DenseRows, StoredMatrix, readable_dtype
from geneformer_grn.cells.formats.sorting import LOT
from geneformer_grn.cells.formats.transpose import Entries, GeneMajorMatrix
from geneformer_grn.cells.source import CountSource

# Values of one slice of whole chunks that are still read at once.
SLICE_VALUES = 1 << 26
_GENE_NAMES = ("Accession", "ensembl_id", "gene_ids", "var_names", "Gene", "gene")
_CELL_NAMES = ("CellID", "obs_names", "cell_id", "Cell")


def open_loom(path: Path, layer: str | None) -> CountSource:
    """Open a loom file; see :func:`~geneformer_grn.cells.opening.open_source`."""
    import h5py

    with ExitStack() as undo:
        resources = undo.enter_context(ExitStack())
        handle = resources.enter_context(h5py.File(path, "r"))
        with explained(path, "loom"):
            places: dict[str, Any] = {"X": (handle["matrix"], "leave --layer out")}
            for name in handle.get("layers", ()):
                places[f"layer {name!r}"] = (handle["layers"][name], f"pass --layer {name}")
            label = chosen_place(places, layer, str(path))
            openers = {
                place: partial(_matrix, node, f"{place} of {path.name}", resources)
                for place, (node, _) in places.items()
            }
            n_genes, n_cells = handle["matrix"].shape
            source = CountSource(
                name=path.name, kind="loom", path=path,
                obs=_table(handle["col_attrs"], _CELL_NAMES, n_cells),
                var=_table(handle["row_attrs"], _GENE_NAMES, n_genes), label=label, matrix=openers[label](),
                others={
                    place: (option, openers[place])
                    for place, (_, option) in places.items()
                    if place != label
                },
                resources=resources,
            )  # fmt: skip
        undo.pop_all()
    return source


def _table(attributes: Any, names: tuple[str, ...], n_rows: int) -> pd.DataFrame:
    """Return the one-dimensional attributes as a table, indexed by the first of `names` that is there."""
    columns = {
        str(name): _plain(node[()])
        for name, node in attributes.items()
        if hasattr(node, "shape") and node.shape == (n_rows,)
    }
    table = pd.DataFrame(columns, index=pd.RangeIndex(n_rows))
    index = next((name for name in names if name in columns), None)
    return table if index is None else table.set_index(index, drop=False).rename_axis(None)


def _plain(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "SO":
        return values
    return np.array([v.decode() if isinstance(v, bytes) else v for v in values], dtype=object)


def _matrix(node: Any, what: str, resources: ExitStack) -> StoredMatrix:
    n_genes, n_cells = node.shape
    gene_step, cell_step = node.chunks or (1, 1)
    if cell_step * n_genes <= SLICE_VALUES:
        return DenseRows(
            lambda start, stop: np.asarray(node[:, start:stop]).T,
            shape=(n_cells, n_genes), dtype=node.dtype, what=what, step=cell_step,
        )  # fmt: skip
    readable_dtype(node.dtype, what)
    width = cell_step * max(1, LOT // (gene_step * cell_step))

    def entries() -> Entries:
        for gene in range(0, n_genes, gene_step):
            for cell in range(0, n_cells, width):
                part = np.asarray(node[gene : gene + gene_step, cell : cell + width])
                genes, cells = np.nonzero(part)
                yield cells + cell, genes + gene, part[genes, cells]

    return GeneMajorMatrix(
        entries, shape=(n_cells, n_genes), dtype=node.dtype, layout="dense",
        n_expected=n_genes * n_cells // 10, what=what, resources=resources,
    )  # fmt: skip
