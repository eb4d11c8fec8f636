"""The work to do: one task per (request, cell) pair, built lazily, cut into chunks of bounded tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from geneformer_grn.cells.ranking import RankedCells, model_input
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.perturbation.edits import Edit, InputLayout, edit_function
from geneformer_grn.perturbation.requests import Request


@dataclass(frozen=True, eq=False)
class Task:
    """One perturbed cell to encode.

    Parameters
    ----------
    row
        Where its result goes.
    request
        Number of the request.
    edit
        The perturbed input and its alignment.
    cell_ids
        ``(L,)`` int64 model input of the unperturbed cell.
    original
        What identifies the unperturbed input it is compared with: the cell, and the positions left out of it.
    counted
        Whether it enters the gene shifts (null perturbations do not).
    """

    row: int
    request: int
    edit: Edit
    cell_ids: np.ndarray
    original: tuple[int, bytes]
    counted: bool

    def original_ids(self) -> np.ndarray:
        """Return the ``(L - c,)`` unperturbed input this task is compared with."""
        return np.delete(self.cell_ids, self.edit.original_dropped)


def make_tasks(
    vocabulary: GeneVocabulary,
    ranked: RankedCells,
    requests: Sequence[Request],
    pairs: tuple[np.ndarray, np.ndarray],
    *,
    quartiles: int = 1,
) -> Iterator[Task | None]:
    """Yield the task of every (request, cell) pair, cell after cell; None where the cell lacks the gene.

    Parameters
    ----------
    vocabulary, ranked, requests
        As in `perturb_cells`.
    pairs
        Two ``(n,)`` int64 arrays: number of the request, row of the cell.
    quartiles
        As in `PerturbSettings`.
    """
    layout = InputLayout.of(vocabulary)
    request_of, cell_of = pairs
    current, cell_ids = -1, np.empty(0, dtype=np.int64)
    for row in np.argsort(cell_of, kind="stable"):
        cell = int(cell_of[row])
        if cell != current:
            current, cell_ids = cell, model_input(ranked.cell(cell), vocabulary)
        number = int(request_of[row])
        request = requests[number]
        edit = edit_function(request.kind, quartiles)(cell_ids, request.genes, layout)
        if edit is None:
            yield None
            continue
        yield Task(
            row=int(row),
            request=number,
            edit=edit,
            cell_ids=cell_ids,
            original=(cell, edit.original_dropped.tobytes()),
            counted=not request.is_null,
        )


def chunks(tasks: Iterable[Task | None], n_tokens: int) -> Iterator[tuple[list[Task], int]]:
    """Yield runs of tasks of about `n_tokens` tokens, with how many pairs were gone through."""
    held: list[Task] = []
    tokens = seen = 0
    for task in tasks:
        seen += 1
        if task is None:
            continue
        held.append(task)
        tokens += len(task.edit.input_ids)
        if tokens >= n_tokens:
            yield held, seen
            held, tokens, seen = [], 0, 0
    if seen:
        yield held, seen
