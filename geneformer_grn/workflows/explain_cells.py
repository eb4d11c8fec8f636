"""Which cells are explained, each for which class, and which genes differ between the classes anyway."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from geneformer_grn._runtime import logger
from geneformer_grn.cells.counts import CellCounts, log_normalised
from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.evaluation.responders import differential_expression
from geneformer_grn.explanation.target import Explained
from geneformer_grn.workflows.explain_options import ExplainOptions
from geneformer_grn.workflows.labels import column_groups

_LEAST_GENES = 2  # a cell of one gene cannot lose it
_MOST_TESTED = 500  # cells of a class in the rank-sum test: its ranking hardly changes beyond


@dataclass(frozen=True, eq=False)
class ChosenCells:
    """Cells to explain.

    Parameters
    ----------
    cells
        ``(n,)`` int64 rows, ascending.
    targets
        ``(n,)`` int64 class of each.
    labels
        ``(n_all,)`` int64 class of every cell of the file, -1 where the model does not know it.
    donors
        ``(n,)`` str, or None.
    facts
        How many there were of each class.
    """

    cells: np.ndarray
    targets: np.ndarray
    labels: np.ndarray
    donors: np.ndarray | None
    facts: dict[str, int | str]


def choose_cells(
    models: list[Explained], counts: CellCounts, ranked: RankedCells, options: ExplainOptions
) -> ChosenCells:
    """Return the cells to explain, equally many of each class where there are as many.

    Raises
    ------
    ValueError
        There is no such column, the model knows no such class, a class that is asked for has no cells, or no
        cell has a class that the model knows.
    """
    explained = models[0]
    labels = _labels(models, counts, ranked, options)
    wanted = [explained.class_number(name) for name in options.classes] or range(len(explained.names))
    usable = ranked.lengths >= _LEAST_GENES
    held = {number: np.flatnonzero((labels == number) & usable) for number in wanted}
    empty = [explained.names[number] for number, rows in held.items() if not len(rows)]
    if options.classes and empty:
        raise ValueError(f"no cell of class {', '.join(empty)} in {_source(options)} of {counts.name}")
    held = {number: rows for number, rows in held.items() if len(rows)}
    if empty:
        logger.info("no cells of %s: not explained", ", ".join(empty))
    rng = np.random.default_rng(options.seed)
    sizes = _even_sizes([len(rows) for rows in held.values()], options.n_cells)
    drawn = [rng.choice(rows, size, replace=False) for rows, size in zip(held.values(), sizes, strict=True)]
    if alone := [explained.names[number] for number, rows in zip(held, drawn, strict=True) if len(rows) == 1]:
        logger.warning(
            "one cell is explained of: %s; whether a list of the class's genes is faithful shows in other "
            "cells of the class only, so there is no curve for it. Raise --cells, or give more of its cells",
            ", ".join(alone),
        )
    cells = np.concatenate(drawn)
    targets = np.repeat(list(held), [len(rows) for rows in drawn])
    order = np.argsort(cells, kind="stable")
    facts: dict[str, int | str] = {
        "labels": _source(options),
        "n_cells": len(cells),
        "n_cells_without_known_class": int((labels < 0).sum()),
        "n_classes": len(held),
    }
    donors = None if options.donors is None else _column(counts, options.donors, "--donors")
    return ChosenCells(
        cells=cells[order],
        targets=targets[order].astype(np.int64),
        labels=labels,
        donors=None if donors is None else donors[cells[order]],
        facts=facts,
    )


def expression_ranks(
    counts: CellCounts, chosen: ChosenCells, names: tuple[str, ...], genes: np.ndarray, *, seed: int
) -> pd.DataFrame:
    """Return the genes that are higher in the cells of each class than in those of the others.

    Parameters
    ----------
    counts
        All cells.
    chosen
        Their classes; at most 500 cells of each are tested.
    names
        Of the classes.
    genes
        ``(V,)`` Ensembl IDs by token.
    seed
        Seed of the sample.

    Returns
    -------
    ``class``, ``gene``, ``rank`` (1 for the smallest q of a gene that is higher; ties by the difference),
    ``difference`` of mean log-normalised expression, ``q_value``; empty with fewer than two classes. Genes
    that are lower follow, those that differ least first.
    """
    rng = np.random.default_rng(seed)
    expression = log_normalised(counts)
    known = np.unique(chosen.labels[chosen.labels >= 0])
    some = np.sort(
        np.concatenate(
            [rng.permutation(np.flatnonzero(chosen.labels == number))[:_MOST_TESTED] for number in known]
        )
    )
    ids = genes[counts.column_tokens]
    tables = []
    for number in np.unique(chosen.targets) if len(known) > 1 else []:
        own = some[chosen.labels[some] == number]
        effect, q_value = differential_expression(expression[own], expression[np.setdiff1d(some, own)])
        table = pd.DataFrame({"class": names[number], "gene": ids, "difference": effect, "q_value": q_value})
        table["key"] = np.where(effect > 0, table["q_value"].fillna(1.0), 2.0)
        table = table.sort_values(["key", "difference"], ascending=[True, False], kind="stable")
        tables.append(table.drop(columns="key").assign(rank=np.arange(1, len(table) + 1)))
    columns = ["class", "gene", "rank", "difference", "q_value"]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def _labels(
    models: list[Explained], counts: CellCounts, ranked: RankedCells, options: ExplainOptions
) -> np.ndarray:
    """Return the class of every cell, -1 where the model does not know it; 0 where it gives a number."""
    explained = models[0]
    if explained.spec.kind != "classification":
        return np.zeros(len(counts), dtype=np.int64)
    if options.label is None:
        name = explained.spec.name
        predicted = np.mean([model.model.predict(ranked, tasks=[name])[name] for model in models], axis=0)
        unknown = np.isnan(predicted).any(axis=1)
        return np.where(unknown, -1, np.nan_to_num(predicted).argmax(axis=1)).astype(np.int64)
    values = _column(counts, options.label, "--label")
    number = {name: place for place, name in enumerate(explained.names)}
    labels = np.array([number.get(value, -1) for value in values], dtype=np.int64)
    if (labels < 0).all():
        found = ", ".join(sorted(set(values.tolist()))[:6])
        raise ValueError(
            f"no cell of {counts.name} has a class that the model knows: {options.label!r} holds {found}; "
            f"the model knows {', '.join(explained.names)}"
        )
    return labels


def _column(counts: CellCounts, name: str, option: str) -> np.ndarray:
    if name not in counts.obs.columns:
        known = ", ".join(map(str, counts.obs.columns)) or "none"
        raise ValueError(f"no obs column {name!r} for {option}; {counts.name} has: {known}")
    return column_groups(counts.obs, name, ())


def _source(options: ExplainOptions) -> str:
    return "the model's predictions" if options.label is None else f"the column {options.label!r}"


def _even_sizes(available: list[int], total: int) -> list[int]:
    """Return how many to take of each, as even as can be: `total` together, and one at least of each."""
    left, sizes = max(total, len(available)), [0] * len(available)
    for done, place in enumerate(np.argsort(available, kind="stable")):
        sizes[place] = min(available[place], left // (len(available) - done))
        left -= sizes[place]
    return sizes
