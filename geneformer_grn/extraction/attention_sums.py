"""Sums of attention over cells, for the pairs of regulators and targets only, one table a head where asked.

What is added for a pair in a cell is a reading: ``p × L``, or that relative to what the positions of the two
genes predict, or its rank in the query's row. Readings of one cell are summed over its layers before they go
into the table, since scattering is the slower step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from geneformer_grn.cells.packing import PackedBatch
from geneformer_grn.extraction.positions import PositionExpectation
from geneformer_grn.extraction.streaming import CellGenes, PairIndex, attention_slices

Direction = Literal["target_reads", "regulator_reads", "both"]
Head = tuple[int, int]


class AttentionSums:
    """Receives queries and keys from the encoder and keeps sums for regulator × target pairs.

    Parameters
    ----------
    index
        The pairs.
    heads
        (layer, head) pairs to read, without repetition.
    direction
        Who reads whom, see `geneformer_grn.extraction.attention.AttentionSettings`.
    by_head
        Keep one table for each of `heads` and not their sum.
    expectation
        What positions predict: readings are divided by it.
    rank_rows
        Readings are ranks within the query's row.
    """

    def __init__(
        self,
        index: PairIndex,
        heads: Sequence[Head],
        *,
        direction: Direction = "target_reads",
        by_head: bool = False,
        expectation: PositionExpectation | None = None,
        rank_rows: bool = False,
    ) -> None:
        self._index = index
        self._table_of = {head: number if by_head else 0 for number, head in enumerate(heads)}
        self._heads_of = {
            layer: sorted(head for other, head in heads if other == layer) for layer, _ in heads
        }
        self._by_head = by_head
        self._by_target = [side == "target_reads" for side in _sides(direction)]
        self._expectation, self._rank_rows = expectation, rank_rows
        self._sums = index.zeros(len(heads) if by_head else 1)
        self._n_readings = len(self._by_target) * (1 if by_head else len(heads))
        self._cells: list[CellGenes] = []
        self._read: dict[int, Tensor] = {}

    def begin(self, batch: PackedBatch) -> None:
        """Look up where the genes of each cell lie, and count the pairs that each cell holds."""
        self._cells, self._read = self._index.begin(batch), {}

    def add(self, layer_index: int, segment: int, query: Tensor, key: Tensor, scaling: float) -> None:
        """Add one cell's attention of one layer; ``(H, L, D)`` queries and keys."""
        genes = self._cells[segment]
        heads = self._heads_of.get(layer_index)
        if heads is None or len(genes.rows) == 0 or len(genes.columns) == 0:
            return
        query, key = query[heads], key[heads]
        parts = [
            self._readings(layer_index, genes, query, key, scaling, by_target=by_target)
            for by_target in self._by_target
        ]
        read_htr = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        if self._by_head:
            for head, read in zip(heads, read_htr, strict=True):
                self._sums[self._table_of[layer_index, head]][genes.pairs] += read.to(self._sums.dtype)
            return
        read = read_htr.sum(dim=0)
        if segment in self._read:
            read += self._read.pop(segment)
        if layer_index < max(self._heads_of):
            self._read[segment] = read
        else:
            # every gene occurs once in a cell, so that plain indexed addition drops nothing
            self._sums[0][genes.pairs] += read.to(self._sums.dtype)

    def means(self, min_support: int) -> Iterator[np.ndarray]:
        """Yield the ``(R, T)`` float32 mean reading of each table, NaN below `min_support` cells."""
        support = self._index.support
        for total in self._sums:
            mean = (total / (support * self._n_readings)).to(torch.float32)
            yield mean.masked_fill_(support < min_support, torch.nan).T.cpu().numpy()

    def _readings(
        self,
        layer: int,
        genes: CellGenes,
        query: Tensor,
        key: Tensor,
        scaling: float,
        *,
        by_target: bool,
    ) -> Tensor:
        """Return the readings ``(h, t, r)`` of one cell, layer and direction."""
        sides = (genes.targets, genes.regulators)
        queries, keys = sides if by_target else sides[::-1]
        # The keys that are kept go first: softmax does not mind, and a slice is cheaper than gathering.
        others = torch.ones(genes.length, dtype=torch.bool, device=keys.device)
        others[keys] = False
        key = key[:, torch.cat([keys, torch.nonzero(others)[:, 0]])]
        heads = self._heads_of[layer]
        parts = []
        for part, probabilities_hql in attention_slices(query, key, scaling, queries):
            read_hqk = probabilities_hql[:, :, : len(keys)]
            if self._rank_rows:
                parts.append(row_ranks(read_hqk))
                continue
            read_hqk = read_hqk * genes.length
            if self._expectation is not None:
                read_hqk /= self._expectation.expected(layer, heads, queries[part], keys)
            parts.append(read_hqk)
        read = torch.cat(parts, dim=1)
        return read if by_target else read.transpose(1, 2)


def row_ranks(values: Tensor) -> Tensor:
    """Return the mid-rank of each value within its row, between 0 and 1.

    Parameters
    ----------
    values
        ``(..., k)``.

    Returns
    -------
    Tensor
        ``(rank - 0.5) / k`` with ranks from 1, tied values sharing their mean; float32.

    Examples
    --------
    >>> row_ranks(torch.tensor([[0.2, 0.9, 0.2, 0.1]])).tolist()
    [[0.5, 0.875, 0.5, 0.125]]
    """
    values = values.contiguous()
    ordered = values.sort(dim=-1).values
    below = torch.searchsorted(ordered, values, side="left")
    not_above = torch.searchsorted(ordered, values, side="right")
    return (below + not_above).float() / (2 * values.shape[-1])


def _sides(direction: Direction) -> tuple[str, ...]:
    return ("target_reads", "regulator_reads") if direction == "both" else (direction,)
