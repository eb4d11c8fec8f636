"""A run in parts: the (request, cell) pairs cut up, each part computed alone, the sums of parts added.

Batches are planned within a part only. So a part comes out the same to the bit whichever process computes it,
and however often the run was interrupted. The price is a last batch a part that is not full, and one more
unperturbed pass of a cell whose pairs fill several parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.model.encoder import Encoder
from geneformer_grn.perturbation.axes import GeneAxes
from geneformer_grn.perturbation.expression import ExpressionSums
from geneformer_grn.perturbation.passes import PassEncoder
from geneformer_grn.perturbation.requests import PerturbSettings, Request
from geneformer_grn.perturbation.tasks import chunks, make_tasks

PART_TOKENS = 2_000_000
_WINDOW_PAIRS = 1 << 22  # pairs that are listed at a time: 100 MB
_CHUNK_BATCHES = 8  # batches whose unperturbed states are held together
_BUFFER_ROWS = 1 << 20  # rows of sums that are held before they are added
_KEYS = ("request", "affected")


class Pairs(NamedTuple):
    """Some (request, cell) pairs, ordered by cell and then by request.

    Parameters
    ----------
    request, cell
        ``(n,)`` int64: number of the request, row of the ranked cells.
    row
        ``(n,)`` int64: number of the pair in the order of requests and of the cells each lists.
    """

    request: np.ndarray
    cell: np.ndarray
    row: np.ndarray


class PartList:
    """The pairs of a run, cut into parts of bounded work: whole cells where they fit.

    Only a window of the pairs is listed at a time. What stays in memory is the requests, and a number per
    cell.

    Parameters
    ----------
    ranked
        The cells.
    requests
        What is perturbed where.
    vocabulary
        Says how long the model's inputs are.
    part_tokens
        Tokens of perturbed passes in a part, about; the unperturbed ones come on top.

    Examples
    --------
    >>> parts = PartList(ranked, requests, vocabulary)  # doctest: +SKIP
    >>> [perturb_part(encoder, ranked, requests, parts.pairs(i)[:2], settings) for i in range(len(parts))]
    ... # doctest: +SKIP
    """

    def __init__(
        self,
        ranked: RankedCells,
        requests: Sequence[Request],
        vocabulary: GeneVocabulary,
        *,
        part_tokens: int = PART_TOKENS,
    ) -> None:
        if part_tokens < 1:
            raise ValueError(f"a part needs at least 1 token, got {part_tokens}")
        per_cell = np.zeros(len(ranked), dtype=np.int64)
        for request in requests:
            np.add.at(per_cell, request.cells, 1)
        lengths = np.minimum(ranked.lengths + vocabulary.n_wrapping, vocabulary.max_length)
        self._requests = requests
        self._first_pair = _offsets(per_cell)
        self._bounds = _cut(per_cell, lengths, part_tokens)
        self._window = (0, 0)
        self._listed = Pairs(*(np.empty(0, dtype=np.int64) for _ in range(3)))
        self.offsets = _offsets(np.array([len(request.cells) for request in requests], dtype=np.int64))

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @property
    def n_pairs(self) -> int:
        """How many pairs all parts have together."""
        return int(self.offsets[-1])

    def size(self, number: int) -> int:
        """Return how many pairs a part has."""
        return int(self._bounds[number + 1] - self._bounds[number])

    def pairs(self, number: int) -> Pairs:
        """Return the pairs of a part; one after the other is quickest."""
        start, stop = int(self._bounds[number]), int(self._bounds[number + 1])
        if not self._window[0] <= start <= stop <= self._window[1]:
            self._list(start, stop)
        here = slice(start - self._window[0], stop - self._window[0])
        return Pairs(*(column[here] for column in self._listed))

    def _list(self, start: int, stop: int) -> None:
        """List the pairs of whole cells from `start` on, as many as a window holds, at least to `stop`."""
        first = int(np.searchsorted(self._first_pair, start, side="right")) - 1
        limit = max(int(self._first_pair[first]) + _WINDOW_PAIRS, stop)
        last = max(int(np.searchsorted(self._first_pair, limit, side="right")) - 1, first)
        if self._first_pair[last] < stop:
            last += 1
        nothing = np.empty(0, dtype=np.int64)
        columns = [(nothing, nothing, nothing)]
        for number, request in enumerate(self._requests):
            places = np.flatnonzero((request.cells >= first) & (request.cells < last))
            rows = self.offsets[number] + places
            columns.append((np.full(len(places), number, dtype=np.int64), request.cells[places], rows))
        request_of, cell_of, row_of = (np.concatenate(column) for column in zip(*columns, strict=True))
        order = np.argsort(cell_of, kind="stable")
        self._listed = Pairs(request_of[order], cell_of[order].astype(np.int64), row_of[order])
        self._window = (int(self._first_pair[first]), int(self._first_pair[last]))


@dataclass(frozen=True, eq=False)
class PartResult:
    """What a part found.

    Parameters
    ----------
    values
        ``(n, 1 + s)`` float64 in the order of its pairs: the cell cosine, then the difference of cosines of
        each state. NaN where the cell lacks the gene.
    sums
        Readout (``genes``, ``expression``) -> sums over its cells: ``request``, ``affected``, ``n_cells`` and
        columns that add over parts.
    n_passes
        Cells encoded, unperturbed ones included.
    n_without_gene
        Pairs in which the cell lacks the gene.
    """

    values: np.ndarray
    sums: dict[str, pd.DataFrame] = field(default_factory=dict)
    n_passes: int = 0
    n_without_gene: int = 0


def state_targets(
    settings: PerturbSettings, states: Mapping[str, np.ndarray] | None
) -> dict[str, np.ndarray]:
    """Return the states that are measured towards; none unless the readout ``state`` is asked for.

    Raises
    ------
    ValueError
        It is, and there are no states.
    """
    targets = dict(states or {}) if "state" in settings.readouts else {}
    if "state" in settings.readouts and not targets:
        raise ValueError("the readout 'state' needs mean embeddings of states; pass a start and a goal")
    return targets


def perturb_part(
    encoder: Encoder,
    ranked: RankedCells,
    requests: Sequence[Request],
    pairs: tuple[np.ndarray, np.ndarray],
    settings: PerturbSettings,
    *,
    states: Mapping[str, np.ndarray] | None = None,
    axes: GeneAxes | None = None,
    tell: Callable[[int], object] | None = None,
) -> PartResult:
    """Perturb cells in silico: the pairs of one part.

    Parameters
    ----------
    encoder, ranked, requests, settings, states, axes
        As in `geneformer_grn.perturbation.engine.perturb_cells`.
    pairs
        Two ``(n,)`` int64 arrays: number of the request, row of the cell; ascending by cell.
    tell
        Is told after each chunk how many pairs are done.

    Returns
    -------
    What the part found; the same to the bit on every call with the same pairs and number of threads.
    """
    targets = state_targets(settings, states)
    values = np.full((len(pairs[0]), 1 + len(targets)), np.nan)
    passes = PassEncoder(encoder, settings, np.array(list(targets.values()), dtype=np.float64), axes)
    tasks = make_tasks(encoder.vocabulary, ranked, requests, pairs, quartiles=settings.quartiles)
    expression = ExpressionSums(encoder, settings) if "expression" in settings.readouts else None
    n_edits = 0
    with torch.inference_mode():
        for chunk, n_seen in chunks(tasks, _CHUNK_BATCHES * settings.token_budget):
            for batch, found in passes.run(chunk):
                values[[task.row for task in batch]] = found
            if expression is not None:
                expression.add(chunk)
            n_edits += len(chunk)
            if tell is not None:
                tell(n_seen)
    sums = {"genes": passes.gene_shifts.frame()} if "genes" in settings.readouts else {}
    if expression is not None:
        sums["expression"] = expression.frame()
    return PartResult(
        values=values,
        sums=sums,
        n_passes=passes.n_encoded + (0 if expression is None else expression.n_passes),
        n_without_gene=len(values) - n_edits,
    )


def add_sums(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Return the sums of parts added up: one row per request and affected gene, sorted by them.

    Parameters
    ----------
    frames
        With the columns ``request`` and ``affected``; all others are added.

    Returns
    -------
    The same columns, of the same types; an empty frame without columns where there are no parts. Values are
    added one part after the other, so that the result does not depend on how many are held at a time.

    Examples
    --------
    >>> part = pd.DataFrame({"request": [0, 1], "affected": [7, 7], "n_cells": [1, 2]})
    >>> add_sums([part, part[1:]])["n_cells"].tolist()
    [1, 4]
    """
    total, held, n_held = pd.DataFrame(), [], 0
    for frame in frames:
        held.append(frame)
        n_held += len(frame)
        if n_held > max(len(total), _BUFFER_ROWS):
            total, held, n_held = _added([total, *held]), [], 0
    return _added([total, *held]) if held else total


def _added(frames: list[pd.DataFrame]) -> pd.DataFrame:
    frames = [frame for frame in frames if len(frame)] or frames[-1:]
    rows = pd.concat(frames, ignore_index=True)
    if rows.empty:
        return rows
    width = int(rows["affected"].max()) + 1
    keys, group = np.unique(
        rows["request"].to_numpy(dtype=np.int64) * width + rows["affected"].to_numpy(), return_inverse=True
    )
    request, affected = np.divmod(keys, width)
    added = {"request": request, "affected": affected} | {
        name: np.bincount(group, weights=rows[name], minlength=len(keys))
        for name in rows.columns
        if name not in _KEYS
    }
    return pd.DataFrame(added)[list(rows.columns)].astype(dict(rows.dtypes))


def _offsets(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])


def _cut(per_cell: np.ndarray, lengths: np.ndarray, part_tokens: int) -> np.ndarray:
    """Return where parts begin and end, in pairs; a cell that is too much for one is cut evenly."""
    bounds, end, tokens = [0], 0, 0
    for count, length in zip(per_cell.tolist(), lengths.tolist(), strict=True):
        if tokens and tokens + count * length > part_tokens:
            bounds.append(end)
            tokens = 0
        pieces = min(math.ceil(count * length / part_tokens), count)
        bounds.extend(end + count * piece // pieces for piece in range(1, pieces))
        last = count - count * (pieces - 1) // pieces if pieces else 0  # the part that the next cell may join
        tokens += last * length
        end += count
    if end > bounds[-1] or not end:  # a run without pairs is one empty part
        bounds.append(end)
    return np.array(bounds, dtype=np.int64)
