"""Regulators taken out of cells, one at a time: which cells, what it costs, and what is summed up.

A pass over a cell for every regulator it holds is dear, so that each regulator is taken out of a bounded
number of cells only; and of the same cells for all of them as far as may be, since passes of the unperturbed
cell are shared. Work is cut into whole cells, and after each piece only the pairs asked for are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from geneformer_grn.cells.ranking import RankedCells, model_input
from geneformer_grn.extraction.streaming import input_lengths, require_genes
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.perturbation.edits import EDITS, Edit, InputLayout
from geneformer_grn.perturbation.tasks import Task

REMOVALS = ("hide", "swap", "delete", "knockout")
_PIECE_TOKENS = 2_000_000


class Removals(NamedTuple):
    """(regulator, cell) pairs, ascending by cell.

    Parameters
    ----------
    regulator
        ``(n,)`` int64, which regulator.
    cell
        ``(n,)`` int64, row of the ranked cells.
    """

    regulator: np.ndarray
    cell: np.ndarray

    @property
    def n_cells(self) -> int:
        """How many cells occur."""
        return len(np.unique(self.cell))


def draw_removals(
    vocabulary: GeneVocabulary,
    ranked: RankedCells,
    regulators: np.ndarray,
    cells: np.ndarray | None,
    *,
    cells_per_regulator: int,
    seed: int,
) -> Removals:
    """Draw the cells that each regulator is taken out of, among those whose model input holds it.

    Cells are put in one random order, and each regulator takes the first that hold it.

    Parameters
    ----------
    vocabulary, ranked
        The cells, ranked with that vocabulary.
    regulators
        ``(R,)`` int tokens.
    cells
        ``(n,)`` int rows to draw from; None: all.
    cells_per_regulator
        Most cells of each.
    seed
        Of the order.
    """
    rows = np.arange(len(ranked)) if cells is None else np.asarray(cells)
    room = vocabulary.max_length - vocabulary.n_wrapping
    left = np.zeros(len(vocabulary), dtype=np.int64)
    left[regulators] = cells_per_regulator
    number = np.zeros(len(vocabulary), dtype=np.int64)
    number[regulators] = np.arange(len(regulators))
    regulator_of, cell_of = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for cell in np.random.default_rng(seed).permutation(rows):
        tokens = ranked.cell(int(cell))[:room]
        if len(tokens) == 1:  # a gene that is taken out must leave another
            continue
        wanted = np.sort(number[tokens[left[tokens] > 0]])
        left[regulators[wanted]] -= 1
        regulator_of.append(wanted)
        cell_of.append(np.full(len(wanted), cell, dtype=np.int64))
        if not left.any():
            break
    regulator, cell = np.concatenate(regulator_of), np.concatenate(cell_of)
    order = np.argsort(cell, kind="stable")
    return Removals(regulator[order], cell[order])


def pieces(removals: Removals, ranked: RankedCells, vocabulary: GeneVocabulary) -> Iterator[Removals]:
    """Yield the removals of a few cells at a time; those of one cell stay together."""
    tokens = np.cumsum(input_lengths(ranked, removals.cell, vocabulary))
    first = np.flatnonzero(np.diff(removals.cell, prepend=-1))  # where a cell begins
    begin = 0
    for start, stop in zip(first, [*first[1:], len(tokens)], strict=True):
        before = tokens[begin - 1] if begin else 0
        if start > begin and tokens[stop - 1] - before > _PIECE_TOKENS:
            yield Removals(*(values[begin:start] for values in removals))
            begin = int(start)
    if begin < len(tokens):
        yield Removals(*(values[begin:] for values in removals))


def removal_tasks(
    vocabulary: GeneVocabulary,
    ranked: RankedCells,
    regulators: np.ndarray,
    removals: Removals,
    *,
    kind: str,
    seed: int = 0,
) -> list[Task]:
    """Return the perturbed cells.

    Parameters
    ----------
    vocabulary, ranked, regulators
        As in `draw_removals`.
    removals
        Which regulator out of which cell.
    kind
        ``hide``: its token is replaced by ``<mask>``. ``swap``: by a gene that the cell lacks, drawn from
        those of `ranked`. ``delete`` and ``knockout``: see `geneformer_grn.perturbation.edits`.
    seed
        Of the genes swapped in.
    """
    layout = InputLayout.of(vocabulary)
    pool = np.unique(ranked.tokens if kind == "swap" else ranked.tokens[:0])
    tasks, current, ids = [], -1, np.empty(0, dtype=np.int64)
    for row, (number, cell) in enumerate(zip(*removals, strict=True)):
        if cell != current:
            current, ids = int(cell), model_input(ranked.cell(int(cell)), vocabulary)
        gene = int(regulators[number])
        if kind in EDITS:
            edit = EDITS[kind](ids, [gene], layout)
        else:
            absent = np.setdiff1d(pool, ids, assume_unique=True)
            draw = np.random.default_rng([seed, current, gene])
            other = int(draw.choice(absent)) if len(absent) else vocabulary.token_of["<mask>"]
            edit = replaced(ids, gene, other, layout)
        if edit is None:
            continue
        original = (current, edit.original_dropped.tobytes())
        tasks.append(
            Task(row=row, request=int(number), edit=edit, cell_ids=ids, original=original, counted=True)
        )
    return tasks


def replaced(input_ids: np.ndarray, gene: int, other: int, layout: InputLayout) -> Edit:
    """Return the edit that puts the token `other` in the place of `gene`; nothing moves.

    Parameters
    ----------
    input_ids
        ``(L,)`` int64 model input of a cell that holds `gene`.
    gene, other
        Tokens.
    layout
        Where the genes sit in `input_ids`.
    """
    positions = layout.genes(len(input_ids))
    unperturbed = positions[input_ids[positions] != gene]
    return Edit(
        input_ids=np.where(input_ids == gene, other, input_ids),
        position_ids=np.arange(len(input_ids), dtype=np.int64),
        original_index=unperturbed,
        perturbed_index=unperturbed,
        original_pool=unperturbed,
    )


class PairTables:
    """Sums over cells for regulator × target pairs, filled from sorted tables of sums.

    Parameters
    ----------
    n_regulators
        How many there are.
    targets
        ``(T,)`` int tokens.
    n_tokens
        Size of the vocabulary.
    columns
        Names of the sums.

    Attributes
    ----------
    support
        ``(R, T)`` int32 cells.
    """

    def __init__(self, n_regulators: int, targets: np.ndarray, n_tokens: int, columns: Sequence[str]) -> None:
        self.support = np.zeros((n_regulators, len(targets)), dtype=np.int32)
        self._sums = {name: np.zeros(self.support.shape) for name in columns}
        self._column_of = np.full(n_tokens, -1, dtype=np.int64)
        self._column_of[targets] = np.arange(len(targets))

    def add(self, sums: pd.DataFrame) -> None:
        """Take ``request`` (which regulator), ``affected`` (token), ``n_cells`` and sums, a pair a row."""
        column = self._column_of[sums["affected"].to_numpy()]
        kept = column >= 0
        place = sums["request"].to_numpy()[kept], column[kept]
        self.support[place] += sums["n_cells"].to_numpy()[kept].astype(np.int32)
        for name, total in self._sums.items():
            total[place] += sums[name].to_numpy()[kept]

    def mean(self, name: str, min_support: int) -> np.ndarray:
        """Return the ``(R, T)`` float32 mean over cells, NaN below `min_support` of them."""
        mean = np.full(self.support.shape, np.nan, dtype=np.float32)
        np.divide(
            self._sums[name], self.support, out=mean, where=self.support >= min_support, casting="same_kind"
        )
        return mean


def require_removable(regulators: np.ndarray, targets: np.ndarray, removals: Removals) -> None:
    """Raise unless there are genes, and a cell that holds a regulator.

    Raises
    ------
    ValueError
        There is nothing to do.
    """
    require_genes(regulators, targets)
    if not len(removals.cell):
        raise ValueError(
            f"none of the {len(regulators)} regulators is in the model input of any of the cells; give other "
            "regulators, or more cells"
        )
