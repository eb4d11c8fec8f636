"""Open a count file of any format, for reading in blocks or as an AnnData in memory.

What a file is, its content says and not its name. ``formats/`` knows the formats, ``judging.py`` what can be
counts, ``matching.py`` where gene identifiers are.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from geneformer_grn.cells.formats.detect import find_files, kind_of
from geneformer_grn.cells.source import CountSource

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["find_files", "open_source", "read_anndata", "read_h5ad"]


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

    from geneformer_grn.cells.formats.h5ad import explained

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
    with explained(path, ".h5ad"):
        return anndata.read_h5ad(path)
