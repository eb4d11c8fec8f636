"""What labelled cells and genes teach, and in which batches: targets and weights, told by cell or by token.

Every process plans the whole step, its own batches and those of the others, so that a loss is divided by the
weight of all of them without asking anybody. Batches depend on (seed, epoch) alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from geneformer_grn.cells.epoch_plan import BatchSettings, balanced_copies, plan_epoch
from geneformer_grn.cells.packing import PackedBatch, pack
from geneformer_grn.cells.ranking import RankedCells, model_input
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.model.heads import HeadSpec
from geneformer_grn.training.finetune_settings import FinetuneOptim
from geneformer_grn.training.supervision import Task


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
        copies = self.copies() if settings.sampling == "balanced" else None
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

    def copies(self) -> np.ndarray:
        """Return how often each cell comes in an epoch so that classes come equally often, ``(n_cells,)``."""
        of_cells = [one for one in self.lessons if one.spec.level == "cell" and one.spec.kind != "regression"]
        if not of_cells:
            raise ValueError("sampling 'balanced' needs a task that gives cells a class; use 'random'")
        copies = np.ones(len(self.ranked))
        copies[self.cells] = balanced_copies(of_cells[0].task.values[self.cells].astype(object), evenness=1.0)
        return copies


def epochs_needed(settings: FinetuneOptim, steps_per_epoch: int, *, cheap: bool = False) -> int:
    """Return the number of epochs: as asked, or more where they would give less than ``min_steps``.

    `cheap`: only the heads run, on states that were pooled once.
    """
    least = settings.min_steps
    if least is None:
        least = 1_000 if cheap else 200
    return max(settings.epochs, math.ceil(least / steps_per_epoch))
