"""Which cells of a file are read: by ``filter_pass``, by an expression over obs columns, by a sample.

An expression is checked before it runs: it may compare, add and combine columns and constants, and nothing
else. pandas itself would also call methods and look up Python variables, which no option of a command should.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

_ALLOWED = (
    ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.Invert, ast.USub, ast.UAdd,
    ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Mod, ast.BitAnd, ast.BitOr, ast.Compare, ast.Eq,
    ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn, ast.Name, ast.Load, ast.Constant,
    ast.List, ast.Tuple,
)  # fmt: skip
_BACKTICKED = re.compile(r"`([^`]+)`")
_EXAMPLE = "\"cell_type == 'B cell' and n_genes > 500\""
COPY = "copy"
"""What the column ``why`` of a table of cells to leave out calls copies of other cells."""


@dataclass(frozen=True, kw_only=True)
class ChosenRows:
    """The rows of a file that are read.

    Parameters
    ----------
    rows
        ``(k,)`` int64 row numbers, ascending.
    n_filtered
        Rows left out because ``filter_pass`` is not 1.
    n_not_asked
        Rows left out by the expression, or by a table for another reason than being a copy.
    n_not_sampled
        Rows left out by the sample.
    n_copies
        Rows left out as copies of cells elsewhere.
    """

    rows: np.ndarray
    n_filtered: int
    n_not_asked: int
    n_not_sampled: int
    n_copies: int = 0


@dataclass(frozen=True)
class LeftOut:
    """Rows of a file that a table leaves out, ``(k,)`` int64, ascending: copies, and for other reasons."""

    copies: np.ndarray
    others: np.ndarray


def choose_rows(
    obs: pd.DataFrame,
    name: str,
    *,
    where: str | None = None,
    copies: LeftOut | None = None,
    n_cells: int | None = None,
    seed: int = 0,
) -> ChosenRows:
    """Return the rows with ``filter_pass == 1`` (where there is such a column) that fit an expression.

    Parameters
    ----------
    obs
        ``n`` rows.
    name
        What messages call the file.
    where
        Expression over obs columns, see :func:`rows_where`; None: all rows.
    copies
        Cells that a table leaves out, mostly for being elsewhere too; None: none.
    n_cells
        Take a random sample of at most this many rows, in order; None: all.
    seed
        Seed of that sample.

    Raises
    ------
    ValueError
        No row is left, or the expression cannot be used.

    Examples
    --------
    >>> obs = pd.DataFrame({"filter_pass": [1, 0, 1], "depth": [5, 6, 7]})
    >>> choose_rows(obs, "cells", where="depth > 5").rows
    array([2])
    """
    if n_cells is not None and n_cells < 1:
        raise ValueError(f"{n_cells} cells were asked for; at least 1 is needed")
    chosen = np.ones(len(obs), dtype=bool)
    if "filter_pass" in obs:
        chosen &= obs["filter_pass"].astype(str).isin(["1", "1.0", "True"]).to_numpy()
        if not chosen.any():
            raise ValueError(
                f"{name}: no cell has obs['filter_pass'] == 1; drop that column to read all cells"
            )
    n_passing = int(chosen.sum())
    if where is not None:
        chosen &= rows_where(obs, where, name)
        if not chosen.any():
            raise ValueError(f"{name}: none of its {n_passing:,} cells fits --where {where!r}")
    n_copies = 0
    if copies is not None:
        chosen[copies.others] = False
        n_copies = int(chosen[copies.copies].sum())
        chosen[copies.copies] = False
        if not chosen.any():
            raise ValueError(f"{name}: all of its cells are left out by --without; leave the file out")
    n_fitting = int(chosen.sum()) + n_copies
    rows = np.flatnonzero(chosen).astype(np.int64)
    n_asked = len(rows)
    if n_cells is not None and n_cells < n_asked:
        rows = np.sort(np.random.default_rng(seed).choice(rows, n_cells, replace=False))
    return ChosenRows(
        rows=rows,
        n_filtered=len(obs) - n_passing,
        n_not_asked=n_passing - n_fitting,
        n_not_sampled=n_asked - len(rows),
        n_copies=n_copies,
    )


def read_left_out(path: Path | str, name: str, obs_names: pd.Index) -> LeftOut:
    """Return the rows of a file that a table leaves out.

    Parameters
    ----------
    path
        Tab-separated, as `geneformer-grn corpus duplicates` writes it; it needs ``file``, ``row``, ``cell``.
        With a column ``why``, cells of another reason than ``copy`` are not counted as copies.
    name
        Name of the file.
    obs_names
        Its cells, which must be those of the table.

    Raises
    ------
    FileNotFoundError
        There is no such table.
    ValueError
        It has other columns, or speaks of other cells.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such table of cells to leave out")
    # Without the defaults, a cell that is called NA would have no name.
    table = pd.read_csv(path, sep="\t", dtype={"file": str, "cell": str}, keep_default_na=False)
    if missing := sorted({"file", "row", "cell"} - set(table.columns)):
        raise ValueError(
            f"{path}: no column {', '.join(missing)}; `geneformer-grn corpus duplicates` writes such a table"
        )
    table = table[table["file"] == name]
    rows = table["row"].to_numpy(dtype=np.int64)
    known = (rows >= 0) & (rows < len(obs_names))
    known[known] = obs_names[rows[known]].astype(str) == table["cell"].to_numpy()[known]
    if not known.all():
        wrong = table.iloc[int(np.argmin(known))]
        raise ValueError(
            f"{path}: row {wrong['row']} of {name} is not {wrong['cell']!r}; the table was made of another "
            "state of the file. Make it anew"
        )
    is_copy = table["why"].eq(COPY).to_numpy() if "why" in table else np.ones(len(table), dtype=bool)
    return LeftOut(copies=np.unique(rows[is_copy]), others=np.unique(rows[~is_copy]))


def rows_where(obs: pd.DataFrame, where: str, name: str) -> np.ndarray:
    """Return ``(n,)`` bool: which rows fit an expression such as ``cell_type == 'B cell' and n_genes > 500``.

    Column names that are no Python names stand between backticks. Missing values fit no
    comparison but ``!=`` and ``not in``.

    Raises
    ------
    ValueError
        It is no expression, asks for more than columns and constants, or does not give yes or no.
    """
    parsed = _parse(where)
    columns = {node.id for node in ast.walk(parsed) if isinstance(node, ast.Name)}
    columns |= set(_BACKTICKED.findall(where))
    if missing := sorted(column for column in columns - {"_quoted"} if column not in obs.columns):
        raise ValueError(
            f"{name}: --where asks for {missing[0]!r}, which is no obs column; columns there: "
            f"{', '.join(map(str, obs.columns)) or 'none'}"
        )
    try:
        fits = obs.reset_index(drop=True).eval(where, engine="python")
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{name}: --where {where!r} cannot be computed: {reason}") from error
    if isinstance(fits, pd.Series) and fits.dtype == "boolean":  # pandas' own, which knows missing values
        values = fits.to_numpy(dtype=bool, na_value=False)
    else:
        values = np.asarray(fits)
    if values.shape != (len(obs),) or values.dtype != bool:
        raise ValueError(
            f"{name}: --where {where!r} does not say yes or no for each cell; write such as {_EXAMPLE}"
        )
    return values


def _parse(where: str) -> ast.Expression:
    """Return the expression's tree, backticked columns named ``_quoted``; refuse what is not allowed."""
    try:
        parsed = ast.parse(_BACKTICKED.sub("_quoted", where).strip(), mode="eval")
    except (SyntaxError, ValueError) as error:
        raise ValueError(
            f"--where {where!r} is no expression over obs columns; write such as {_EXAMPLE}"
        ) from error
    for node in ast.walk(parsed):
        if not isinstance(node, _ALLOWED):
            raise ValueError(
                f"--where {where!r} holds a {type(node).__name__}; only columns, constants, comparisons, "
                f"+ - * / %, and, or, not, in are allowed, such as {_EXAMPLE}"
            )
    return parsed
