"""Training batches: the batches of an epoch shared out to processes, their cells masked and packed.

A step on `W` processes with `A` accumulated batches each consumes ``W * A`` consecutive ones, so one process
with two accumulated batches computes what two processes do. The mask of a cell depends on (seed, epoch, cell)
alone, see :mod:`geneformer_grn.cells.batch_kernels`; about 150,000 cells of 1,000 genes come out of one core
in a second.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
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
    for step in range(start_batch, n_training_batches(len(plan), world_size)):
        place = step * world_size + rank
        if place < len(plan):
            numbers, stage = plan[place]
            crop_to = longest if stage is None else min(stage, longest)
            yield _masked_batch(
                corpus, numbers, vocabulary, settings, epoch=epoch, max_length=crop_to, shape=shape
            )
        else:
            idle = crop(corpus.cell(int(plan[0][0][0]) % len(corpus)), vocabulary, longest)
            batch = pack([idle.astype(np.int64)], cell_index=[-1])
            yield batch if shape is None else fill(batch, shape, filler=vocabulary.token_of["<pad>"])


def crop(ids: np.ndarray, vocabulary: GeneVocabulary, max_length: int) -> np.ndarray:
    """Return a model input cut to `max_length` tokens, keeping ``<eos>`` at its end; a view where it fits."""
    if len(ids) <= max_length:
        return ids
    if vocabulary.n_wrapping == 0:
        return ids[:max_length]
    return np.concatenate([ids[: max_length - 1], ids[-1:]])


def _masked_batch(
    corpus: Corpus,
    numbers: np.ndarray,
    vocabulary: GeneVocabulary,
    settings: BatchSettings,
    *,
    epoch: int,
    max_length: int,
    shape: BatchShape | None,
) -> PackedBatch:
    """Return the cells `numbers` as one batch; copy `k` of cell `i` of `n` is number ``i + k * n``."""
    from geneformer_grn.cells.batch_kernels import Cells, Inputs, cell_keys, mask_and_pack

    copies, cells = np.divmod(numbers, len(corpus))
    values, starts, stored = _tokens(corpus, cells)
    keys = cell_keys(settings.seed, epoch, copies, cells)
    lengths = np.minimum(stored, max_length)
    n_tokens = int(lengths.sum())
    rows = empty_rows(n_tokens if shape is None else shape.n_tokens, pinned=settings.pinned)
    masked = np.empty(n_tokens, dtype=np.int64)
    found = mask_and_pack(
        Cells(values, starts, stored, keys),
        _rules(vocabulary, settings.mask, max_length),
        Inputs(rows.input_ids[0].numpy(), rows.labels[0].numpy(), rows.position_ids[0].numpy(), masked),
    )
    if found < 0:
        raise ValueError(f"cell {cells[-1 - found]} holds no gene, so nothing of it can be masked")
    return assemble(
        rows, lengths, masked[:found].copy(), cells,
        shape=shape, filler=vocabulary.token_of["<pad>"], pinned=settings.pinned,
    )  # fmt: skip


def _tokens(corpus: Corpus, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return tokens, and the start and length in them of each of `cells`; where they lie, or gathered."""
    if len(corpus.values) == 1:
        return corpus.values[0], corpus.offsets[cells], corpus.lengths[cells]
    tokens = [corpus.cell(cell) for cell in cells.tolist()]
    lengths = corpus.lengths[cells]
    return np.concatenate(tokens), np.cumsum(lengths) - lengths, lengths


def _rules(vocabulary: GeneVocabulary, mask: MaskSettings, max_length: int) -> Rules:
    from geneformer_grn.cells.batch_kernels import DRAW_BITS, Rules

    bounds = (mask.rate * mask.keep, mask.rate * (mask.keep + mask.random), mask.rate)
    return Rules(
        vocabulary.n_special, len(vocabulary), vocabulary.token_of["<mask>"], max_length,
        vocabulary.n_wrapping > 0, *(np.uint64(round(bound * 2**DRAW_BITS)) for bound in bounds),
    )  # fmt: skip
