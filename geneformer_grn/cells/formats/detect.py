"""What kind of count file a path is, by its content; and which files of a folder are count files, by name."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from geneformer_grn.cells.formats.tenx import is_mtx_table, matrix_files

ACCEPTED = (
    ".h5ad, .zarr (folder or .zarr.zip), 10x .h5, 10x folders with matrix.mtx(.gz), .loom, and .csv, .tsv or "
    ".txt tables (gzipped or not)"
)
_SUFFIXES = (".h5ad", ".h5", ".loom", ".zarr.zip", ".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
_NO_COUNTS = (".", "readme", "license", "licence")
_ZARR = ("zarr.json", ".zgroup", ".zattrs")


def kind_of(path: Path) -> str:
    """Return the kind of a count file: ``h5ad``, ``zarr``, ``10x h5``, ``10x mtx``, ``loom`` or ``text``.

    Raises
    ------
    FileNotFoundError, PermissionError
        There is no such file, or this user may not read it.
    ValueError
        It is of none of these kinds, or damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        if path.is_dir():
            return _kind_of_folder(path)
        with path.open("rb") as file:
            head = file.read(1 << 16)
    except PermissionError as error:
        raise PermissionError(f"{path} may not be read by this user") from error
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return _kind_of_hdf5(path)
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path)
    if path.suffix == ".h5ad" or not head:
        empty = "" if head else "; it is empty"
        raise ValueError(f"{path} is not an .h5ad file (not HDF5 at all{empty})")
    if head.startswith(b"\x1f\x8b"):
        try:
            with gzip.open(path, "rb") as packed:
                head = packed.read(1 << 16)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is truncated or damaged: {error}") from error
    if head.lower().startswith(b"%%matrixmarket"):
        return "10x mtx"
    if b"\0" in head or not head.strip():
        raise ValueError(f"{path} is no count file; accepted are {ACCEPTED}")
    return "text"


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as packed:
            names = {name.rpartition("/")[2] for name in packed.namelist()}
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is truncated or damaged: {error}") from error
    if not names.intersection(_ZARR):
        raise ValueError(f"{path} is a zip archive, but no zarr store; accepted are {ACCEPTED}")
    return "zarr"


def _kind_of_folder(path: Path) -> str:
    if any((path / name).is_file() for name in _ZARR):
        return "zarr"
    found = matrix_files(path)
    if len(found) == 1:
        return "10x mtx"
    if found:
        raise ValueError(
            f"{path} holds {len(found)} matrix.mtx files; name one of them: "
            f"{', '.join(file.name for file in found[:5])}"
        )
    raise ValueError(f"{path} is a folder, but neither a zarr store nor one with a matrix.mtx(.gz)")


def _kind_of_hdf5(path: Path) -> str:
    import h5py

    try:
        with h5py.File(path, "r") as handle:
            keys = set(handle)
            if {"obs", "var"} <= keys:
                return "h5ad"
            if "matrix" in keys and isinstance(handle["matrix"], h5py.Group):
                return _tenx_or_not(path, [handle["matrix"]])
            if {"matrix", "row_attrs", "col_attrs"} <= keys:
                return "loom"
            groups = [handle[key] for key in keys]
            return _tenx_or_not(path, groups if all(isinstance(g, h5py.Group) for g in groups) else [])
    except OSError as error:
        raise ValueError(f"{path} is truncated or damaged: {error}") from error


def _tenx_or_not(path: Path, groups: list) -> str:
    needed = {"data", "indices", "indptr", "shape", "barcodes"}
    if groups and all(needed <= set(group) and {"features", "genes"} & set(group) for group in groups):
        return "10x h5"
    held = sorted({key for group in groups for key in group}) if groups else []
    inside = f" (a group with {held[:6]})" if held else ""
    raise ValueError(
        f"{path} is an HDF5 file, but neither .h5ad nor 10x nor loom{inside}. Read it with the tool that "
        "made it and write it with AnnData.write_h5ad"
    )


def find_files(paths: Sequence[Path | str]) -> list[Path]:
    """Return the count files that paths stand for: a folder stands for those in and below it, sorted by path.

    Parameters
    ----------
    paths
        Files and folders. A zarr store, or a folder with one ``matrix.mtx``, is itself a file, and is not
        looked into. Hidden files and folders are left out.

    Returns
    -------
    list of Path
        In the order of `paths`, each once.

    Raises
    ------
    FileNotFoundError
        A path is not there.
    ValueError
        A folder holds no count files.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file")
        files = [path] if path.is_file() or _is_one_file(path) else _files_in(path)
        if not files:
            raise ValueError(f"{path} holds no count files; accepted are {ACCEPTED}")
        found += [file for file in files if file not in found]
    return found


def _is_one_file(folder: Path) -> bool:
    try:
        return bool(_kind_of_folder(folder))
    except ValueError:
        return False


def _files_in(folder: Path, above: tuple[Path, ...] = ()) -> list[Path]:
    place = folder.resolve()
    if place in above:  # a link to a folder that it lies in
        return []
    files = []
    several = set(matrix_files(folder))
    for entry in sorted(folder.iterdir()):
        name = entry.name.lower()
        if entry.is_dir():
            if not name.startswith("."):
                files += [entry] if _is_one_file(entry) else _files_in(entry, (*above, place))
        elif name.startswith(_NO_COUNTS):
            continue
        elif entry in several or (name.endswith(_SUFFIXES) and not is_mtx_table(entry)):
            files.append(entry)
    return files
