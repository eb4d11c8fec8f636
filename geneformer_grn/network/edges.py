"""The edge table: one row per regulator → target pair, checked in one place, kept as plain TSV.

The universe that was scored (regulators × targets, cells, settings) travels in a JSON file beside the table:
a short list of edges cannot be judged without knowing which pairs could have been on it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geneformer_grn._runtime import atomic_path, logger, write_json

EDGE_COLUMNS = ("source", "target", "weight", "support", "sign", "group", "method", "p_value", "q_value")
"""Columns of an edge table, in order; the first three are required, further ones are kept.

``source``, ``target`` Ensembl IDs (a table from elsewhere may use any names); ``weight`` float32;
``support`` int32, cells that hold both genes; ``sign`` int8, +1 or -1, and 0 where the method knows none;
``group`` the cells it was computed in; ``method``; ``p_value`` and ``q_value`` float64, NaN where the method
has none.
"""

_DTYPES = {
    "weight": np.float32,
    "support": np.int32,
    "sign": np.int8,
    "p_value": np.float64,
    "q_value": np.float64,
}


@dataclass(frozen=True, kw_only=True)
class Universe:
    """Which pairs could have become edges, and how they were scored.

    Parameters
    ----------
    regulators, targets
        Ensembl IDs; every regulator was scored against every target but itself.
    n_cells
        Group -> number of cells.
    groups_column
        obs column of the groups; None where all cells are one group.
    settings
        What the scores depend on (methods, layers, penalties, seeds).
    """

    regulators: tuple[str, ...]
    targets: tuple[str, ...]
    n_cells: dict[str, int]
    groups_column: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def check_edges(edges: pd.DataFrame, *, name: str = "the edge table") -> pd.DataFrame:
    """Return a checked copy of an edge table with the dtypes of the schema.

    Self-edges are left out with a warning, since no method here scores them.

    Parameters
    ----------
    edges
        At least ``source``, ``target`` and ``weight``; of `EDGE_COLUMNS` what is there.
    name
        How messages call the table.

    Raises
    ------
    ValueError
        A column is missing, a weight is no finite number, a gene is empty, a sign is not -1, 0 or 1, or a
        pair occurs twice within one group and method.
    """
    missing = [column for column in EDGE_COLUMNS[:3] if column not in edges.columns]
    if missing:
        raise ValueError(
            f"{name} has no column {', '.join(missing)}; edges need source, target and weight "
            f"(found: {', '.join(map(str, edges.columns)) or 'none'})"
        )
    checked = edges.copy()
    for column in ("source", "target"):
        empty = checked[column].isna() | (checked[column].astype(str) == "")
        if empty.any():
            raise ValueError(f"{name} has an empty {column} in row {int(np.argmax(empty)) + 1}")
        checked[column] = checked[column].astype(str).astype(object)
    for column, dtype in _DTYPES.items():
        if column in checked.columns:
            checked[column] = _numbers(checked[column], column, dtype, name)
    for column in ("group", "method"):
        if column in checked.columns:
            checked[column] = checked[column].fillna("").astype(str).astype(object)
    self_edges = checked["source"] == checked["target"]
    if self_edges.any():
        logger.warning("%s: %d self-edges left out", name, int(self_edges.sum()))
        checked = checked[~self_edges]
    key = [column for column in ("source", "target", "group", "method") if column in checked.columns]
    repeated = checked.duplicated(key)
    if repeated.any():
        first = checked.loc[repeated, ["source", "target"]].iloc[0]
        raise ValueError(
            f"{name} holds {int(repeated.sum()):,} repeated edges; one may occur once per group and "
            f"method (first: {first['source']} → {first['target']})"
        )
    return checked.reset_index(drop=True)


def _numbers(values: pd.Series, column: str, dtype: type, name: str) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce")
    may_be_missing = column in {"p_value", "q_value"}
    wrong = ~np.isfinite(numbers) & (values.notna() if may_be_missing else True)
    if column == "sign":
        wrong |= ~numbers.isin((-1, 0, 1))
    if wrong.any():
        row = int(np.argmax(wrong))
        allowed = "-1, 0 or 1" if column == "sign" else "a finite number"
        raise ValueError(
            f"{name} has {values.iloc[row]!r} as {column} in row {row + 1}; it must be {allowed}"
        )
    return numbers.astype(dtype)


def write_table(table: pd.DataFrame, path: Path | str) -> None:
    """Write a table as TSV, atomically, compressed where the name ends in ``.gz``.

    Raises
    ------
    ValueError, PermissionError, NotADirectoryError
        See `check_destination`.
    """
    path = Path(path)
    check_destination(path)
    # a fixed time stamp makes equal tables equal files
    compression: Any = {"method": "gzip", "mtime": 0} if path.name.endswith(".gz") else None
    with atomic_path(path) as temporary:
        table.to_csv(temporary, sep="\t", index=False, compression=compression)


def universe_path(path: Path | str) -> Path:
    """Return where the universe of an edge table lies: ``edges.tsv`` -> ``edges.universe.json``."""
    path = Path(path)
    stem = path.name.removesuffix(".gz")
    return path.with_name(stem.rsplit(".", 1)[0] + ".universe.json")


def check_destination(path: Path | str) -> None:
    """Refuse, before any work is done, a path that a table cannot be written to.

    Raises
    ------
    ValueError
        `path` does not end in .tsv or .tsv.gz, or is a folder.
    PermissionError, NotADirectoryError
        Its folder cannot be made or written.
    """
    path = Path(path)
    if not path.name.endswith((".tsv", ".tsv.gz")):
        raise ValueError(f"tables are written as .tsv or .tsv.gz; {path.name!r} is neither")
    if path.is_dir():
        raise ValueError(f"cannot write the table {path}: it is a folder")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise NotADirectoryError(f"cannot write {path}: {folder} is not a folder")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"cannot write {path}: the folder {folder} is not writable")


def write_edges(edges: pd.DataFrame, path: Path | str, *, universe: Universe | None = None) -> None:
    """Write an edge table as TSV (compressed where the name ends in ``.gz``), and its universe beside it.

    Both files are written under a temporary name and renamed. Columns keep the order of `EDGE_COLUMNS`,
    further ones follow.

    Raises
    ------
    ValueError
        The table does not pass `check_edges`, or `path` does not end in .tsv or .tsv.gz.
    """
    path = Path(path)
    checked = check_edges(edges)
    first = [column for column in EDGE_COLUMNS if column in checked.columns]
    write_table(checked[[*first, *(column for column in checked.columns if column not in first)]], path)
    if universe is not None:
        write_json(universe_path(path), asdict(universe))


def read_edges(path: Path | str) -> pd.DataFrame:
    """Read and check an edge table (``.tsv``, ``.csv``, either with ``.gz``).

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        There is no such file.
    ValueError
        It is not a table, or does not pass `check_edges`.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the file with the edges")
    if not path.is_file():
        raise FileNotFoundError(f"no edge table at {path}")
    separator = "," if path.name.removesuffix(".gz").endswith(".csv") else "\t"
    text = dict.fromkeys(("source", "target", "group", "method"), str)
    try:
        # "NA" is a group or gene name as good as any other; only an empty field is missing
        table = pd.read_csv(path, sep=separator, dtype=text, keep_default_na=False, na_values=[""])
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError, EOFError) as error:
        raise ValueError(f"{path.name} is no table of edges: {error}") from error
    return check_edges(table, name=path.name)


def read_universe(path: Path | str) -> Universe | None:
    """Read the universe stored beside the edge table `path`; None where there is none.

    Raises
    ------
    ValueError
        The file is there but is not a universe.
    """
    beside = universe_path(path)
    if not beside.is_file():
        return None
    try:
        content = json.loads(beside.read_text(encoding="utf-8"))
        return Universe(
            regulators=tuple(content["regulators"]),
            targets=tuple(content["targets"]),
            n_cells=dict(content["n_cells"]),
            groups_column=content.get("groups_column"),
            settings=dict(content.get("settings", {})),
        )
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{beside.name} is not the universe of an edge table: {error}") from error
