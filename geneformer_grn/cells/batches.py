"""Training batches: the batches of an epoch shared out to processes, their cells masked and packed.

A step on `W` processes with `A` accumulated batches each consumes ``W * A`` consecutive ones, so one process
with two accumulated batches computes what two processes do. The mask of a cell depends on (seed, epoch, cell)
alone, see :mod:`geneformer_grn.cells.batch_kernels`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from geneformer_grn.cells.epoch_plan import (
    BatchSettings,
    balanced_copies,
    n_training_batches,
    plan_epoch,
    plan_stages,
)  # fmt: skip
from geneformer_grn.cells.masking import MaskSettings, mask_cell
from geneformer_grn.cells.packing import (
    BatchShape,
    PackedBatch,
    assemble,
    empty_rows,
    fill,
    pack,
    plan_by_budget,
)  # fmt: skip
from geneformer_grn.genes.vocabulary import GeneVocabulary

if TYPE_CHECKING:
    from geneformer_grn.cells.batch_kernels import Rules
    from geneformer_grn.cells.corpora.corpus import Corpus

__all__ = [
    "BatchSettings", "MaskSettings", "PackedBatch", "balanced_copies", "batch_shape", "crop", "mask_cell",
    "n_training_batches", "pack", "plan_by_budget", "plan_epoch", "training_batches",
]  # fmt: skip


def batch_shape(lengths: np.ndarray, settings: BatchSettings, *, max_length: int) -> BatchShape:
    """Return the shape that practically every batch of a corpus fits into.

    Twice the mean number of cells, and five standard deviations more masked positions than the mean: a
    batch beyond that is filled to a shape of its own.

    Parameters
    ----------
    lengths
        ``(n,)`` tokens of each cell of the corpus, cropped already.
    settings
        Budget, masking and curriculum.
    max_length
        Longest cell.
    """
    budget, rate = settings.token_budget, settings.mask.rate
    shortest = min([max_length, *(length for _, length in settings.stages)])
    mean = max(1.0, float(np.minimum(lengths, shortest).mean()))
    n_cells = 2 * math.ceil(budget / mean) + math.ceil(budget / max_length)
    n_masked = budget * rate + 5.0 * math.sqrt(budget * rate * (1.0 - rate)) + 1.0
    return BatchShape(
        n_tokens=budget,
        n_cells=n_cells,
        n_masked=min(budget, 64 * math.ceil(n_masked / 64)),
        max_seqlen=min(max_length, budget),
    )


def training_batches(
    corpus: Corpus,
    vocabulary: GeneVocabulary,
    settings: BatchSettings,
    *,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
    start_batch: int = 0,
    cells: np.ndarray | None = None,
) -> Iterator[PackedBatch]:
    """Yield the masked batches of one process in one epoch.

    Batch `i` of :func:`plan_epoch` goes whole to process ``i % world_size``. Where the number of batches is
    no multiple, the processes left over get one more, a single cell with nothing asked and ``cell_index`` -1:
    all processes do the same number of steps, every cell is asked about once, and the loss, normalised by the
    masked genes of all processes, does not change.

    Parameters
    ----------
    corpus
        Tokenised cells.
    vocabulary
        Its vocabulary; another one is refused.
    settings
        Budget, length, seed and masking.
    epoch
        Number of the epoch.
    rank, world_size
        This process, and how many there are.
    start_batch
        Batches that this process has consumed of the epoch already (to resume).
    cells
        Indices of the cells to train on; None: all.

    Raises
    ------
    VocabularyMismatchError
        The corpus was tokenised with another vocabulary.
    ValueError
        See :func:`plan_epoch`.
    """
    corpus.require_vocabulary(vocabulary)
    longest = vocabulary.max_length if settings.max_length is None else settings.max_length
    lengths = np.minimum(corpus.lengths, longest)
    plan = plan_stages(lengths, settings, epoch=epoch, cells=cells)
    shape = batch_shape(lengths, settings, max_length=longest) if settings.static else None
    rules, filler = _rules(vocabulary, settings.mask, longest), vocabulary.token_of["<pad>"]
    masker = _Masker(corpus, settings, rules, epoch, shape, filler)
    for step in range(start_batch, n_training_batches(len(plan), world_size)):
        place = step * world_size + rank
        if place < len(plan):
            numbers, stage = plan[place]
            crop_to = longest if stage is None else min(stage, longest)
            yield masker.batch(numbers, max_length=crop_to)
        else:
            idle = crop(corpus.cell(int(plan[0][0][0]) % len(corpus)), vocabulary, longest)
            batch = pack([idle.astype(np.int64)], cell_index=[-1])
            yield batch if shape is None else fill(batch, shape, filler=filler)


def crop(ids: np.ndarray, vocabulary: GeneVocabulary, max_length: int) -> np.ndarray:
    """Return a model input cut to `max_length` tokens, keeping ``<eos>`` at its end; a view where it fits."""
    if len(ids) <= max_length:
        return ids
    if vocabulary.n_wrapping == 0:
        return ids[:max_length]
    return np.concatenate([ids[: max_length - 1], ids[-1:]])


@dataclass(frozen=True, eq=False)
class _Masker:
    """Makes the batches of one epoch from cells where they lie."""

    corpus: Corpus
    settings: BatchSettings
    rules: Rules
    epoch: int
    shape: BatchShape | None
    filler: int

    def batch(self, numbers: np.ndarray, *, max_length: int) -> PackedBatch:
        """Return the cells `numbers` as one batch; copy `k` of cell `i` of `n` is number ``i + k * n``."""
        from geneformer_grn.cells.batch_kernels import Cells, Inputs, cell_keys, mask_and_pack

        copies, cells = np.divmod(numbers, len(self.corpus))
        stored = self.corpus.lengths[cells]
        lengths = np.minimum(stored, max_length)
        n_tokens, pinned = int(lengths.sum()), self.settings.pinned
        rows = empty_rows(n_tokens if self.shape is None else self.shape.n_tokens, pinned=pinned)
        masked = np.empty(n_tokens + 1, dtype=np.int64)
        found = mask_and_pack(
            Cells(*self._tokens(cells), stored, cell_keys(self.settings.seed, self.epoch, copies, cells)),
            self.rules._replace(longest=max_length),
            Inputs(rows.input_ids[0].numpy(), rows.labels[0].numpy(), rows.position_ids[0].numpy(), masked),
        )
        if found < 0:
            raise ValueError(f"cell {cells[-1 - found]} holds no gene, so nothing of it can be masked")
        return assemble(
            rows, lengths, masked[:found].copy(), cells, shape=self.shape, filler=self.filler, pinned=pinned
        )

    def _tokens(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return tokens, and where each of `cells` begins in them: as they lie, or gathered from parts."""
        values, starts = self.corpus.values, self.corpus.offsets[cells]
        if len(values) == 1:
            return values[0], starts
        lengths = self.corpus.lengths[cells]
        part = np.searchsorted(self._parts, starts, side="right") - 1
        starts = starts - self._parts[part]
        places = zip(part.tolist(), starts.tolist(), (starts + lengths).tolist(), strict=True)
        gathered = np.concatenate([values[part][start:stop] for part, start, stop in places])
        return gathered, np.cumsum(lengths) - lengths

    @cached_property
    def _parts(self) -> np.ndarray:
        return np.cumsum([0, *(len(values) for values in self.corpus.values)])


def _rules(vocabulary: GeneVocabulary, mask: MaskSettings, max_length: int) -> Rules:
    """Return what the compiled pass has to know of vocabulary and masking."""
    from geneformer_grn.cells.batch_kernels import DRAW_BITS, Rules

    bounds = (mask.rate * mask.keep, mask.rate * (mask.keep + mask.random), mask.rate)
    return Rules(
        vocabulary.n_special, len(vocabulary), vocabulary.token_of["<mask>"], max_length,
        vocabulary.n_wrapping > 0, *(np.uint64(round(bound * 2**DRAW_BITS)) for bound in bounds),
    )  # fmt: skip
