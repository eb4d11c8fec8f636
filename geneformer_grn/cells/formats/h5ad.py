"""AnnData on disk: ``.h5ad`` files of all ages, zarr stores, and an AnnData in memory or backed.

The tables are read by anndata; the matrices are not, because only their slices are wanted: their arrays are
taken straight from HDF5 or zarr, which look alike from here. ``uns`` is left unread but for what a source
states of itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geneformer_grn._runtime import raised_on_purpose
from geneformer_grn.cells.formats.chunks import check_chunks, dense_matrix
from geneformer_grn.cells.formats.matrices import DenseRows, SparseRows, StoredMatrix, as_csr
from geneformer_grn.cells.formats.transpose import sparse_columns
from geneformer_grn.cells.source import NOT_STATED, CountSource

if TYPE_CHECKING:
    from anndata import AnnData

NEWER_ANNDATA = (
    "holds something that the anndata installed here cannot read; it needs a newer anndata (upgrade it, or "
    "write the file again with an older one)"
)


@contextmanager
def explained(path: Path, kind: str) -> Iterator[None]:
    """Turn what storage libraries raise on a damaged or newer file into a ValueError that names the file.

    Raises
    ------
    ValueError
        Reading failed.
    """
    from anndata._io.specs.registry import IORegistryError

    try:
        with warnings.catch_warnings():
            # Repeated names and old file layouts are judged by us, with what to do about them.
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield
    except IORegistryError as error:
        raise ValueError(f"{path} {NEWER_ANNDATA}") from error
    except ValueError as error:
        if raised_on_purpose(error):
            raise
        raise ValueError(_damaged(path, kind, error)) from error
    except (OSError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(_damaged(path, kind, error)) from error


def _damaged(path: Path, kind: str, error: Exception) -> str:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return f"{path} cannot be read as {kind}; it is probably damaged: {reason}"


def open_h5ad(path: Path, layer: str | None) -> CountSource:
    """Open an ``.h5ad`` file; see :func:`~geneformer_grn.cells.opening.open_source`."""
    import h5py

    resources = ExitStack()
    with resources:
        handle = resources.enter_context(h5py.File(path, "r"))
        with explained(path, ".h5ad"):
            return _open_group(handle, path, layer, kind="h5ad", resources=resources.pop_all())
    raise AssertionError  # for mypy: the with block returns or raises


def open_zarr(path: Path, layer: str | None) -> CountSource:
    """Open an AnnData's zarr store, folder or zip; see :func:`~geneformer_grn.cells.opening.open_source`."""
    import zarr

    resources = ExitStack()
    with resources, explained(path, "zarr"):
        store: Any = path
        if path.is_file():
            store = zarr.storage.ZipStore(path, mode="r")
            resources.callback(store.close)
        group = zarr.open_group(store, mode="r")
        if not {"obs", "var"} <= set(group):
            raise ValueError(
                f"{path} is a zarr store, but not of an AnnData: it holds {sorted(group)[:5]} and no obs and "
                "var. Write it with AnnData.write_zarr"
            )
        return _open_group(group, path, layer, kind="zarr", resources=resources.pop_all())
    raise AssertionError  # for mypy: the with block returns or raises


def _open_group(group: Any, path: Path, layer: str | None, *, kind: str, resources: ExitStack) -> CountSource:
    with ExitStack() as undo:
        undo.enter_context(resources)
        places = _places(group)
        label = chosen_place(places, layer, str(path))
        node, table, _ = places[label]
        uns = group.get("uns", {})
        source = CountSource(
            name=path.name, kind=kind, path=path,
            obs=_read_table(group, "obs"), var=_read_table(group, table), label=label,
            matrix=stored_matrix(node, f"{label} of {path.name}", resources),
            mapped="map_genes" in uns.get("geneformer_grn", {}),
            stated={key: _stated(uns, key) for key in ("license", "source")},
            others={
                place: (option, partial(stored_matrix, other, f"{place} of {path.name}", resources))
                for place, (other, _, option) in places.items()
                if place != label
            },
            resources=resources,
        )  # fmt: skip
        undo.pop_all()
    return source


def _places(group: Any) -> dict[str, tuple[Any, str, str]]:
    """Return the matrices of a file: label -> (node, path of its gene table, option that chooses it)."""
    places: dict[str, tuple[Any, str, str]] = {}
    if "X" in group and _attributes(group["X"]).get("encoding-type") != "null":
        places["X"] = (group["X"], "var", "leave --layer out")
    for name in group.get("layers", ()):
        places[f"layer {name!r}"] = (group["layers"][name], "var", f"pass --layer {name}")
    if "raw" in group and "X" in group["raw"]:
        places["raw"] = (group["raw"]["X"], "raw/var", "pass --layer raw")
    elif "raw.X" in group:  # anndata before 0.7
        places["raw"] = (group["raw.X"], "raw.var", "pass --layer raw")
    return places


def chosen_place(places: dict[str, Any], layer: str | None, where: str) -> str:
    """Return which of a file's matrices (``X``, ``layer 'name'``, ``raw``) a layer option means.

    Raises
    ------
    ValueError
        It is not there.
    """
    named = [place.removeprefix("layer ").strip("'\"") for place in places if place != "X"]
    there = f"layers there: {', '.join(named)}" if named else "the file has no layers"
    if layer is None:
        if "X" not in places:
            raise ValueError(f"{where}: X is empty; name the layer with raw counts by --layer ({there})")
        return "X"
    if f"layer {layer!r}" in places:
        return f"layer {layer!r}"
    if layer == "raw" and "raw" in places:
        return "raw"
    raise ValueError(f"{where}: there is no layer {layer!r}; {there}")


def _attributes(node: Any) -> dict[str, Any]:
    return dict(node.attrs)


def stored_matrix(node: Any, what: str, resources: ExitStack) -> StoredMatrix:
    """Return the reader of a matrix as AnnData stores it, in HDF5 or zarr, old encodings included.

    Parameters
    ----------
    node
        Its group (sparse) or array (dense).
    what
        What messages call it.
    resources
        Closes the temporary files of a matrix stored by column, or dense in tall chunks.

    Raises
    ------
    ValueError
        Its encoding is unknown, its parts do not fit together, or chunks of it are missing.
    """
    attributes = _attributes(node)
    encoding = attributes.get("encoding-type") or attributes.get("h5sparse_format") or "array"
    encoding = encoding.decode() if isinstance(encoding, bytes) else str(encoding)
    if encoding in {"csr_matrix", "csc_matrix", "csr", "csc"}:
        shape = attributes.get("shape", attributes.get("h5sparse_shape"))
        if shape is None or len(shape) != 2:
            raise ValueError(f"{what} is damaged: it has no shape")
        missing = [key for key in ("data", "indices", "indptr") if key not in node]
        if missing:
            raise ValueError(f"{what} is damaged: {' and '.join(missing)} missing")
        arrays = (node["data"], node["indices"], node["indptr"])
        size = (int(shape[0]), int(shape[1]))
        by_row = encoding.startswith("csr")
        check_chunks(*arrays, shape=size if by_row else size[::-1], what=what)
        if by_row:
            return SparseRows(*arrays, shape=size, what=what)
        return sparse_columns(*arrays, shape=size, what=what, resources=resources)
    if encoding != "array" or not hasattr(node, "dtype"):
        raise ValueError(f"{what} is stored as {encoding!r}: the file {NEWER_ANNDATA}")
    if len(node.shape) != 2:
        raise ValueError(f"{what} has {len(node.shape)} dimensions; cells × genes are needed")
    return dense_matrix(node, what, resources)


def _read_table(group: Any, key: str) -> pd.DataFrame:
    """Read obs or var; before anndata 0.7 they were record arrays, with the categories in ``uns``."""
    from anndata.io import read_elem

    node = group[key]
    if not hasattr(node, "dtype"):
        return read_elem(node)
    records = node[()]
    names = list(records.dtype.names)
    table = pd.DataFrame({name: _texts(records[name]) for name in names})
    table = table.set_index("index" if "index" in names else names[0])
    for name in table.columns:
        if "uns" in group and f"{name}_categories" in group["uns"]:
            categories = _texts(np.atleast_1d(group["uns"][f"{name}_categories"][()]))
            codes = table[name].to_numpy(dtype=np.int64)
            table[name] = pd.Categorical.from_codes(codes, categories=pd.Index(categories))
    return table


def _texts(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "SO":
        return values
    return np.array([value.decode() if isinstance(value, bytes) else value for value in values], dtype=object)


def _stated(uns: Any, key: str) -> str:
    if key not in uns or not hasattr(uns[key], "dtype"):
        return NOT_STATED
    value = uns[key][()]
    value = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    return str(value.decode() if isinstance(value, bytes) else value) or NOT_STATED


def open_adata(adata: AnnData, layer: str | None) -> CountSource:
    """Open an AnnData in memory or backed, without changing or copying it."""
    places = _memory_places(adata)
    name = "the AnnData"
    label = chosen_place(places, layer, name)
    find, var, _ = places[label]
    resources = ExitStack()
    return CountSource(
        name=name, kind="AnnData", path=None, obs=adata.obs, var=var, label=label,
        matrix=_held_matrix(find, adata, f"{label} of {name}", resources),
        mapped="map_genes" in adata.uns.get("geneformer_grn", {}),
        stated={key: str(adata.uns.get(key) or NOT_STATED) for key in ("license", "source")},
        others={
            place: (option, partial(_held_matrix, other, adata, f"{place} of {name}", resources))
            for place, (other, _, option) in places.items()
            if place != label
        },
        resources=resources,
    )  # fmt: skip


def _memory_places(adata: AnnData) -> dict[str, tuple[Callable[[AnnData], Any], pd.DataFrame, str]]:
    """Return label -> (function that finds the matrix in an AnnData, its gene table, option)."""
    places: dict[str, tuple[Callable[[AnnData], Any], pd.DataFrame, str]] = {}
    # Asking a view of a backed AnnData for X would read all of it.
    if adata.isbacked or adata.X is not None:
        places["X"] = (attrgetter("X"), adata.var, "leave --layer out")
    for name in adata.layers:
        places[f"layer {name!r}"] = (
            partial(_layer, name), adata.var, f"pass --layer {name}",
        )  # fmt: skip
    if adata.raw is not None:
        places["raw"] = (attrgetter("raw.X"), adata.raw.var, "pass --layer raw")
    return places


def _layer(name: str, adata: AnnData) -> Any:
    return adata.layers[name]


def _held_matrix(
    find: Callable[[AnnData], Any], adata: AnnData, what: str, resources: ExitStack
) -> StoredMatrix:
    if adata.isbacked and adata.is_view:
        return _viewed_matrix(find, adata, what)
    matrix = find(adata)
    if hasattr(matrix, "group"):  # anndata's handle of a sparse matrix in a file
        return stored_matrix(matrix.group, what, resources)
    if type(matrix).__module__.partition(".")[0] in {"h5py", "zarr"}:
        return stored_matrix(matrix, what, resources)
    if isinstance(matrix, np.ndarray) and matrix.ndim == 2:
        array = np.asarray(matrix)
        return DenseRows(
            lambda start, stop: array[start:stop], shape=array.shape, dtype=array.dtype, what=what
        )
    held = as_csr(matrix, what)
    return SparseRows(held.data, held.indices, held.indptr, shape=held.shape, what=what)


def _viewed_matrix(find: Callable[[AnnData], Any], adata: AnnData, what: str) -> StoredMatrix:
    """Return the reader of a view of a backed AnnData, which can be sliced through its parent only."""
    parent: Any = adata._adata_ref
    rows = np.arange(parent.n_obs)[adata._oidx]
    first: Any = find(parent[rows[:1], adata._vidx])
    return DenseRows(
        lambda start, stop: find(parent[rows[start:stop], adata._vidx]),
        shape=(adata.n_obs, first.shape[1]), dtype=first.dtype, what=what,
    )  # fmt: skip
