"""From tasks and splits to lessons: what the training parts teach, and how much each unit weighs.

A gene is asked for in every training cell that holds it, so balanced classes are balanced by how often their
genes are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from geneformer_grn._runtime import logger
from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.model.heads import HeadSpec
from geneformer_grn.model.pooling import Pooling
from geneformer_grn.training.finetune_checks import check_tasks, check_vocabulary
from geneformer_grn.training.finetune_data import Lesson, Lessons
from geneformer_grn.training.finetune_settings import FinetuneOptim, FinetuneSettings
from geneformer_grn.training.supervision import Level, Split, Task


def make_lessons(
    ranked: RankedCells,
    tasks: Sequence[Task],
    splits: Mapping[Level, Split],
    *,
    vocabulary: GeneVocabulary,
    settings: FinetuneSettings,
) -> Lessons:
    """Return what the training part of each split teaches.

    Gene tasks are read in the training cells where there is a split of cells, else in all cells.

    Parameters
    ----------
    ranked
        All cells, in the order of the cell tasks.
    tasks
        What to learn; names differ.
    splits
        By level.
    vocabulary
        Of the cells.
    settings
        Pooling, length, class weights.

    Raises
    ------
    ValueError
        Tasks and cells do not fit, a level has no split, or a task has nothing to learn from.
    """
    check_tasks(ranked, tasks, splits)
    if settings.optim.gene_dropout and any(task.level == "gene" for task in tasks):
        raise ValueError(
            "gene_dropout would hide the genes that are to be labelled; it is for tasks of cells"
        )
    check_vocabulary(tasks, vocabulary, settings.model)
    longest = vocabulary.max_length if settings.model.max_length is None else settings.model.max_length
    longest = min(longest, vocabulary.max_length)
    allowed = ranked.lengths > 0
    if "cell" in splits:
        inside = np.zeros(len(ranked), dtype=bool)
        inside[splits["cell"].train] = True
        allowed &= inside
    held = _held_tokens(ranked, longest - vocabulary.n_wrapping)
    lessons = tuple(
        _cell_lesson(task, allowed, settings)
        if task.level == "cell"
        else _gene_lesson(
            task, splits["gene"], allowed, held=held, n_tokens=len(vocabulary), settings=settings
        )
        for task in tasks
    )
    asked = allowed & (np.sum([lesson.per_cell for lesson in lessons], axis=0) > 0)
    if "cell" in splits and (n_empty := int((ranked.lengths[splits["cell"].train] == 0).sum())):
        logger.info("%d training cells hold no gene of the vocabulary and are left out", n_empty)
    return Lessons(lessons, ranked, vocabulary, np.flatnonzero(asked), longest)


def head_spec(task: Task, pooling: Pooling) -> HeadSpec:
    """Return the head that a task asks for."""
    return HeadSpec(
        task.name, task.level, task.kind, tuple(task.classes), "mean" if task.level == "gene" else pooling
    )


def _held_tokens(ranked: RankedCells, room: int) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens, and the cell of each, that the model reads: the first `room` of every cell."""
    read = ranked.cropped(room)
    return read.tokens, np.repeat(np.arange(len(ranked)), read.lengths)


def _cell_lesson(task: Task, allowed: np.ndarray, settings: FinetuneSettings) -> Lesson:
    spec = head_spec(task, settings.model.pooling)
    asked = task.labelled & allowed
    units = np.flatnonzero(asked)
    if len(units) == 0:
        raise ValueError(
            f"no training cell with a label of task {task.name!r} holds a gene of the vocabulary"
        )
    targets, mean, deviation = _targets(task, units)
    weights = asked * class_weights(task, task.values, asked.astype(float), settings.optim)
    return Lesson(
        task, spec, torch.from_numpy(targets), torch.from_numpy(weights.astype(np.float32)), weights, units,
        mean, deviation,
    )  # fmt: skip


def _gene_lesson(
    task: Task,
    split: Split,
    allowed: np.ndarray,
    *,
    held: tuple[np.ndarray, np.ndarray],
    n_tokens: int,
    settings: FinetuneSettings,
) -> Lesson:
    tokens, cell_of = held
    genes = np.asarray(task.gene_tokens, dtype=np.int64)
    counts = np.bincount(tokens[allowed[cell_of]], minlength=n_tokens)
    chosen = split.train[task.labelled[split.train]]
    units = np.sort(chosen[counts[genes[chosen]] > 0])
    if len(units) == 0:
        raise ValueError(f"no training cell holds a labelled training gene of task {task.name!r}")
    by_unit, mean, deviation = _targets(task, units)
    targets = np.zeros(n_tokens, dtype=by_unit.dtype)
    targets[genes[units]] = by_unit[units]
    asked = np.zeros(n_tokens)
    asked[genes[units]] = 1.0
    values = np.zeros(n_tokens, dtype=task.values.dtype)
    values[genes[units]] = task.values[units]
    weights = asked * class_weights(task, values, asked * counts, settings.optim)
    per_cell = np.bincount(cell_of, weights[tokens], minlength=len(allowed)) * allowed
    return Lesson(
        task, head_spec(task, settings.model.pooling), torch.from_numpy(targets),
        torch.from_numpy(weights.astype(np.float32)), per_cell, units, mean, deviation,
    )  # fmt: skip


def _targets(task: Task, units: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Return targets by unit, 0 where there is no label, with mean and deviation of the training values."""
    if task.kind != "regression":
        return np.where(task.labelled, task.values, 0).astype(np.int64), 0.0, 1.0
    mean, deviation = float(task.values[units].mean()), float(task.values[units].std())
    standard = (np.nan_to_num(task.values) - mean) / deviation
    return standard.astype(np.float32), mean, deviation


def class_weights(task: Task, values: np.ndarray, counts: np.ndarray, settings: FinetuneOptim) -> np.ndarray:
    """Return a weight by unit, so that classes weigh equally; `counts` says how often a unit is asked."""
    if settings.class_weights == "none" or task.kind == "regression":
        return np.ones(len(values))
    places = np.where(counts > 0, values, 0).astype(np.int64)
    sizes = np.bincount(places, counts, minlength=len(task.classes))
    present = max(1, int((sizes > 0).sum()))
    weights = np.divide(sizes.sum() / present, sizes, out=np.zeros(len(sizes)), where=sizes > 0)
    return np.asarray(weights[places])
