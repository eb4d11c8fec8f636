"""The compiled half of training batches: cells into budgets, then masked and packed in one pass.

Drawing with a generator object for each cell costs ten times what the batch itself costs. Here a draw is a
hash of its number, so that nothing has to be set up: SplitMix64 (Steele, Lea & Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014), which gives output number `k` of a stream as a mix of
``key + k * GAMMA``. The key of a cell's stream is mixed from (seed, epoch, copy, cell), and the token at
position `p` takes outputs ``2 p + 1`` (is it asked for, and what becomes of it) and ``2 p + 2`` (which gene
replaces it). The masks of evaluation are others, see `masking.mask_cell`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from geneformer_grn.cells.masking import IGNORED
from geneformer_grn.cells.radix import compiled

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_27, _30, _31, _32 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)
_ONE, _TWO, _UNUSED = np.uint64(1), np.uint64(2), np.uint64(11)
DRAW_BITS = 53  # of an output decide whether a token is asked for


class Cells(NamedTuple):
    """Cells of a batch where they lie: ``(n,)`` each, `starts` and `lengths` in `values` (uint16).

    `keys` uint64, see :func:`cell_keys`.
    """

    values: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    keys: np.ndarray


class Rules(NamedTuple):
    """What is masked, and how.

    A draw of 53 bits below `asked` asks for the gene; one below `kept` leaves it as it is, one below
    `randomised` puts a random gene in its place, the rest ``<mask>``. Genes are the tokens from `n_special`
    to `n_tokens`. Cells are cut to `longest` tokens; `ends_kept` keeps their last one.
    """

    n_special: int
    n_tokens: int
    mask_token: int
    longest: int
    ends_kept: bool
    kept: np.uint64
    randomised: np.uint64
    asked: np.uint64


class Inputs(NamedTuple):
    """What is written, int64 ``(T,)`` each; `masked`, the positions asked for, needs room for one more."""

    input_ids: np.ndarray
    labels: np.ndarray
    position_ids: np.ndarray
    masked: np.ndarray


def _mixed(state):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return SplitMix64's output of one state."""
    state = (state ^ (state >> _30)) * _FIRST
    state = (state ^ (state >> _27)) * _SECOND
    return state ^ (state >> _31)


mixed = compiled(_mixed)


def _cell_keys(seed, epoch, copies, cells):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the key of each cell's stream, ``(n,)`` uint64; `copies` and `cells` are ``(n,)`` int64."""
    keys = np.empty(len(cells), dtype=np.uint64)
    shared = mixed((mixed(np.uint64(seed) + _GAMMA) ^ np.uint64(epoch)) + _GAMMA)
    for place in range(len(cells)):
        of_copy = mixed((shared ^ np.uint64(copies[place])) + _GAMMA)
        keys[place] = mixed((of_copy ^ np.uint64(cells[place])) + _GAMMA)
    return keys


cell_keys = compiled(_cell_keys)


def _draw(key, draws):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write the draw of every position of a cell, ``(l,)`` uint64; without branches, so in vectors."""
    for position in range(len(draws)):
        draws[position] = mixed(key + (np.uint64(position) * _TWO + _ONE) * _GAMMA) >> _UNUSED


def _lay(tokens, last, input_ids, labels, position_ids):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write a cell as it is, ending with the token `last`, nothing asked."""
    for position in range(len(tokens)):
        input_ids[position] = tokens[position]
    input_ids[-1] = last
    for position in range(len(tokens)):
        labels[position] = IGNORED
    for position in range(len(tokens)):
        position_ids[position] = position


draw_cell = compiled(_draw)
lay_cell = compiled(_lay)


def _lowest_gene(tokens, draws, n_special):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the position of the gene with the lowest draw; -1 where there is no gene."""
    found = -1
    for position in range(len(tokens)):
        if tokens[position] >= n_special and (found < 0 or draws[position] < draws[found]):
            found = position
    return found


lowest_gene = compiled(_lowest_gene)


def _mask_and_pack(cells, rules, inputs):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Fill `inputs` with `cells` end to end; return the masked positions, or -1 - (a cell without a gene).

    A cell of which no gene was drawn is asked for the gene of its lowest draw.
    """
    n_genes = np.uint64(rules.n_tokens - rules.n_special)
    spare = np.empty(min(cells.lengths.max(), rules.longest), dtype=np.uint64)
    masked = inputs.masked
    row, n_masked = 0, 0
    for cell in range(len(cells.starts)):
        start, key, whole = cells.starts[cell], cells.keys[cell], cells.lengths[cell]
        length = min(whole, rules.longest)
        tokens = cells.values[start : start + length]
        last = cells.values[start + whole - 1] if rules.ends_kept else tokens[-1]
        input_ids, labels = inputs.input_ids[row : row + length], inputs.labels[row : row + length]
        lay_cell(tokens, last, input_ids, labels, inputs.position_ids[row : row + length])
        draws = spare[:length]
        draw_cell(key, draws)
        before = n_masked
        for position in range(length):  # without a branch: every place is written, the next one over it
            masked[n_masked] = position
            n_masked += (draws[position] < rules.asked) & (input_ids[position] >= rules.n_special)
        if n_masked == before:
            masked[before] = lowest_gene(input_ids, draws, rules.n_special)
            n_masked += 1
            if masked[before] < 0:
                return -1 - cell
        for found in range(before, n_masked):
            position = masked[found]
            masked[found] = row + position
            labels[position] = input_ids[position]
            if draws[position] >= rules.randomised:
                input_ids[position] = rules.mask_token
            elif draws[position] >= rules.kept:
                high = mixed(key + (np.uint64(position) + _ONE) * _TWO * _GAMMA) >> _32
                input_ids[position] = rules.n_special + np.int64((high * n_genes) >> _32)
        row += length
    return n_masked


mask_and_pack = compiled(_mask_and_pack)


def _fill_batches(lengths, token_budget, n_open):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Put cells of `lengths` (``(n,)`` int64), in their order, into batches of at most `token_budget` tokens.

    A cell goes into the first of `n_open` open batches with room; without room the fullest is closed. Return
    the places of the cells batch by batch, ``(n,)`` int64, and where each batch ends in them.
    """
    number = np.empty(n_open, dtype=np.int64)  # of the open batches, in order of opening
    room = np.empty(n_open, dtype=np.int64)
    batch_of = np.empty(len(lengths), dtype=np.int64)
    turn = np.empty(len(lengths), dtype=np.int64)  # in which a batch was closed
    open_now, opened, closed = 0, 0, 0
    for cell in range(len(lengths)):
        place = 0
        while place < open_now and lengths[cell] > room[place]:
            place += 1
        if place == open_now:
            if open_now == n_open:
                fullest = np.argmin(room)
                turn[number[fullest]] = closed
                closed += 1
                number[fullest:-1] = number[fullest + 1 :].copy()
                room[fullest:-1] = room[fullest + 1 :].copy()
                open_now -= 1
            place = open_now
            number[place], room[place] = opened, token_budget
            open_now += 1
            opened += 1
        room[place] -= lengths[cell]
        batch_of[cell] = number[place]
    for place in range(open_now):
        turn[number[place]] = closed + place
    ends = np.zeros(opened + 1, dtype=np.int64)
    for cell in range(len(lengths)):
        ends[turn[batch_of[cell]] + 1] += 1
    ends = np.cumsum(ends)
    places = np.empty(len(lengths), dtype=np.int64)
    for cell in range(len(lengths)):
        batch = turn[batch_of[cell]]
        places[ends[batch]] = cell
        ends[batch] += 1  # from the batch's beginning to its end
    return places, ends[:-1]


fill_batches = compiled(_fill_batches)
