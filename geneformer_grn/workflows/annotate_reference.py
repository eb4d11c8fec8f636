"""The labelled cells of an annotation: classes large enough, not too many, over the genes of both files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from geneformer_grn._runtime import logger
from geneformer_grn.cells.counts import CellCounts
from geneformer_grn.training.finetune_config import TaskSection
from geneformer_grn.workflows.finetune_cells import chosen_rows
from geneformer_grn.workflows.labels import cell_task, column_groups

if TYPE_CHECKING:
    from geneformer_grn.training.supervision import Task

MIN_SHARED_GENES = 50


def labelled_reference(
    counts: CellCounts, label: str, *, donors: str | None, least: int, most: int, seed: int
) -> tuple[CellCounts, Task, np.ndarray | None]:
    """Return the reference cells that have a label of a class large enough, their task and their donors.

    Parameters
    ----------
    counts
        All cells of the reference.
    label, donors
        obs columns; None: donors are not known.
    least
        Classes of fewer cells are left out.
    most
        Cells returned at most, the largest classes cut first, drawn from `seed`.

    Raises
    ------
    ValueError
        Fewer than two classes are large enough, or a column is not there.
    """
    section = TaskSection(name=label, kind="classification")
    task = cell_task(counts.obs, section)
    sizes = np.bincount(task.values[task.labelled], minlength=len(task.classes))
    if small := [f"{name} ({n})" for name, n in zip(task.classes, sizes, strict=True) if n < least]:
        logger.warning(
            "%s: classes of fewer than %d cells are left out: %s", counts.name, least, ", ".join(small)
        )
    rows = np.flatnonzero(task.labelled & (sizes[task.values] >= least))
    classes = tuple(name for name, n in zip(task.classes, sizes, strict=True) if n >= least)
    if len(classes) < 2:
        raise ValueError(
            f"{counts.name}: obs[{label!r}] has {len(classes)} classes of at least {least} cells; "
            "two or more are needed"
        )
    places = {task.classes.index(name): place for place, name in enumerate(classes)}
    values = np.array([places[value] for value in task.values[rows].tolist()], dtype=np.int64)
    keep = _sample(values, most, seed)
    whose = None
    if donors is not None:
        whose = column_groups(counts.obs, donors, section.missing)[rows[keep]]
    return chosen_rows(counts, rows[keep]), replace(task, values=values[keep], classes=classes), whose


def _sample(values: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Return the places of at most `most` units, ascending; the largest classes are cut first."""
    if len(values) <= most:
        return np.arange(len(values))
    sizes = np.sort(np.bincount(values))
    room, left = most, len(sizes)
    cap = 0
    for size in sizes:
        cap = room // left
        if size > cap:
            break
        room, left = room - int(size), left - 1
    generator = np.random.default_rng(seed)
    parts = [
        generator.permutation(np.flatnonzero(values == label))[: max(cap, 1)] for label in np.unique(values)
    ]
    return np.sort(np.concatenate(parts))


def over_shared_genes(reference: CellCounts, query: CellCounts) -> tuple[CellCounts, int]:
    """Return both files' cells over the genes both measured, the reference first, and how many those are.

    Totals are over the shared genes, so that a panel and a whole transcriptome are normalised alike.

    Raises
    ------
    ValueError
        They share too few genes.
    """
    tokens = np.intersect1d(reference.column_tokens, query.column_tokens)
    if len(tokens) < MIN_SHARED_GENES:
        raise ValueError(
            f"{reference.name} and {query.name} share {len(tokens)} genes of the vocabulary; at least "
            f"{MIN_SHARED_GENES} are needed to carry labels from one to the other"
        )
    aligned = []
    for part in (reference, query):
        columns = np.argsort(part.column_tokens, kind="stable")
        places = columns[np.searchsorted(part.column_tokens, tokens, sorter=columns)]
        aligned.append(part.matrix.tocsc()[:, places].tocsr())
    matrix = sparse.csr_matrix(sparse.vstack(aligned, format="csr"))
    obs = pd.concat([reference.obs, query.obs])
    joined = replace(
        reference, matrix=matrix, column_tokens=tokens, obs=obs, kept=np.arange(len(obs)),
        n_counts=np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel(),
    )  # fmt: skip
    return joined, len(tokens)
