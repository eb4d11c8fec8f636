"""Packed batches: cells laid end to end in one row of tokens, told apart by their offsets, nothing padded.

Padding a batch of single cells wastes a third to half of all computation, because lengths differ by a factor
of ten. Packing wastes nothing; the price is an attention function that honours the offsets
(:mod:`geneformer_grn.model.attention`). Batches are budgets of tokens, not numbers of cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from geneformer_grn.cells.masking import IGNORED


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
        ``(N,)`` int64 row of each cell in its source; -1 for what is no cell: filling (see `fill`), or a cell
        that only keeps a process busy.
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

    @property
    def cell_lengths(self) -> torch.Tensor:
        """Tokens of each real cell, int64; filling is left out."""
        return self.cu_seqlens.diff()[self.cell_index >= 0].long()

    def to(self, device: torch.device | str) -> PackedBatch:
        """Return the batch on `device`."""
        return replace(
            self,
            input_ids=self.input_ids.to(device, non_blocking=True),
            position_ids=self.position_ids.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            cu_seqlens=self.cu_seqlens.to(device, non_blocking=True),
            masked_index=self.masked_index.to(device, non_blocking=True),
            cell_index=self.cell_index.to(device, non_blocking=True),
        )


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
    rows = Rows(*(torch.from_numpy(row)[None] for row in (ids, asked, positions)))
    return assemble(rows, lengths, np.flatnonzero(asked != IGNORED), index)


@dataclass(frozen=True, kw_only=True)
class BatchShape:
    """The one shape of all batches of a run, so that a compiled step is compiled once.

    Parameters
    ----------
    n_tokens
        Length of the row, `T`.
    n_cells
        Segments of a batch.
    n_masked
        Entries of ``masked_index``.
    max_seqlen
        Longest segment.
    """

    n_tokens: int
    n_cells: int
    n_masked: int
    max_seqlen: int


def fill(batch: PackedBatch, shape: BatchShape, *, filler: int) -> PackedBatch:
    """Bring a batch to a fixed shape without changing what its cells see or what is asked of them.

    The row is filled with segments of `filler` tokens behind the cells, none longer than ``max_seqlen``;
    ``cu_seqlens`` goes on repeating `T`, and ``masked_index`` is padded with -100. ``cell_index`` is -1 for
    all that is no cell. A batch with more segments or masked positions than `shape` holds keeps its own
    number of them: compiling once more is better than a wrong loss.

    Parameters
    ----------
    batch
        On the CPU.
    shape
        Sizes to fill up to.
    filler
        Token id of the filling.

    Raises
    ------
    ValueError
        The batch, or one of its cells, is longer than the shape.
    """
    if batch.n_tokens > shape.n_tokens or batch.max_seqlen > shape.max_seqlen:
        raise ValueError(
            f"a batch of {batch.n_tokens:,} tokens with a cell of {batch.max_seqlen:,} does not fit "
            f"{shape.n_tokens:,} tokens with cells of at most {shape.max_seqlen:,}"
        )
    rows = empty_rows(shape.n_tokens)
    for row, own in zip(rows, (batch.input_ids, batch.labels, batch.position_ids), strict=True):
        row[:, : batch.n_tokens] = own
    lengths, masked = batch.cu_seqlens.diff().numpy(), batch.masked_index.numpy()
    return assemble(rows, lengths, masked, batch.cell_index.numpy(), shape=shape, filler=filler)


class Rows(NamedTuple):
    """The rows of a batch, ``(1, T)`` int64 each."""

    input_ids: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor


def empty_rows(n_tokens: int, *, pinned: bool = False) -> Rows:
    """Return rows to write into; `pinned`: in page-locked memory, which torch keeps and hands out again."""
    return Rows(*(torch.empty((1, n_tokens), dtype=torch.int64, pin_memory=pinned) for _ in Rows._fields))


def assemble(
    rows: Rows,
    lengths: np.ndarray,
    masked: np.ndarray,
    cell_index: np.ndarray,
    *,
    shape: BatchShape | None = None,
    filler: int = 0,
    pinned: bool = False,
) -> PackedBatch:
    """Return a batch whose cells are written into `rows` already, filled to `shape` as `fill` does.

    Parameters
    ----------
    rows
        As long as the cells together, or as `shape` says; what is behind the cells is overwritten.
    lengths, masked, cell_index
        Tokens of each cell, masked positions, and where each cell comes from.
    shape, filler
        As for `fill`; None: nothing is filled.
    pinned
        Put what is made here into page-locked memory as well.
    """
    boundaries = np.concatenate([[0], np.cumsum(lengths)])
    longest = int(lengths.max())
    if shape is not None:
        start = int(boundaries[-1])
        missing = shape.n_tokens - start
        rows.input_ids[:, start:] = filler
        rows.labels[:, start:] = IGNORED
        rows.position_ids[:, start:] = torch.arange(missing) % shape.max_seqlen
        ends = np.arange(start, shape.n_tokens, shape.max_seqlen)[1:]
        n_repeats = max(int(missing > 0), shape.n_cells - len(lengths) - len(ends))
        boundaries = np.concatenate([boundaries, ends, np.full(n_repeats, shape.n_tokens)])
        masked = _padded(masked, shape.n_masked, IGNORED)
        cell_index = _padded(cell_index, len(boundaries) - 1, -1)
        longest = shape.max_seqlen
    return PackedBatch(
        input_ids=rows.input_ids,
        position_ids=rows.position_ids,
        labels=rows.labels,
        cu_seqlens=_tensor(boundaries.astype(np.int32), pinned=pinned),
        max_seqlen=longest,
        masked_index=_tensor(masked, pinned=pinned),
        cell_index=_tensor(cell_index, pinned=pinned),
    )


def _padded(values: np.ndarray, size: int, value: int) -> np.ndarray:
    return np.concatenate([values, np.full(max(0, size - len(values)), value, dtype=values.dtype)])


def _tensor(values: np.ndarray, *, pinned: bool) -> torch.Tensor:
    tensor = torch.from_numpy(values)
    return tensor.pin_memory() if pinned else tensor


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
