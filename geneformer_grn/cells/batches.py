"""Training batches: which cells go together, in which order, to which process, with which genes masked.

The list of batches of an epoch depends on (seed, epoch, settings) only. A step on `W` processes with `A`
accumulated batches each consumes `W * A` consecutive ones, so one process with two accumulated batches
computes what two processes do. Planning an epoch holds one list of all cell numbers in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from geneformer_grn.cells.masking import MaskSettings, mask_cell
from geneformer_grn.cells.packing import PackedBatch, pack, plan_by_budget
from geneformer_grn.genes.vocabulary import GeneVocabulary

if TYPE_CHECKING:
    from geneformer_grn.cells.corpus import Corpus

__all__ = [
    "BatchSettings", "MaskSettings", "PackedBatch", "crop", "mask_cell", "n_training_batches", "pack",
    "plan_by_budget", "plan_epoch", "training_batches",
]  # fmt: skip

_OPEN_BATCHES = 16  # batches being filled at a time: more fill better, and cost more


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """How a corpus becomes training batches.

    Parameters
    ----------
    token_budget
        Tokens that a batch holds at most.
    max_length
        Longest cell, specials included; longer ones are cropped, keeping ``<eos>``. None: the vocabulary's.
    seed
        Seed of order and masks.
    mask
        Masking.
    """

    token_budget: int = 16_384
    max_length: int | None = None
    seed: int = 0
    mask: MaskSettings = field(default_factory=MaskSettings)


def plan_epoch(
    lengths: np.ndarray, settings: BatchSettings, *, epoch: int, cells: np.ndarray | None = None
) -> list[np.ndarray]:
    """Return the batches of an epoch as cell indices: every cell once, in an order drawn from (seed, epoch).

    Shuffled cells go into the first of a few open batches that has room; the fullest is closed to open
    another. About 99 % of the budget is filled with cells a tenth of it long.

    Parameters
    ----------
    lengths
        ``(n,)`` tokens of each cell of the corpus, cropped already.
    settings
        Budget and seed.
    epoch
        Number of the epoch.
    cells
        Indices of the cells to use (a training split); None: all.

    Raises
    ------
    ValueError
        There are no cells, or one is longer than the budget.
    """
    cells = np.arange(len(lengths)) if cells is None else np.asarray(cells, dtype=np.int64)
    if len(cells) == 0:
        raise ValueError("there are no cells to train on")
    if (longest := int(lengths[cells].max())) > settings.token_budget:
        raise ValueError(
            f"the token budget {settings.token_budget:,} is smaller than the longest cell, {longest:,} "
            "tokens; raise it, or lower max_length"
        )
    generator = np.random.default_rng(np.random.SeedSequence([settings.seed, epoch]))
    order = generator.permutation(cells)
    open_cells: list[list[int]] = []
    room: list[int] = []
    full: list[list[int]] = []
    for cell, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        for place, free in enumerate(room):
            if length <= free:
                open_cells[place].append(cell)
                room[place] = free - length
                break
        else:
            if len(room) == _OPEN_BATCHES:
                fullest = room.index(min(room))
                full.append(open_cells.pop(fullest))
                room.pop(fullest)
            open_cells.append([cell])
            room.append(settings.token_budget - length)
    full.extend(open_cells)
    # The batches left open are the emptiest; without another shuffle they would all come last.
    return [np.array(full[batch], dtype=np.int64) for batch in generator.permutation(len(full))]


def n_training_batches(n_batches: int, world_size: int) -> int:
    """Return how many batches each of `world_size` processes gets of an epoch of `n_batches`."""
    return -(-n_batches // world_size)


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
    plan = plan_epoch(np.minimum(corpus.lengths, longest), settings, epoch=epoch, cells=cells)
    for step in range(start_batch, n_training_batches(len(plan), world_size)):
        place = step * world_size + rank
        if place < len(plan):
            yield _masked_batch(corpus, plan[place], vocabulary, settings, epoch=epoch)
        else:
            idle = crop(corpus.cell(int(plan[0][0])), vocabulary, longest).astype(np.int64)
            yield pack([idle], cell_index=[-1])


def crop(ids: np.ndarray, vocabulary: GeneVocabulary, max_length: int) -> np.ndarray:
    """Return a model input cut to `max_length` tokens, keeping ``<eos>`` at its end; a view where it fits."""
    if len(ids) <= max_length:
        return ids
    if vocabulary.n_wrapping == 0:
        return ids[:max_length]
    return np.concatenate([ids[: max_length - 1], ids[-1:]])


def _masked_batch(
    corpus: Corpus, cells: np.ndarray, vocabulary: GeneVocabulary, settings: BatchSettings, *, epoch: int
) -> PackedBatch:
    longest = vocabulary.max_length if settings.max_length is None else settings.max_length
    masked = [
        mask_cell(
            crop(corpus.cell(cell), vocabulary, longest), vocabulary, settings.mask,
            seed=settings.seed, epoch=epoch, cell=cell,
        )
        for cell in cells.tolist()
    ]  # fmt: skip
    return pack([ids for ids, _ in masked], labels=[labels for _, labels in masked], cell_index=cells)
