"""Loom files, read with h5py: genes are rows there, cells are columns."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geneformer_grn.cells.formats.chunks import dense_matrix
from geneformer_grn.cells.formats.h5ad import chosen_place, explained
from geneformer_grn.cells.source import CountSource

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
                place: partial(dense_matrix, node, f"{place} of {path.name}", resources, by_gene=True)
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
