"""What the network is given: packed batches with what is asked of them, or states that were pooled once.

With a frozen encoder nothing but the heads changes, so what they read is computed once and kept: an epoch of
a linear probe then costs milliseconds. Where it would not fit in memory, and under attention pooling, which
learns, the encoder runs in every epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from geneformer_grn.cells.packing import PackedBatch
from geneformer_grn.model.heads import TaskHead, inference_batches
from geneformer_grn.training.finetune_data import Lessons
from geneformer_grn.training.finetune_network import Network

_MOST_BYTES = 2 << 30
_STANDARD_CELLS = 512  # means and deviations of states are taken over so many training cells


@dataclass(frozen=True, eq=False)
class Material:
    """Arguments of `Network.forward` for one batch."""

    batch: PackedBatch | None
    rows: list[Tensor | None]
    asked: list[tuple[Tensor, Tensor]]
    pooled: list[Tensor] | None = None


def material(
    lessons: Lessons, cells: np.ndarray, device: torch.device, *, idle: bool = False, dropout: float = 0.0,
    key: tuple[int, ...] = (),
) -> Material:  # fmt: skip
    """Return the batch of `cells` with what is asked of them; `idle`: with nothing asked.

    `dropout` and `key` are those of `Lessons.packed`.
    """
    batch = lessons.packed(cells, dropout=dropout, key=key)
    tokens, index = batch.input_ids[0], torch.from_numpy(cells)
    rows: list[Tensor | None] = []
    asked = []
    for lesson in lessons.lessons:
        is_gene = lesson.spec.level == "gene"
        row = torch.nonzero(lesson.weights[tokens] > 0)[:, 0] if is_gene else None
        place = index if row is None else tokens[row]
        weights = lesson.weights[place]
        rows.append(None if row is None else row.to(device))
        asked.append((lesson.targets[place].to(device), (weights * 0.0 if idle else weights).to(device)))
    return Material(batch.to(device), rows, asked)


@dataclass(frozen=True, eq=False)
class PooledStates:
    """What the heads read of some cells, computed once with the encoder as it is.

    Parameters
    ----------
    lessons
        What is learnt.
    place
        ``(n_cells,)`` int64 row of each cell; -1 where it was not run.
    states
        For each lesson ``(m, d)``: a row a cell, or a row for each of its labelled genes.
    tokens, offsets
        For each gene lesson the tokens of the rows, and where each cell's begin; empty for cell lessons.
    """

    lessons: Lessons
    place: np.ndarray
    states: list[Tensor]
    tokens: list[np.ndarray]
    offsets: list[np.ndarray] = field(default_factory=list)

    def material(self, cells: np.ndarray, *, idle: bool = False) -> Material:
        """Return what `material` does, with the pooled states in place of a batch."""
        asked, pooled = [], []
        for number, lesson in enumerate(self.lessons.lessons):
            rows = self.place[cells]
            if lesson.spec.level == "gene":
                rows = self.gene_rows(number, cells)
                rows = rows[(lesson.weights.numpy() > 0)[self.tokens[number][rows]]]
            place = torch.from_numpy(self.tokens[number][rows] if lesson.spec.level == "gene" else cells)
            device = self.states[number].device
            weights = lesson.weights[place]
            asked.append((lesson.targets[place].to(device), (weights * 0.0 if idle else weights).to(device)))
            pooled.append(self.states[number][torch.from_numpy(rows).to(device)])
        return Material(None, [None] * len(pooled), asked, pooled)

    def gene_rows(self, number: int, cells: np.ndarray) -> np.ndarray:
        """Return the rows of a gene lesson that belong to `cells`."""
        starts, stops = self.offsets[number][self.place[cells]], self.offsets[number][self.place[cells] + 1]
        return np.concatenate([np.arange(start, stop) for start, stop in zip(starts, stops, strict=True)])


@torch.no_grad()
def pool_once(
    network: Network, lessons: Lessons, cells: np.ndarray, *, token_budget: int
) -> PooledStates | None:
    """Return the pooled states of `cells`; None where they would not fit in memory.

    Parameters
    ----------
    network
        With the encoder as it is; heads that pool by weights of their own have nothing to keep.
    lessons
        What is learnt; genes of the whole task are kept, not those of the training part alone.
    cells
        Ascending indices; each holds a gene.
    token_budget
        Of a batch.
    """
    wanted = [labelled_tokens(lessons, number) for number in range(len(lessons.lessons))]
    inputs = [lessons.input_of(int(cell)) for cell in cells]
    counts = [
        np.ones(len(cells), dtype=np.int64) if want is None else np.array([want[ids].sum() for ids in inputs])
        for want in wanted
    ]
    width = network.encoder.hidden_size
    if sum(int(count.sum()) for count in counts) * width * 4 > _MOST_BYTES:
        return None
    offsets = [np.concatenate([[0], np.cumsum(count)]) for count in counts]
    states = [torch.empty((int(offset[-1]), width)) for offset in offsets]
    tokens = [
        np.empty(0 if want is None else len(held), np.int64)
        for want, held in zip(wanted, states, strict=True)
    ]
    n_special = network.encoder.vocabulary.n_special
    batches = inference_batches(
        lessons.ranked,
        lessons.vocabulary,
        token_budget=token_budget,
        max_length=lessons.max_length,
        cells=cells,
    )
    for batch in batches:
        found = network.encoder.hidden_states(batch, encoder_layer=0)
        moved = batch.to(network.encoder.device)
        lengths = batch.cu_seqlens.diff().numpy()
        row_of = np.repeat(batch.cell_index.numpy(), lengths)
        for number, want in enumerate(wanted):
            if want is None:
                head = cast("TaskHead", network.heads[number])
                states[number][batch.cell_index] = head.pool(found, moved, n_special).cpu()
                continue
            ids = batch.input_ids[0].numpy()
            chosen = np.flatnonzero(want[ids])
            cell_of = row_of[chosen]
            first = _firsts(cell_of)
            rows = offsets[number][cell_of] + np.arange(len(chosen)) - first
            states[number][torch.from_numpy(rows)] = found[torch.from_numpy(chosen).to(found.device)].cpu()
            tokens[number][rows] = ids[chosen]
    place = np.full(len(lessons.ranked), -1, dtype=np.int64)
    place[cells] = np.arange(len(cells))
    device = network.encoder.device
    return PooledStates(lessons, place, [held.to(device) for held in states], tokens, offsets)


def labelled_tokens(lessons: Lessons, number: int) -> np.ndarray | None:
    """Return which tokens ``(V,)`` bool a gene lesson's task labels, in any part; None for cell lessons."""
    task = lessons.lessons[number].task
    if task.gene_tokens is None:
        return None
    wanted = np.zeros(len(lessons.vocabulary), dtype=bool)
    wanted[np.asarray(task.gene_tokens)[task.labelled]] = True
    return wanted


@torch.no_grad()
def standardise(network: Network, lessons: Lessons, *, seed: int, token_budget: int) -> None:
    """Set each head's `centre` and `scale` from what it would read of some training cells.

    Of genes, only tokens of the training part count.
    """
    generator = np.random.default_rng((seed, len(lessons.cells)))
    cells = np.sort(generator.permutation(lessons.cells)[:_STANDARD_CELLS])
    read: list[list[Tensor]] = [[] for _ in lessons.lessons]
    n_special = network.encoder.vocabulary.n_special
    batches = inference_batches(
        lessons.ranked,
        lessons.vocabulary,
        token_budget=token_budget,
        max_length=lessons.max_length,
        cells=cells,
    )
    for batch in batches:
        moved = batch.to(network.encoder.device)
        found = network.encoder.hidden_states(moved, encoder_layer=0)
        for held, head, lesson in zip(read, network.heads, lessons.lessons, strict=True):
            pooled = cast("TaskHead", head).pool(found, moved, n_special)
            if lesson.spec.level == "gene":
                pooled = pooled[(lesson.weights[batch.input_ids[0]] > 0).to(pooled.device)]
            held.append(pooled.detach().cpu())
    for held, head in zip(read, network.heads, strict=True):
        rows = torch.cat(held).double()
        if len(rows) < 2:  # one row has no deviation
            continue
        deviation = rows.std(dim=0)
        least = 1e-2 * float(deviation.median()) + 1e-6
        cast("Any", head).centre.copy_(rows.mean(dim=0))
        cast("Any", head).scale.copy_(deviation.clamp(min=least))


def _firsts(cell_of: np.ndarray) -> np.ndarray:
    """Return for each row where the run of its cell begins; cells come as unbroken runs."""
    starts = np.flatnonzero(np.concatenate([[True], cell_of[1:] != cell_of[:-1]]))
    return np.repeat(starts, np.diff(np.concatenate([starts, [len(cell_of)]])))
