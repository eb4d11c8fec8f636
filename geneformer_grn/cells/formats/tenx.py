"""10x Genomics output: ``.h5`` files of Cell Ranger 2 and 3, and folders with ``matrix.mtx`` and its tables.

Cells are the columns there, which makes the HDF5 file a matrix by cell as it lies. Features that are no genes
(antibodies, guides, peaks) are left out, because their counts are not on the scale of RNA.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geneformer_grn._runtime import logger
from geneformer_grn.cells.formats.h5ad import explained
from geneformer_grn.cells.formats.matrices import ChosenColumns, SparseRows, StoredMatrix
from geneformer_grn.cells.formats.numbers import is_gzipped, lines_of, number_lots
from geneformer_grn.cells.formats.transpose import Entries, GeneMajorMatrix
from geneformer_grn.cells.source import CountSource

GENES = "Gene Expression"
_MATRIX = ("matrix.mtx.gz", "matrix.mtx")
_FEATURES = ("features.tsv.gz", "features.tsv", "genes.tsv.gz", "genes.tsv")
_BARCODES = ("barcodes.tsv.gz", "barcodes.tsv")


def open_tenx_h5(path: Path, layer: str | None) -> CountSource:
    """Open a 10x ``.h5`` file; `layer` names the genome where there are several.

    Raises
    ------
    ValueError
        The file is damaged, has several genomes and none was named, or holds no genes.
    """
    import h5py

    with ExitStack() as undo:
        resources = undo.enter_context(ExitStack())
        handle = resources.enter_context(h5py.File(path, "r"))
        with explained(path, "10x .h5"):
            group = handle["matrix"] if "matrix" in handle else handle[_genome(handle, path, layer)]
            if "matrix" in handle and layer is not None:
                raise ValueError(f"{path}: there is no layer {layer!r}; the file has no layers")
            barcodes = _texts(group["barcodes"])
            var, types = _h5_features(group)
            n_features, n_cells = (int(n) for n in group["shape"][:2])
            what = f"the matrix of {path.name}"
            matrix: StoredMatrix = SparseRows(
                group["data"], group["indices"], group["indptr"], shape=(n_cells, n_features), what=what
            )
            if len(var) != n_features:
                raise ValueError(f"{path} is damaged: {n_features:,} rows, but {len(var):,} features")
            keep = gene_rows(types, n_features, path)
            if not keep.all():
                matrix, var = ChosenColumns(matrix, keep), var[keep]
            source = CountSource(
                name=path.name, kind="10x h5", path=path, obs=pd.DataFrame(index=barcodes), var=var,
                label="X", matrix=matrix, resources=resources,
            )  # fmt: skip
        undo.pop_all()
    return source


def _genome(handle: Any, path: Path, layer: str | None) -> str:
    genomes = sorted(handle)
    if layer in genomes:
        return str(layer)
    if layer is None and len(genomes) == 1:
        return genomes[0]
    asked = "" if layer is None else f"there is no genome {layer!r}; "
    raise ValueError(f"{path}: {asked}choose by --layer one of its genomes: {', '.join(genomes)}")


def _h5_features(group: Any) -> tuple[pd.DataFrame, np.ndarray | None]:
    """Return the feature table and, from Cell Ranger 3 on, the features' types."""
    if "features" not in group:
        return feature_table(_texts(group["genes"]), _texts(group["gene_names"])), None
    features = group["features"]
    var = feature_table(_texts(features["id"]), _texts(features["name"]))
    if "genome" in features:
        var["genome"] = _texts(features["genome"])
    return var, _texts(features["feature_type"]) if "feature_type" in features else None


def _texts(node: Any) -> np.ndarray:
    values = (value.decode() if isinstance(value, bytes) else str(value) for value in node[()])
    return np.array(list(values), dtype=object)


def feature_table(ids: np.ndarray, symbols: np.ndarray | None) -> pd.DataFrame:
    """Return var: gene IDs as index, names in ``gene_symbol``."""
    columns = {} if symbols is None else {"gene_symbol": symbols}
    return pd.DataFrame(columns, index=pd.Index(ids, dtype=object))


def gene_rows(types: np.ndarray | None, n_features: int, path: Path) -> np.ndarray:
    """Return which features are genes, and say how many others are left out; without types, all are.

    Raises
    ------
    ValueError
        None is.
    """
    if types is None:
        return np.ones(n_features, dtype=bool)
    keep = np.asarray(types == GENES, dtype=bool)
    others = pd.Series(types[~keep], dtype=object).value_counts()
    shown = ", ".join(f"{count:,} {kind}" for kind, count in others.items())
    if not keep.any():
        raise ValueError(f"{path} holds no features of type {GENES!r}, only {shown}")
    if len(others):
        logger.info("%s: features that are no genes are left out (%s)", path.name, shown)
    return keep


def open_tenx_mtx(path: Path, layer: str | None) -> CountSource:
    """Open a 10x matrix folder, or a ``matrix.mtx`` file with its two tables beside it.

    Raises
    ------
    ValueError
        A table is missing, or the files do not fit together.
    """
    if layer is not None:
        raise ValueError(f"{path}: there is no layer {layer!r}; the file has no layers")
    matrix_file = path if path.is_file() else matrix_files(path)[0]
    features = _beside(matrix_file, _FEATURES, "features.tsv or genes.tsv")
    barcodes = _beside(matrix_file, _BARCODES, "barcodes.tsv")
    table, cells = _read_tsv(features), _read_tsv(barcodes)
    n_first, n_second, n_entries, integral = _mtx_header(matrix_file)
    by_gene = (n_first, n_second) == (len(table), len(cells))
    if not by_gene and (n_first, n_second) != (len(cells), len(table)):
        raise ValueError(
            f"{matrix_file} is {n_first:,} × {n_second:,}, but {features.name} has {len(table):,} features "
            f"and {barcodes.name} {len(cells):,} barcodes; the files do not belong together"
        )
    types = table[2].to_numpy(dtype=object) if 2 in table else None
    keep = gene_rows(types, len(table), path)
    number = np.where(keep, np.cumsum(keep) - 1, -1)
    entries = _MtxEntries(matrix_file, (n_first, n_second), n_entries, number, by_gene=by_gene)
    var = feature_table(
        table[0].to_numpy(dtype=object), table[1].to_numpy(dtype=object) if 1 in table else None
    )
    resources = ExitStack()
    matrix = GeneMajorMatrix(
        entries, shape=(len(cells), int(keep.sum())), dtype=np.dtype(np.int64 if integral else np.float64),
        layout="csr" if by_gene else "csc", n_expected=n_entries, what=f"the matrix of {path.name}",
        resources=resources,
    )  # fmt: skip
    if keep.all():
        matrix.nnz = n_entries
    return CountSource(
        name=path.name, kind="10x mtx", path=path, obs=pd.DataFrame(index=cells[0].to_numpy(dtype=object)),
        var=var[keep], label="X", matrix=matrix, resources=resources,
    )  # fmt: skip


def matrix_files(folder: Path) -> list[Path]:
    """Return the ``matrix.mtx`` files of a folder, with or without a sample's name before, sorted."""
    return sorted(file for file in folder.iterdir() if file.name.endswith(_MATRIX) and file.is_file())


def is_mtx_table(path: Path) -> bool:
    """Return whether a file is named like one of the tables beside a ``matrix.mtx``."""
    return path.name.endswith(_FEATURES + _BARCODES)


def _beside(matrix_file: Path, names: tuple[str, ...], asked: str) -> Path:
    prefix = next(matrix_file.name.removesuffix(end) for end in _MATRIX if matrix_file.name.endswith(end))
    for name in names:
        if (matrix_file.parent / f"{prefix}{name}").is_file():
            return matrix_file.parent / f"{prefix}{name}"
    raise ValueError(f"{matrix_file} has no {prefix}{asked} (or .gz) beside it; its rows have no names")


def _read_tsv(path: Path) -> pd.DataFrame:
    with explained(path, "a table"):
        return pd.read_csv(
            path, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=3,
            compression="gzip" if is_gzipped(path) else None,
        )  # fmt: skip


def _mtx_header(path: Path) -> tuple[int, int, int, bool]:
    """Return rows, columns, entries, and whether all values are whole numbers."""
    with lines_of(path) as lines:
        first = lines.readline(1000).decode("ascii", "replace").lower().split()
        if first[:3] != ["%%matrixmarket", "matrix", "coordinate"] or len(first) != 5:
            raise ValueError(f"{path} is no sparse MatrixMarket file: it begins with {' '.join(first)!r}")
        if first[3] not in {"integer", "real"} or first[4] != "general":
            raise ValueError(f"{path} is {first[3]} {first[4]}; integer or real, general, is needed")
        line = lines.readline()
        while line.startswith(b"%"):
            line = lines.readline()
        sizes = line.split()
        if len(sizes) != 3 or not all(size.isdigit() for size in sizes):
            raise ValueError(f"{path} is damaged: its size line is {line[:60]!r}")
    return int(sizes[0]), int(sizes[1]), int(sizes[2]), first[3] == "integer"


class _MtxEntries:
    """The entries of a MatrixMarket file as (cells, genes, values), checked."""

    def __init__(
        self, path: Path, sizes: tuple[int, int], n_entries: int, number: np.ndarray, *, by_gene: bool
    ) -> None:
        self.path, self.sizes, self.n_entries = path, sizes, n_entries
        self.number, self.by_gene = number, by_gene

    def __call__(self) -> Entries:
        seen = 0
        with lines_of(self.path) as lines:
            line, skipped = lines.readline(), 1
            while line.startswith(b"%"):
                line, skipped = lines.readline(), skipped + 1
            for values in number_lots(lines, self.path, first_line=skipped + 1, n_fields=3):
                seen += len(values)
                for place, size in enumerate(self.sizes):
                    wrong = np.flatnonzero(~((values[:, place] >= 1) & (values[:, place] <= size)))
                    if len(wrong):
                        raise ValueError(
                            f"{self.path} is damaged: it names {('row', 'column')[place]} "
                            f"{values[wrong[0], place]:.0f} of {size:,}"
                        )
                genes, cells = values[:, 1 - self.by_gene], values[:, int(self.by_gene)]
                genes = self.number[genes.astype(np.int64) - 1]
                kept = genes >= 0
                yield cells[kept].astype(np.int64) - 1, genes[kept], values[kept, 2]
        if seen != self.n_entries:
            raise ValueError(
                f"{self.path} is truncated or damaged: {seen:,} of {self.n_entries:,} entries are there"
            )
