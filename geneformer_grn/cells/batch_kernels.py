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
    """What is written, int64: rows ``(1, T)`` and the masked positions, with room for all of them."""

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


def _lowest_gene(tokens, key, n_special):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the position of the gene with the lowest draw; -1 where there is no gene."""
    found, lowest = -1, np.uint64(0)
    for position in range(len(tokens)):
        draw = mixed(key + (np.uint64(position) * _TWO + _ONE) * _GAMMA) >> _UNUSED
        if tokens[position] >= n_special and (found < 0 or draw < lowest):
            found, lowest = position, draw
    return found


lowest_gene = compiled(_lowest_gene)


def _mask_and_pack(cells, rules, inputs):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Fill `inputs` with `cells` end to end; return the masked positions, or -1 - (a cell without a gene).

    A cell of which no gene was drawn is asked for the gene of its lowest draw.
    """
    input_ids, labels, position_ids, masked = inputs
    random_span = np.uint64(rules.n_tokens - rules.n_special)
    row = 0
    n_masked = 0
    for cell in range(len(cells.starts)):
        start, key = cells.starts[cell], cells.keys[cell]
        length = min(cells.lengths[cell], rules.longest)
        last = start + (cells.lengths[cell] if rules.ends_kept else length) - 1
        before = n_masked
        for position in range(length):
            token = np.int64(cells.values[last if position == length - 1 else start + position])
            place = row + position
            position_ids[place] = position
            input_ids[place] = token
            labels[place] = IGNORED
            state = key + (np.uint64(position) * _TWO + _ONE) * _GAMMA
            draw = mixed(state) >> _UNUSED
            if draw < rules.asked and token >= rules.n_special:
                labels[place] = token
                masked[n_masked] = place
                n_masked += 1
                if draw >= rules.randomised:
                    input_ids[place] = rules.mask_token
                elif draw >= rules.kept:
                    number = ((mixed(state + _GAMMA) >> _32) * random_span) >> _32
                    input_ids[place] = rules.n_special + np.int64(number)
        if n_masked == before:
            place = lowest_gene(input_ids[row : row + length], key, rules.n_special)
            if place < 0:
                return -1 - cell
            place += row
            labels[place] = input_ids[place]
            input_ids[place] = rules.mask_token
            masked[n_masked] = place
            n_masked += 1
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
