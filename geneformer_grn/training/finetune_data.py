"""What labelled cells and genes teach, and in which batches: targets and weights, told by cell or by token.

Every process plans the whole step, its own batches and those of the others, so that a loss is divided by the
weight of all of them without asking anybody. Batches depend on (seed, epoch) alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geneformer_grn._runtime import logger
from geneformer_grn.cells.epoch_plan import BatchSettings, balanced_copies, plan_epoch
from geneformer_grn.cells.packing import PackedBatch, pack
from geneformer_grn.cells.ranking import RankedCells, model_input
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.model.heads import HeadSpec
from geneformer_grn.model.pooling import Pooling
from geneformer_grn.training.finetune_checks import check_tasks, check_vocabulary
from geneformer_grn.training.finetune_settings import FinetuneOptim, FinetuneSettings
from geneformer_grn.training.supervision import Level, Split, Task


@dataclass(frozen=True, eq=False)
class Lesson:
    """What one task teaches.

    Parameters
    ----------
    task, spec
        The task, and the head that learns it.
    targets
        By cell ``(n_cells,)`` or by token id ``(V,)``: class indices int64, or standardised values float32.
    weights
        Of the same shape, float32: 0 where nothing is asked.
    per_cell
        ``(n_cells,)`` float64 weight that each cell brings: of itself, or of the genes it holds.
    units
        int64 labelled training units, indices into the task's values.
    mean, deviation
        Of the values of a regression, by which they are standardised.
    """

    task: Task
    spec: HeadSpec
    targets: Tensor
    weights: Tensor
    per_cell: np.ndarray
    units: np.ndarray
    mean: float = 0.0
    deviation: float = 1.0


@dataclass(frozen=True, eq=False)
class Step:
    """One update: this process's batches as cell indices, and what the losses of all are divided by.

    Parameters
    ----------
    batches
        int64 cell indices; None: a batch that only keeps this process busy.
    numbers
        Places of `batches` in the epoch, counted over all processes.
    divisors
        Weight of each lesson over all processes, as many as there are lessons.
    n_cells
        Cells of all processes.
    """

    batches: list[np.ndarray | None]
    numbers: list[int]
    divisors: list[float]
    n_cells: int


@dataclass(frozen=True, eq=False)
class Lessons:
    """All lessons, and the cells they are read in.

    Parameters
    ----------
    lessons
        One for each task.
    ranked, vocabulary
        The cells, and what their tokens mean.
    cells
        int64 indices of the cells to train on, ascending; each holds a gene and is asked something.
    max_length
        Longest model input.
    """

    lessons: tuple[Lesson, ...]
    ranked: RankedCells
    vocabulary: GeneVocabulary
    cells: np.ndarray
    max_length: int

    def input_of(self, cell: int) -> np.ndarray:
        """Return what the model reads of a cell, ``(l,)`` int64."""
        return model_input(self.ranked.cell(cell), self.vocabulary, max_length=self.max_length)

    def packed(self, cells: np.ndarray, *, dropout: float = 0.0, key: tuple[int, ...] = ()) -> PackedBatch:
        """Return cells as one batch; ``cell_index`` says which they are.

        With `dropout` each cell loses that share of its genes, drawn from `key`, before it is cropped, so
        that lower ranks move up into the input.
        """
        if not dropout:
            return pack([self.input_of(int(cell)) for cell in cells], cell_index=cells)
        generator = np.random.default_rng(key)
        inputs = []
        for cell in cells:
            genes = self.ranked.cell(int(cell))
            stays = generator.random(len(genes)) >= dropout
            stays[generator.integers(len(genes))] = True  # a cell keeps a gene
            inputs.append(model_input(genes[stays], self.vocabulary, max_length=self.max_length))
        return pack(inputs, cell_index=cells)

    def plan(self, settings: FinetuneOptim, *, seed: int, epoch: int) -> list[np.ndarray]:
        """Return the batches of an epoch as cell indices: every cell once, or balanced by class."""
        n_cells = len(self.ranked)
        wrapping = self.vocabulary.n_wrapping
        lengths = np.minimum(self.ranked.lengths, self.max_length - wrapping) + wrapping
        copies = self._copies() if settings.sampling == "balanced" else None
        batches = BatchSettings(token_budget=settings.token_budget, seed=seed, copies=copies)
        return [batch % n_cells for batch in plan_epoch(lengths, batches, epoch=epoch, cells=self.cells)]

    def steps(
        self, plan: Sequence[np.ndarray], settings: FinetuneOptim, *, rank: int = 0, world_size: int = 1
    ) -> Iterator[Step]:
        """Yield the updates of one process in an epoch; the last may hold fewer batches, and is counted."""
        size = world_size * settings.accumulation
        for start in range(0, len(plan), size):
            group = plan[start : start + size]
            cells = np.concatenate(group)
            numbers = [
                start + place for place in range(rank, -(-len(group) // world_size) * world_size, world_size)
            ]
            yield Step(
                batches=[plan[number] if number < start + len(group) else None for number in numbers],
                numbers=numbers,
                divisors=[float(lesson.per_cell[cells].sum()) for lesson in self.lessons],
                n_cells=len(cells),
            )

    def _copies(self) -> np.ndarray:
        """Return how often each cell comes in an epoch so that classes come equally often."""
        of_cells = [one for one in self.lessons if one.spec.level == "cell" and one.spec.kind != "regression"]
        if not of_cells:
            raise ValueError("sampling 'balanced' needs a task that gives cells a class; use 'random'")
        copies = np.ones(len(self.ranked))
        copies[self.cells] = balanced_copies(of_cells[0].task.values[self.cells].astype(object), evenness=1.0)
        return copies


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
    lengths = ranked.lengths
    place = np.arange(len(ranked.tokens)) - np.repeat(ranked.offsets[:-1], lengths)
    read = place < room
    return ranked.tokens[read], np.repeat(np.arange(len(ranked)), lengths)[read]


def _cell_lesson(task: Task, allowed: np.ndarray, settings: FinetuneSettings) -> Lesson:
    spec = head_spec(task, settings.model.pooling)
    asked = task.labelled & allowed
    units = np.flatnonzero(asked)
    if len(units) == 0:
        raise ValueError(
            f"no training cell with a label of task {task.name!r} holds a gene of the vocabulary"
        )
    targets, mean, deviation = _targets(task, units)
    weights = asked * _class_weights(task, task.values, asked.astype(float), settings.optim)
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
    weights = asked * _class_weights(task, values, asked * counts, settings.optim)
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


def _class_weights(task: Task, values: np.ndarray, counts: np.ndarray, settings: FinetuneOptim) -> np.ndarray:
    """Return a weight by unit, so that classes weigh equally; `counts` says how often a unit is asked."""
    if settings.class_weights == "none" or task.kind == "regression":
        return np.ones(len(values))
    places = np.where(counts > 0, values, 0).astype(np.int64)
    sizes = np.bincount(places, counts, minlength=len(task.classes))
    present = max(1, int((sizes > 0).sum()))
    weights = np.divide(sizes.sum() / present, sizes, out=np.zeros(len(sizes)), where=sizes > 0)
    return np.asarray(weights[places])


def epochs_needed(settings: FinetuneOptim, steps_per_epoch: int, *, cheap: bool = False) -> int:
    """Return the number of epochs: as asked, or more where they would give less than ``min_steps``.

    `cheap`: only the heads run, on states that were pooled once.
    """
    least = settings.min_steps
    if least is None:
        least = 1_000 if cheap else 200
    return max(settings.epochs, math.ceil(least / steps_per_epoch))
