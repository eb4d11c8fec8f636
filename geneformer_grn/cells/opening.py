"""Open a count file: find the matrix and the gene identifiers in it, and refuse what cannot be counts.

A file is judged by its content, not by its names: the identifiers are looked for where they usually are, the
counts are checked value by value. The price is one pass over the values; what it buys is that nothing wrong
reaches a model in silence.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from geneformer_grn._runtime import logger
from geneformer_grn.cells.formats.detect import find_files, kind_of
from geneformer_grn.cells.formats.matrices import as_csr
from geneformer_grn.cells.source import CountSource

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = [
    "ENSEMBL_ID", "ValueSummary", "as_csr", "check_values", "choose_matrix", "find_files",
    "identifier_candidates", "open_source", "raw_counts_elsewhere", "raw_counts_hint", "read_anndata",
    "read_h5ad", "refuse_normalised", "undo_normalisation",
]  # fmt: skip

ENSEMBL_ID = r"ENS[A-Z]{0,4}G\d{6,}(\.\d+)?(_PAR_Y)?"
SYMBOL_COLUMNS = (
    "gene_symbol", "gene_symbols", "symbol", "gene_name", "gene_names", "feature_name", "gene_short_name",
    "gene",
)  # fmt: skip
# exp(20) counts of one gene in one cell do not exist: larger values cannot be logarithms of counts.
LARGEST_LOG1P = 20.0
_BLOCK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class ValueSummary:
    """What the stored values of a matrix are: the largest one, and whether all are whole numbers."""

    maximum: float
    integral: bool
    first_fraction: float | None


def open_source(source: Path | str | AnnData, *, layer: str | None = None) -> CountSource:
    """Open a count file of any format, or an AnnData, for reading in blocks of rows.

    Parameters
    ----------
    source
        An ``.h5ad`` file, a zarr store, a 10x ``.h5`` file or matrix folder, a loom file, a CSV or TSV file
        (gzipped or not; cells × genes or genes × cells), or an AnnData (in memory or backed; left unchanged).
        What a file is, its content says.
    layer
        A layer's name; ``raw`` means ``raw`` where no layer has that name; None: ``X``. In a 10x file of
        several genomes, the genome.

    Returns
    -------
    CountSource
        To be closed, or used in a ``with`` statement.

    Raises
    ------
    FileNotFoundError, PermissionError
        There is no such file, or this user may not read it.
    ValueError
        The file is of no known kind, damaged, or holds no cells, no genes or not that layer.
    TypeError
        `source` is neither a path nor an AnnData.

    Examples
    --------
    >>> with open_source("cells.h5ad", layer="counts") as source:  # doctest: +SKIP
    ...     for first, block in source.blocks(max_values=1 << 20):
    ...         print(first, block.shape)
    """
    from geneformer_grn.cells.formats.h5ad import open_adata, open_h5ad, open_zarr
    from geneformer_grn.cells.formats.loom import open_loom
    from geneformer_grn.cells.formats.tenx import open_tenx_h5, open_tenx_mtx
    from geneformer_grn.cells.formats.text import open_text

    if not isinstance(source, str | Path):
        if hasattr(source, "obs") and hasattr(source, "var") and hasattr(source, "isbacked"):
            return open_adata(source, layer)
        raise TypeError(f"cells are a count file or an AnnData, not a {type(source).__name__}")
    openers = {
        "h5ad": open_h5ad, "zarr": open_zarr, "10x h5": open_tenx_h5, "10x mtx": open_tenx_mtx,
        "loom": open_loom, "text": open_text,
    }  # fmt: skip
    path = Path(source)
    return openers[kind_of(path)](path, layer)


def read_anndata(path: Path | str, layer: str | None = None) -> AnnData:
    """Read a count file of any format into memory.

    Parameters
    ----------
    path
        See :func:`open_source`.
    layer
        The layer that is needed.

    Returns
    -------
    AnnData
        An ``.h5ad`` file as anndata reads it. Of other files the one matrix asked for, as ``X`` (and under
        the name of the layer, where one was named), with obs and var.

    Raises
    ------
    FileNotFoundError, PermissionError, ValueError
        See :func:`open_source`.
    """
    if kind_of(Path(path)) == "h5ad":
        return read_h5ad(path)
    with open_source(path, layer=layer) as source:
        adata = source.to_anndata()
    if layer is not None:
        adata.layers[layer] = adata.X
    return adata


def read_h5ad(path: Path | str) -> AnnData:
    """Read an ``.h5ad`` file into memory.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    AnnData
        As anndata reads it; nothing is changed.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is a folder, no HDF5 file, no AnnData, damaged, or written by a newer anndata.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; an .h5ad file is needed")
    import anndata
    import h5py
    from anndata._io.specs.registry import IORegistryError

    try:
        with path.open("rb"), h5py.File(path, "r") as handle:
            keys = set(handle)
    except PermissionError as error:
        raise PermissionError(f"{path} may not be read by this user") from error
    except OSError as error:
        kind = "is truncated or damaged" if h5py.is_hdf5(path) else "is not an .h5ad file (not HDF5 at all)"
        raise ValueError(f"{path} {kind}: {error}") from error
    if not {"obs", "var"} <= keys:
        raise ValueError(
            f"{path} is an HDF5 file, but not an .h5ad: it holds {sorted(keys)[:5]} and no obs and var. "
            "Read it with the tool that made it (10x files: scanpy.read_10x_h5) and write it with "
            "AnnData.write_h5ad"
        )
    try:
        with warnings.catch_warnings():
            # Repeated names and old file layouts are judged by us, with what to do about them.
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("ignore", FutureWarning)
            return anndata.read_h5ad(path)
    except IORegistryError as error:
        raise ValueError(
            f"{path} holds something that the anndata installed here cannot read; it needs a newer anndata "
            "(upgrade it, or write the file again with an older one)"
        ) from error
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{path} cannot be read as .h5ad; it is probably damaged: {reason}") from error


def choose_matrix(adata: AnnData, layer: str | None) -> tuple[Any, pd.DataFrame, str]:
    """Return the matrix to read, the gene table that belongs to it, and its name.

    Parameters
    ----------
    adata
        Cells.
    layer
        A layer's name; ``raw`` means ``adata.raw`` where no layer has that name; None means ``X``.

    Raises
    ------
    ValueError
        The layer, or ``X``, is not there.
    """
    if layer is None:
        if adata.X is None:
            raise ValueError(
                f"X is empty; name the layer with raw counts by --layer ({_layers_there(adata)})"
            )
        return adata.X, adata.var, "X"
    if layer in adata.layers:
        return adata.layers[layer], adata.var, f"layer {layer!r}"
    if layer == "raw" and adata.raw is not None:
        return adata.raw.X, adata.raw.var, "raw"
    raise ValueError(f"there is no layer {layer!r}; {_layers_there(adata)}")


def _layers_there(adata: AnnData) -> str:
    names = [*adata.layers, *(["raw"] if adata.raw is not None else [])]
    return f"layers there: {', '.join(names)}" if names else "the file has no layers"


def check_values(values: np.ndarray, what: str) -> ValueSummary:
    """Look at every stored value, in blocks, so that no copy of the matrix is made.

    Raises
    ------
    ValueError
        A value is negative, infinite or not a number.
    """
    maximum, fraction = 0.0, None
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK]
        low, high = float(block.min()), float(block.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError(f"{what} holds NaN or infinite values; raw counts are needed")
        if low < 0:
            raise ValueError(
                f"{what} holds negative values (smallest {low:.4g}): it was scaled or regressed, and "
                "neither counts nor ranks can be had back from it. Raw counts are needed"
            )
        maximum = max(maximum, high)
        if fraction is None and block.dtype.kind == "f":
            broken = np.flatnonzero(block != np.floor(block))
            fraction = float(block[broken[0]]) if len(broken) else None
    return ValueSummary(maximum=maximum, integral=fraction is None, first_fraction=fraction)


def refuse_normalised(adata: AnnData, label: str, *, what: str, summary: ValueSummary) -> None:
    """Raise the ValueError that says why fractions are no counts, and where counts seem to be instead."""
    kind = "log-normalised" if summary.maximum < LARGEST_LOG1P else "normalised"
    raise ValueError(
        f"{what} holds fractions (first {summary.first_fraction:.4g}, largest {summary.maximum:.4g}) and "
        f"looks {kind}; raw counts are needed.{raw_counts_hint(adata, label)} Without them, pass "
        "--allow-normalised: the order of a cell's genes mostly survives"
    )


def undo_normalisation(matrix: sparse.csr_matrix, what: str, summary: ValueSummary) -> sparse.csr_matrix:
    """Undo log1p where the values look like it: division by medians does not commute with the logarithm."""
    if summary.maximum >= LARGEST_LOG1P:
        logger.warning(
            "%s is normalised, not logarithmic; a cell's scale cancels, so the order of genes survives", what
        )
        return matrix
    logger.warning(
        "%s looks log-normalised (largest %.4g): log1p is undone, after which a cell's scale cancels and the "
        "order of genes is that of its counts, unless more than a scale per cell was changed",
        what, summary.maximum,
    )  # fmt: skip
    data = np.expm1(matrix.data, dtype=np.float64)
    return sparse.csr_matrix((data, matrix.indices, matrix.indptr), shape=matrix.shape)


def raw_counts_hint(adata: AnnData, used: str) -> str:
    """Return the sentence that says where raw counts seem to be instead, or nothing."""
    places = {"X": adata.X, **{f"layer {name!r}": matrix for name, matrix in adata.layers.items()}}
    options = {
        "X": "leave --layer out",
        **{f"layer {name!r}": f"pass --layer {name}" for name in adata.layers},
    }
    if adata.raw is not None:
        places["raw"], options["raw"] = adata.raw.X, "pass --layer raw"
    for name, matrix in places.items():
        if name == used or matrix is None:
            continue
        # A sample is enough for a hint, and a dense matrix is not flattened whole for it.
        values: Any = matrix
        sample = np.asarray(values.data[:100_000] if sparse.issparse(matrix) else values[:100])
        numbers = sample.dtype.kind in "iuf" and sample.size > 0
        if numbers and np.all((sample >= 0) & (sample == np.floor(sample))):
            return f" Raw counts seem to be in {name}: {options[name]}."
    return ""


def raw_counts_elsewhere(source: CountSource) -> str:
    """Return the sentence that says where else in a file raw counts seem to be, or nothing."""
    for place, option, sample in source.elsewhere():
        values = sample()
        numbers = values.dtype.kind in "iuf" and values.size > 0
        if numbers and np.all((values >= 0) & (values == np.floor(values))):
            return f" Raw counts seem to be in {place}: {option}."
    return ""


def identifier_candidates(var: pd.DataFrame, gene_column: str | None) -> Iterator[tuple[str, np.ndarray]]:
    """Yield where the gene identifiers may be, most likely first, as (name, ``(n_genes,)`` str).

    With `gene_column`, only that one (``index`` means ``var_names``). Otherwise ``ensembl_id``, ``var_names``
    where most are Ensembl IDs, ``gene_ids``, any other column of Ensembl IDs, ``var_names`` as symbols,
    columns that usually hold symbols.

    Raises
    ------
    ValueError
        `gene_column` is not a column of var.
    """
    if gene_column is not None:
        if gene_column not in var.columns and gene_column not in {"index", var.index.name}:
            raise ValueError(
                f"var has no column {gene_column!r}; columns there: "
                f"{', '.join(map(str, var.columns)) or 'none'} (and index, the var_names)"
            )
        yield _named(var, gene_column)
        return
    yielded = set()
    ensembl = [str(name) for name in var.columns if _mostly_ensembl(var[name])]
    names_first = ["index"] if _mostly_ensembl(var.index.to_series()) else []
    order = ["ensembl_id", *names_first, "gene_ids", *ensembl, "index", *SYMBOL_COLUMNS]
    for name in order:
        if name not in yielded and (name == "index" or name in var.columns):
            yielded.add(name)
            yield _named(var, name)


def _named(var: pd.DataFrame, name: str) -> tuple[str, np.ndarray]:
    values = var[name] if name in var.columns else var.index.to_series()
    label = f"var[{name!r}]" if name in var.columns else "var_names"
    texts = values.astype(object).where(values.notna().to_numpy(), "")
    return label, texts.astype(str).to_numpy(dtype=object)


def _mostly_ensembl(values: pd.Series) -> bool:
    if values.dtype.kind in "biufc":
        return False
    sample = values.iloc[:: max(1, len(values) // 1000)].astype(str).str.upper()
    return bool(sample.str.fullmatch(ENSEMBL_ID).mean() > 0.5)
