"""Packed batches: cells laid end to end in one row of tokens, told apart by their offsets, nothing padded.

Padding a batch of single cells wastes a third to half of all computation, because lengths differ by a factor
of ten. Packing wastes nothing; the price is an attention function that honours the offsets
(:mod:`geneformer_grn.model.attention`). Batches are budgets of tokens, not numbers of cells.

For training, the list of batches of an epoch depends on (seed, epoch, settings) only. A step on `W` processes
with `A` accumulated batches each consumes `W * A` consecutive ones, so one process with two accumulated batches
computes what two processes do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch

from geneformer_grn.cells.masking import IGNORED, MaskSettings, mask_cell
from geneformer_grn.genes.vocabulary import GeneVocabulary

if TYPE_CHECKING:
    from geneformer_grn.cells.corpus import Corpus

__all__ = [
    "BatchSettings", "MaskSettings", "PackedBatch", "mask_cell", "n_training_batches", "pack", "plan_by_budget",
    "plan_epoch", "training_batches",
]  # fmt: skip

_OPEN_BATCHES = 16  # batches being filled at a time: more fill better, and cost more


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """Cells in one row of tokens.

    Parameters
    ----------
    input_ids
        ``(1, T)`` int64.
    position_ids
        ``(1, T)`` int64; start again with every cell.
    labels
        ``(1, T)`` int64; -100 where nothing is asked.
    cu_seqlens
        ``(N+1,)`` int32; cell `i` is ``[cu_seqlens[i], cu_seqlens[i + 1])``.
    max_seqlen
        Tokens of the longest cell.
    masked_index
        ``(M,)`` int64 positions in ``[0, T)`` whose label is asked for.
    cell_index
        ``(N,)`` int64 row of each cell in its source; -1 for a cell that only keeps a process busy.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    cu_seqlens: torch.Tensor
    max_seqlen: int
    masked_index: torch.Tensor
    cell_index: torch.Tensor

    def __len__(self) -> int:
        return len(self.cell_index)

    @property
    def n_tokens(self) -> int:
        """Number of tokens, `T`."""
        return int(self.input_ids.shape[1])

    def to(self, device: torch.device | str) -> PackedBatch:
        """Return the batch on `device`."""
        moved = {item.name: getattr(self, item.name) for item in fields(self)}
        return PackedBatch(
            **{
                name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
                for name, value in moved.items()
            }
        )


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
    mask: MaskSettings = MaskSettings()  # frozen, so one instance may be everyone's default


def pack(
    sequences: Sequence[np.ndarray],
    *,
    position_ids: Sequence[np.ndarray] | None = None,
    labels: Sequence[np.ndarray] | None = None,
    cell_index: np.ndarray | Sequence[int] | None = None,
) -> PackedBatch:
    """Lay model inputs end to end.

    Parameters
    ----------
    sequences
        One integer array ``(l_i,)`` per cell, none of them empty.
    position_ids
        Positions of each cell's tokens, same lengths; default 0, 1, 2, ...
    labels
        Labels of each cell's tokens, same lengths; default nothing asked.
    cell_index
        Where each cell comes from; default 0, 1, 2, ...

    Raises
    ------
    ValueError
        There are no cells, one is empty, or lengths differ.
    """
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    if len(lengths) == 0 or lengths.min() == 0:
        raise ValueError(f"cannot pack {len(lengths)} cells of which {int((lengths == 0).sum())} are empty")
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.concatenate(sequences).astype(np.int64, copy=False)
    positions = _joined(position_ids, lengths, "position_ids")
    if positions is None:
        positions = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    asked = _joined(labels, lengths, "labels")
    asked = np.full(offsets[-1], IGNORED, dtype=np.int64) if asked is None else asked
    index = np.arange(len(lengths)) if cell_index is None else np.asarray(cell_index, dtype=np.int64)
    if len(index) != len(lengths):
        raise ValueError(f"{len(lengths)} cells are packed, but {len(index)} cell indices given")
    return PackedBatch(
        input_ids=torch.from_numpy(ids)[None],
        position_ids=torch.from_numpy(positions)[None],
        labels=torch.from_numpy(asked)[None],
        cu_seqlens=torch.from_numpy(offsets.astype(np.int32)),
        max_seqlen=int(lengths.max()),
        masked_index=torch.from_numpy(np.flatnonzero(asked != IGNORED)),
        cell_index=torch.from_numpy(index),
    )


def _joined(parts: Sequence[np.ndarray] | None, lengths: np.ndarray, name: str) -> np.ndarray | None:
    if parts is None:
        return None
    if [len(part) for part in parts] != lengths.tolist():
        raise ValueError(f"{name} do not have the lengths of the cells they belong to")
    return np.concatenate(parts).astype(np.int64, copy=False)


def plan_by_budget(lengths: np.ndarray | Sequence[int], token_budget: int) -> list[np.ndarray]:
    """Group cells for inference: longest first, so that what does not fit in memory fails at once.

    Parameters
    ----------
    lengths
        ``(n,)`` tokens of each cell.
    token_budget
        Tokens that a group holds at most; a longer cell makes a group of its own.

    Returns
    -------
    list of numpy.ndarray
        int64 indices into `lengths`; every cell is in one group.

    Raises
    ------
    ValueError
        The budget is below one token.
    """
    if token_budget < 1:
        raise ValueError(f"the token budget is {token_budget}; at least 1 is needed")
    lengths = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    groups = []
    start, before = 0, 0
    while start < len(order):
        stop = max(start + 1, int(np.searchsorted(ends, before + token_budget, side="right")))
        groups.append(order[start:stop])
        start, before = stop, int(ends[stop - 1])
    return groups


def plan_epoch(
    lengths: np.ndarray, settings: BatchSettings, *, epoch: int, cells: np.ndarray | None = None
) -> list[np.ndarray]:
    """Return the batches of an epoch as cell indices: every cell once, in an order drawn from (seed, epoch).

    Shuffled cells go into the first of a few open batches that has room; the fullest is closed to open another.
    About 99 % of the budget is filled with cells a tenth of it long.

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
            f"the token budget {settings.token_budget:,} is smaller than the longest cell, {longest:,} tokens; "
            "raise it, or lower max_length"
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

    Batch `i` of :func:`plan_epoch` goes whole to process ``i % world_size``. Where the number of batches is no
    multiple, the processes left over get one more, a single cell with nothing asked and ``cell_index`` -1: all
    processes do the same number of steps, every cell is asked about once, and the loss, normalised by the masked
    genes of all processes, does not change.

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
