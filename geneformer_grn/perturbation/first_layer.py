"""The first layer, shared between all perturbations of a cell that take one gene out.

With the gene at position `p` gone, a gene in front of it keeps its embedding, and one behind it has, on a
`delete`, that of one position less. So there are two embeddings of each token, and the first layer's queries,
keys and values are computed once for both instead of once a perturbation. What its attention sums over the
keys of a perturbed cell is a sum over the keys in front of `p` plus one over those behind, and both grow key
by key from one perturbation to the next. Nothing is approximated, and nothing subtracted: it equals the plain
computation to float32's rounding. All that comes after this attention differs between perturbations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from geneformer_grn.model.inference import InferenceLayers
from geneformer_grn.perturbation.tasks import Task

_HELD = 1 << 21  # numbers held at once in a block of queries
_WORTH = 4  # fewer perturbations of a cell than this are faster on their own
_SMALLEST = 1e-30  # a sum of exponentials below it: the gene taken out had all of the attention


@dataclass(frozen=True, eq=False)
class Embedded:
    """One of the two embeddings of a cell's tokens, with its queries (scaled), keys and values.

    `states` is ``(L, d)``; the others are ``(H, L, D)``, `value` with a column of ones behind: float32.
    """

    states: Tensor
    query: Tensor
    key: Tensor
    value: Tensor

    @classmethod
    def of(cls, layers: InferenceLayers, states: Tensor) -> Embedded:
        """Return what the first layer makes of embeddings ``(L, d)``."""
        query, key, value = (
            part.transpose(0, 1).float() for part in layers.layers[0].heads(states, layers.n_heads)
        )
        ones = value.new_ones((*value.shape[:2], 1))
        return cls(states, query * query.shape[-1] ** -0.5, key, torch.cat([value, ones], dim=-1))


class SharedFirstLayer:
    """The first layer of one cell with one gene at a time taken out.

    Parameters
    ----------
    layers
        The model.
    cell_ids
        ``(L,)`` int64 model input of the cell, on the device.
    moves
        Whether what follows the gene moves up (`delete`) or keeps its position (`knockout`).
    """

    def __init__(self, layers: InferenceLayers, cell_ids: Tensor, *, moves: bool) -> None:
        self._layers = layers
        positions = torch.arange(len(cell_ids), device=cell_ids.device)
        self._front = Embedded.of(layers, layers.embed(cell_ids, positions))
        self._back = self._front
        if moves:  # nothing is in front of the first token, which is never asked for in this embedding
            self._back = Embedded.of(layers, layers.embed(cell_ids, (positions - 1).clamp(min=0)))

    def unperturbed(self) -> Tensor:
        """Return the states ``(L, d)`` of the whole cell after the layer, by the same arithmetic."""
        whole = self._front
        mixed = functional.scaled_dot_product_attention(
            whole.query[None], whole.key[None], whole.value[None, ..., :-1], scale=1.0
        )
        return self._layers.layers[0].after_attention(whole.states, mixed[0].transpose(0, 1).flatten(1))

    def attend(self, removed: Sequence[int]) -> Tensor | None:
        """Return what attention makes ``(n, L - 1, d)`` of the cell, one gene at a time removed.

        Parameters
        ----------
        removed
            n positions of genes, ascending.

        Returns
        -------
        The attention output, or None where a gene had so much of the attention of another token that nothing
        is left in float32: these cells need passes of their own.
        """
        length = len(self._front.states)
        n_heads, _, size = self._front.key.shape
        mixed = self._front.states.new_empty((len(removed), length - 1, n_heads, size))
        first, last = removed[0], removed[-1]
        keys = torch.cat([self._front.key[:, :last], self._back.key[:, first + 1 :]], dim=1).transpose(1, 2)
        block = max(1, _HELD // (n_heads * (keys.shape[2] + len(removed) * size)))
        # A query in front of the gene has the one embedding; one behind it the other, and a row less.
        for query, begin, end, moved in (
            (self._front.query, 0, last, 0),
            (self._back.query, first + 1, length, 1),
        ):
            for start in range(begin, end, block):
                stop = min(start + block, end)
                sums = self._sums(query[:, start:stop], keys, removed)
                if not bool(sums[..., -1].min() > _SMALLEST):
                    return None
                for place, position in enumerate(removed):
                    low, high = (max(start, position + 1), stop) if moved else (start, min(stop, position))
                    if low < high:
                        part = sums[place, :, low - start : high - start]
                        means = mixed[place, low - moved : high - moved].transpose(0, 1)
                        torch.div(part[..., :-1], part[..., -1:], out=means)
        return mixed.flatten(2)

    def finish(self, removed: Sequence[int], mixed: Tensor) -> Tensor:
        """Return the layer's output ``(n * (L - 1), d)``, given `attend`'s for the same genes."""
        parts = [part for p in removed for part in (self._front.states[:p], self._back.states[p + 1 :])]
        return self._layers.layers[0].after_attention(torch.cat(parts), mixed.flatten(0, 1))

    def _sums(self, query: Tensor, keys: Tensor, removed: Sequence[int]) -> Tensor:
        """Return the weighted sums ``(n, H, rows, D + 1)`` over the keys that each removal leaves.

        `query` is ``(H, rows, D)``. `keys` ``(H, D, keys)`` are those in front of the last gene removed, then
        those behind the first.
        """
        weights = torch.bmm(query, keys)
        weights = weights.sub_(weights.amax(dim=-1, keepdim=True)).exp_()
        found = weights.new_empty((len(removed), *query.shape[:2], self._front.value.shape[2]))
        behind = removed[-1] - removed[0] - 1  # the key at position j, behind a gene, is in column j + behind
        end = len(self._front.states)
        for place in range(len(removed) - 1, -1, -1):
            position = removed[place]
            part = slice(behind + position + 1, behind + end)
            values = self._back.value[:, position + 1 : end]
            if place == len(removed) - 1:
                torch.bmm(weights[:, :, part], values, out=found[place])
            else:
                torch.baddbmm(found[place + 1], weights[:, :, part], values, out=found[place])
            end = position + 1
        begin, before = 0, weights.new_zeros(found.shape[1:])
        for place, position in enumerate(removed):
            before.baddbmm_(weights[:, :, begin:position], self._front.value[:, begin:position])
            found[place] += before
            begin = position
        return found


def removed_position(task: Task) -> tuple[int, bool] | None:
    """Return the position of the one gene that a task takes out, and whether later ones move up.

    None where the task does anything else.
    """
    ids, edit = task.cell_ids, task.edit
    if len(edit.input_ids) != len(ids) - 1 or len(edit.original_dropped):
        return None
    different = np.flatnonzero(ids[:-1] != edit.input_ids)
    position = int(different[0]) if len(different) else len(ids) - 1
    if not np.array_equal(ids[position + 1 :], edit.input_ids[position:]):
        return None
    first_behind = edit.position_ids[position] if position < len(edit.input_ids) else position
    expected = np.arange(len(ids) - 1)
    expected[position:] += int(first_behind) - position
    is_shared = first_behind - position in {0, 1} and np.array_equal(edit.position_ids, expected)
    return (position, bool(first_behind == position)) if is_shared else None


def shared_groups(tasks: Sequence[Task]) -> tuple[list[tuple[bool, list[int], list[Task]]], list[Task]]:
    """Return the tasks whose first layer is worth sharing, by cell and kind, and all others.

    A group is whether genes move up, the ascending positions removed, and their tasks.
    """
    found: dict[tuple[object, bool], list[tuple[int, Task]]] = {}
    alone = []
    for task in tasks:
        removed = removed_position(task)
        if removed is None:
            alone.append(task)
        else:
            found.setdefault((task.original, removed[1]), []).append((removed[0], task))
    groups = []
    for (_, moves), members in found.items():
        if len(members) < _WORTH:
            alone += [task for _, task in members]
            continue
        members.sort(key=lambda member: member[0])
        groups.append((moves, [position for position, _ in members], [task for _, task in members]))
    return groups, alone
