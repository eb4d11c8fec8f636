"""The compiled passes of the ranking: from the rows of a count file to ranked tokens, without a copy between.

A (gene, count) pair of small count takes few values, so their order is worked out once (``rank_table.py``):
ranking a cell then means to set one bit for each of its genes in a bitmap over that order, and to read the
bits off. What the table does not hold (large counts, fractions, sums over columns) is sorted by its ratio and
merged in. Both ways give the order of ``float64(count) / float64(median)``, ties by ascending token.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from geneformer_grn.cells.radix import compiled, new_spare, sort_cell
from geneformer_grn.cells.row_kernels import ascends, ones, trailing_zeros

SLACK = 64  # tokens that may be written behind those of a cropped cell
SKIPPED, ASIDE = 0, 1  # the entries of `Table.places` of columns that are unknown, or not in the table
_INFINITY = np.uint64(0x7FF0000000000000)  # as float64: above every finite ratio, so the difference descends
_ONE, _NONE = np.uint64(1), np.uint64(0)


class Table(NamedTuple):
    """The order of small counts: count c of a column has the place ``places[base[column] + c]``.

    `base` ``(n_columns,)`` uint32; `limit` ``(n_columns,)`` float32, the first count that the table lacks;
    `places` uint32, ``n_places`` where nothing is to be ranked, the largest uint32 where the table does not
    say; `tokens` uint16 by place, padded by 128; `keys` ``(n_places,)`` uint64 by place, ascending.
    """

    base: np.ndarray
    limit: np.ndarray
    places: np.ndarray
    tokens: np.ndarray
    keys: np.ndarray


class Ranked(NamedTuple):
    """Where ranked cells go; `counts` is empty where they are not asked for."""

    tokens: np.ndarray
    counts: np.ndarray
    ends: np.ndarray
    lengths: np.ndarray
    totals: np.ndarray
    known: np.ndarray


class Aside(NamedTuple):
    """The genes of one cell that are not in the table, and the sums over columns, by token."""

    keys: np.ndarray
    tokens: np.ndarray
    sums: np.ndarray
    touched: np.ndarray


def _put_aside(aside, token, value, median, n_aside):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Keep a gene for sorting; its key ascends as the float64 ratio descends."""
    aside.keys[n_aside] = _INFINITY - np.float64(np.float64(value) / median).view(np.uint64)
    aside.tokens[n_aside] = token
    return n_aside + 1


put_aside = compiled(_put_aside)


def _add_up(aside, token, value, n_touched):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    if aside.sums[token] == 0:
        aside.touched[n_touched] = token
        n_touched += 1
    aside.sums[token] += value
    return n_touched


add_up = compiled(_add_up)


def _gather(data, indices, columns, table, bits, aside):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Sort the genes of a cell whose columns ascend into bits, aside and sums; return how many."""
    n_bits, n_aside, n_touched = 0, 0, 0
    total, known = 0.0, 0.0
    n_places = np.uint32(len(table.keys))
    for index in range(len(data)):
        value, column = data[index], np.uint32(indices[index])  # unsigned: no test for places from the end
        base, limit = table.base[column], table.limit[column]
        total += value
        if base > SKIPPED:
            known += value
        # Neither NaN nor negative values get past these two.
        small = value if value > 0 else np.float32(0)
        small = small if small < limit else limit
        count = np.int32(small)
        place = table.places[base + np.uint32(count)]
        if place <= n_places and small == count:
            bits[place >> np.uint32(6)] |= _ONE << np.uint64(place & np.uint32(63))
            n_bits += place < n_places
        elif value > 0:
            token = columns.tokens[column]
            if columns.shared[column]:
                n_touched = add_up(aside, token, value, n_touched)
            else:
                n_aside = put_aside(aside, token, value, columns.medians[token], n_aside)
    return n_bits, n_aside, n_touched, total, known


gather = compiled(_gather)


def _gather_any(data, indices, columns, aside):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Add up the genes of a cell whose columns come in any order, or twice; return how many, and totals."""
    n_touched = 0
    total, known = 0.0, 0.0
    for index in range(len(data)):
        value, token = data[index], columns.tokens[np.uint32(indices[index])]
        total += value
        if token >= 0:
            known += value
            if value > 0:
                n_touched = add_up(aside, token, value, n_touched)
    return n_touched, total, known


gather_any = compiled(_gather_any)


def _settle(aside, n_touched, columns, table, bits, n_aside):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Sort the genes that were added up into bits and aside, and forget the sums; return how many."""
    n_bits = 0
    n_places = np.uint32(len(table.keys))
    for index in range(n_touched):
        token = aside.touched[index]
        value = aside.sums[token]
        column = columns.column_of[token]
        limit = table.limit[column]
        small = value if value < limit else limit
        count = np.int32(small)
        place = table.places[table.base[column] + np.uint32(count)]
        if place < n_places and small == count:
            bits[place >> np.uint32(6)] |= _ONE << np.uint64(place & np.uint32(63))
            n_bits += 1
        else:
            n_aside = put_aside(aside, token, value, columns.medians[token], n_aside)
    return n_bits, n_aside


settle = compiled(_settle)


def _places_before(table, key, token):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return how many places come before a ratio's key, equal ones by token: a bisection without branches."""
    before, left = 0, len(table.keys)
    while left > 0:
        half = (left + 1) >> 1
        here = table.keys[before + half - 1]
        less = (here < key) | ((here == key) & (table.tokens[before + half - 1] < token))
        before += half if less else 0
        left -= half
    return before


places_before = compiled(_places_before)


def _emit_word(word, first, tokens, out, n):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write the tokens of the bits of one word, and some behind them; return where the next word's go.

    Writing four at a time, needed or not, costs less than a branch that is guessed wrong for every word.
    """
    base, here = np.uint64(first), np.uint64(n)
    stop = here + ones(word)
    while True:
        for step in range(4):
            out[here + np.uint64(step)] = tokens[base + trailing_zeros(word)]
            word &= word - _ONE
        if word == _NONE:
            return np.int64(stop)
        here += np.uint64(4)


emit_word = compiled(_emit_word)


def _emit(bits, table, aside, n_aside, out, room):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write a cell's tokens in order, at most `room` and up to 64 behind them; clear the bits."""
    n, word = 0, 0
    last_word = len(table.keys) >> 6
    for index in range(n_aside):
        key, token = aside.keys[index], aside.tokens[index]
        first = places_before(table, key, token)
        while word < first >> 6 and n < room:
            n = emit_word(bits[word], word << 6, table.tokens, out, n)
            bits[word] = _NONE
            word += 1
        if n >= room:
            break
        below = bits[word] & ((_ONE << np.uint64(first & 63)) - _ONE)
        n = emit_word(below, word << 6, table.tokens, out, n)
        bits[word] ^= below
        out[n] = token
        n += 1
    if n < room and len(table.keys):
        rest = np.uint64(len(table.keys) & 63)
        bits[last_word] &= (_ONE << rest) - _ONE
        while word <= last_word and n < room:
            n = emit_word(bits[word], word << 6, table.tokens, out, n)
            bits[word] = _NONE
            word += 1
    bits[word:] = _NONE
    return min(n, room)


emit = compiled(_emit)


def _keep_counts(data, indices, columns, sums):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Note the counts of a cell's genes by token; those that were added up are there already."""
    for index in range(len(data)):
        token = columns.tokens[indices[index]]
        if token >= 0 and not columns.shared[indices[index]]:
            sums[token] = data[index]


keep_counts = compiled(_keep_counts)


def _rank_rows(rows, columns, table, longest, wrap, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Rank each row; `out` has room for their tokens and `SLACK` more. Return the genes put aside.

    `wrap` is the token before and the one behind each row, negative where there is none.
    """
    most = 0
    for row in range(len(rows.offsets) - 1):
        most = max(most, rows.offsets[row + 1] - rows.offsets[row])
    bits = np.zeros((len(table.keys) >> 6) + 1, dtype=np.uint64)
    aside = Aside(
        np.empty(most, dtype=np.uint64), np.empty(most, dtype=np.uint16),
        np.zeros(len(columns.medians)), np.empty(most, dtype=np.int32),
    )  # fmt: skip
    spare = new_spare(most)
    with_counts = len(out.counts) > 0
    end, n_sorted = 0, 0
    for row in range(len(rows.offsets) - 1):
        data = rows.data[rows.offsets[row] : rows.offsets[row + 1]]
        indices = rows.indices[rows.offsets[row] : rows.offsets[row + 1]]
        n_bits, n_aside = 0, 0
        ordered = ascends(indices, len(columns.tokens))
        if ordered:
            n_bits, n_aside, n_touched, total, known = gather(data, indices, columns, table, bits, aside)
        else:
            n_touched, total, known = gather_any(data, indices, columns, aside)
        if n_touched:
            more, n_aside = settle(aside, n_touched, columns, table, bits, n_aside)
            n_bits += more
        sort_cell(aside.keys[:n_aside], aside.tokens[:n_aside], spare)
        if wrap[0] >= 0:
            out.tokens[end] = wrap[0]
            end += 1
        written = emit(bits, table, aside, n_aside, out.tokens[end:], longest)
        if wrap[1] >= 0:
            out.tokens[end + written] = wrap[1]
        if with_counts:
            if ordered:
                keep_counts(data, indices, columns, aside.sums)
            for index in range(end, end + written):
                out.counts[index] = aside.sums[out.tokens[index]]
            if wrap[0] >= 0:
                out.counts[end - 1] = 0.0
            if wrap[1] >= 0:
                out.counts[end + written] = 0.0
        if with_counts or n_touched:
            for column in indices:
                aside.sums[max(columns.tokens[column], 0)] = 0.0
        end += written + (1 if wrap[1] >= 0 else 0)
        n_sorted += n_aside
        out.ends[row] = end
        out.lengths[row] = n_bits + n_aside
        out.totals[row] = total
        out.known[row] = known
    return n_sorted


rank_rows = compiled(_rank_rows)
