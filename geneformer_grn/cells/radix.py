"""The sort behind the ranking: exact, stable, on the bits of 64-bit keys.

Positive doubles order as their bit patterns do. Two radix passes over the 22 highest bits that differ within
a cell bring nearly every gene to its place, an insertion sort on the whole key finishes; where too many keys
share those bits, six passes sort all 64. Compiled with numba on first use, and kept on disk where that can be
written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

_BITS = 11
_BUCKETS = 1 << _BITS
_SHORT = 48  # below this many genes, insertion alone is faster than clearing the buckets
_PATIENCE = 8  # moves a gene that insertion may need before all 64 bits are sorted


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function`, caching on disk unless no folder for that can be written (read-only installs)."""
    try:
        return numba.njit(function, cache=True, nogil=True)
    except RuntimeError:  # numba: no locator available
        return numba.njit(function, nogil=True)


def _radix_pass(keys, tokens, keys_out, tokens_out, starts, shift):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Move keys and tokens into the order of 11 bits of the key, stably."""
    starts[:] = 0
    mask = np.uint64(_BUCKETS - 1)
    for key in keys:
        starts[(key >> shift) & mask] += 1
    total = 0
    for bucket in range(_BUCKETS):
        count = starts[bucket]
        starts[bucket] = total
        total += count
    for index in range(len(keys)):
        bucket = (keys[index] >> shift) & mask
        place = starts[bucket]
        starts[bucket] = place + 1
        keys_out[place] = keys[index]
        tokens_out[place] = tokens[index]


def _insertion(keys, tokens, patience):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Sort by insertion, stably; give up (False) after `patience` moves, with every gene still there."""
    for index in range(1, len(keys)):
        key, token = keys[index], tokens[index]
        place = index
        while place > 0 and keys[place - 1] > key:
            keys[place] = keys[place - 1]
            tokens[place] = tokens[place - 1]
            place -= 1
        keys[place] = key
        tokens[place] = token
        patience -= index - place
        if patience < 0:
            return False
    return True


radix_pass = compiled(_radix_pass)
insertion = compiled(_insertion)


def _sort_cell(keys, tokens, keys_spare, tokens_spare, starts):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Sort one cell in place by ascending 64-bit key, equal keys staying in order."""
    n = len(keys)
    if n <= _SHORT:
        insertion(keys, tokens, n * n)
        return
    low, high = keys[0], keys[0]
    for key in keys:
        low = min(low, key)
        high = max(high, key)
    span = high - low
    for index in range(n):
        keys[index] -= low
    shift = np.uint64(0)
    while (span >> shift) >> np.uint64(2 * _BITS) != np.uint64(0):
        shift += np.uint64(1)
    radix_pass(keys, tokens, keys_spare, tokens_spare, starts, shift)
    radix_pass(keys_spare, tokens_spare, keys, tokens, starts, shift + np.uint64(_BITS))
    if insertion(keys, tokens, _PATIENCE * n):
        return
    for bits in range(0, 6 * _BITS, 2 * _BITS):
        radix_pass(keys, tokens, keys_spare, tokens_spare, starts, np.uint64(bits))
        radix_pass(keys_spare, tokens_spare, keys, tokens, starts, np.uint64(bits + _BITS))


sort_cell = compiled(_sort_cell)


def _sort_cells(ratios, tokens, offsets):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Sort the tokens of each cell in place by descending ratio.

    `ratios` is ``(nnz,)`` float64 > 0, `tokens` ``(nnz,)`` uint16 ascending within a cell, `offsets`
    ``(n+1,)`` int64.
    """
    longest = 0
    for cell in range(len(offsets) - 1):
        longest = max(longest, offsets[cell + 1] - offsets[cell])
    keys = np.empty(longest, dtype=np.uint64)
    keys_spare = np.empty(longest, dtype=np.uint64)
    tokens_spare = np.empty(longest, dtype=np.uint16)
    starts = np.empty(_BUCKETS, dtype=np.int64)
    bits = ratios.view(np.uint64)
    top = np.uint64(0x7FF0000000000000)  # infinity: above every finite ratio, so the difference descends
    for cell in range(len(offsets) - 1):
        start, stop = offsets[cell], offsets[cell + 1]
        n = stop - start
        if n == 0:
            continue
        for index in range(n):
            keys[index] = top - bits[start + index]
        sort_cell(keys[:n], tokens[start:stop], keys_spare[:n], tokens_spare[:n], starts)


sort_cells = compiled(_sort_cells)
