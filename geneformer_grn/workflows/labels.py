"""Labels out of an obs table or a gene table, as tasks: what is missing, too rare, numeric or confounded.

Class ids are places in the sorted names, so they depend on which classes there are and not on the order of
rows. Numbers are never taken for classes, nor classes for numbers, unless the config says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from geneformer_grn._runtime import logger
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.training.finetune_config import TaskSection
from geneformer_grn.training.supervision import MISSING, Kind, Task

_MOST_CLASSES = 200


def cell_task(obs: pd.DataFrame, section: TaskSection) -> Task:
    """Return the labels of cells.

    Parameters
    ----------
    obs
        ``n`` rows, one a cell.
    section
        Which column, and what its values are.

    Raises
    ------
    ValueError
        There is no such column, it holds numbers and no kind is given, or fewer than two classes remain.

    Examples
    --------
    >>> obs = pd.DataFrame({"type": ["b", "a", "b", "unknown", "a", "a", "b"]})
    >>> task = cell_task(obs, TaskSection(name="type"))
    >>> task.classes, task.values.tolist()
    (('a', 'b'), [1, 0, 1, -1, 0, 0, 1])
    """
    column = section.column or section.name
    if column not in obs.columns:
        raise ValueError(
            f"no obs column {column!r} for task {section.name!r}; the cells have: {_listed(obs)}"
        )
    return label_task(obs[column], section)


def gene_task(path: Path, section: TaskSection, vocabulary: GeneVocabulary) -> Task:
    """Return the labels of genes from a TSV: a column ``gene`` (symbols or Ensembl IDs) and one of labels.

    Genes that the vocabulary lacks are left out, with a warning.

    Raises
    ------
    FileNotFoundError
        There is no such table.
    ValueError
        It has no such columns, names a gene twice with two labels, or holds no known gene.
    """
    from geneformer_grn.genes.mapping import lookup

    if not path.is_file():
        raise FileNotFoundError(f"there is no gene table {path.name} for task {section.name!r}")
    try:
        table = pd.read_csv(path, sep="\t", dtype={"gene": str})
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path.name} is not a tab-separated table of genes: {error}") from error
    column = section.column or section.name
    for name in ("gene", column):
        if name not in table.columns:
            raise ValueError(f"{path.name} has no column {name!r}; it has: {_listed(table)}")
    table = table[table["gene"].notna()]
    known = [bool(lookup([name], vocabulary)[0]) for name in table["gene"]]
    if not any(known):
        raise ValueError(f"{path.name}: none of its {len(table):,} genes is in the model's vocabulary")
    if not all(known):
        logger.warning("%s: %d of %d genes are not in the model's vocabulary and left out", path.name,
                       len(known) - sum(known), len(known))  # fmt: skip
    table = table[known]
    tokens = np.array(lookup(table["gene"].tolist(), vocabulary)[0], dtype=np.int64)
    order = np.argsort(tokens, kind="stable")
    labels = table[column].iloc[order].reset_index(drop=True)
    repeated = np.flatnonzero(np.diff(tokens[order]) == 0)
    for place in repeated:
        if labels[place] != labels[place + 1]:
            raise ValueError(f"{path.name} gives {vocabulary.symbols[tokens[order][place]]} two labels")
    kept = np.setdiff1d(np.arange(len(order)), repeated)
    return label_task(labels.iloc[kept], section, tokens=tokens[order][kept])


def label_task(column: pd.Series, section: TaskSection, *, tokens: np.ndarray | None = None) -> Task:
    """Return the task that a column of labels makes.

    Parameters
    ----------
    column
        ``(n,)`` labels.
    section
        What they are.
    tokens
        ``(n,)`` vocabulary indices where the units are genes.

    Raises
    ------
    ValueError
        They are numbers and no kind is given, or not what the kind needs, or fewer than two classes remain.
    """
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if numeric and section.kind is None:
        raise ValueError(
            f"the labels of task {section.name!r} are numbers ({column.nunique():,} different ones); say "
            'kind = "regression", "classification" or "ordinal" in its section'
        )
    kind: Kind = section.kind or "classification"
    if kind == "regression":
        return Task(section.name, section.level, kind, _numbers(column, section), gene_tokens=tokens)
    names = _names(column, section)
    classes = _classes(names, column if numeric else None, section, kind)
    place = {name: number for number, name in enumerate(classes)}
    values = np.array([place.get(name, MISSING) for name in names], dtype=np.int64)
    return Task(section.name, section.level, kind, values, classes, gene_tokens=tokens)


def column_groups(obs: pd.DataFrame, column: str, missing: Sequence[str]) -> np.ndarray:
    """Return ``(n,)`` str groups of cells (donors, batches), empty where the column says it is not known.

    Raises
    ------
    ValueError
        There is no such column.
    """
    if column not in obs.columns:
        raise ValueError(f"no obs column {column!r} to split by; the cells have: {_listed(obs)}")
    return _text(obs[column], missing)


def _text(column: pd.Series, missing: Sequence[str]) -> np.ndarray:
    """Return values as str, empty where missing; whole numbers without a fraction (``1.0`` is ``1``)."""
    absent = column.isna().to_numpy()
    values = column
    if pd.api.types.is_float_dtype(column) and bool((column.dropna() % 1 == 0).all()):
        values = column.astype("Int64")
    names = np.array([str(value).strip() for value in values], dtype=object)
    lowered = {word.lower() for word in missing}
    names[absent | np.array([name.lower() in lowered for name in names], dtype=bool)] = ""
    return names


def _names(column: pd.Series, section: TaskSection) -> np.ndarray:
    """Return the class name of each unit, empty where it has none that is asked for or frequent enough."""
    names = _text(column, section.missing)
    if section.classes:
        if unknown := sorted(set(section.classes) - set(names.tolist())):
            raise ValueError(f"task {section.name!r}: no label is {unknown[0]!r}; found: {_first(names)}")
        others = ~np.isin(names, list(section.classes)) & (names != "")
        if others.any() and section.kind == "ordinal":
            raise ValueError(f"task {section.name!r}: {_first(names[others])} not among its ordered classes")
        names = np.where(others, "", names)
    counts = pd.Series(names[names != ""]).value_counts()
    if rare := sorted(counts.index[counts < section.min_units]):
        logger.warning(
            "task %r: left out, since fewer than %d have them: %s", section.name, section.min_units,
            ", ".join(f"{name} ({counts[name]})" for name in rare),
        )  # fmt: skip
        names = np.where(np.isin(names, rare), "", names)
    return names


def _classes(
    names: np.ndarray, numbers: pd.Series | None, section: TaskSection, kind: Kind
) -> tuple[str, ...]:
    found = sorted(set(names.tolist()) - {""})
    if kind == "ordinal":
        if section.classes:
            found = [name for name in section.classes if name in set(found)]
        elif numbers is not None:
            found = sorted(found, key=float)
        else:
            raise ValueError(f"task {section.name!r} is ordinal: list its classes in ascending order")
    if len(found) < 2:
        raise ValueError(
            f"task {section.name!r} has {len(found)} class{'es' if not found else ''} with at least "
            f"{section.min_units} labels{f' ({found[0]})' if found else ''}; there is nothing to tell apart"
        )
    if len(found) > _MOST_CLASSES:
        raise ValueError(
            f"task {section.name!r} has {len(found):,} classes, at most {_MOST_CLASSES} are sensible (first: "
            f'{", ".join(found[:3])}); is it a name, or a number (kind = "regression")?'
        )
    return tuple(found)


def _numbers(column: pd.Series, section: TaskSection) -> np.ndarray:
    text = _text(column, section.missing)
    values = pd.to_numeric(column.astype(object).where(text != ""), errors="coerce").to_numpy(
        dtype=np.float64
    )
    if len(wrong := text[(text != "") & ~np.isfinite(values)]):
        raise ValueError(f"task {section.name!r} is a regression, and its labels hold {_first(wrong)}")
    if np.isfinite(values).sum() < max(section.min_units, 3) or np.nanstd(values) == 0:
        raise ValueError(f"task {section.name!r}: a regression needs at least three labels that differ")
    return values


def _first(names: np.ndarray) -> str:
    found = sorted(set(names.tolist()) - {""})
    return ", ".join(map(repr, found[:5])) + (", ..." if len(found) > 5 else "")


def _listed(table: pd.DataFrame) -> str:
    return ", ".join(map(str, table.columns)) or "none"
