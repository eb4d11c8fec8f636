"""The sort behind the ranking: exact, on all bits of 64-bit keys, equal keys by token.

Positive doubles order as their bit patterns do. Two radix passes over the 22 highest bits that differ within
a cell bring nearly every gene to its place, an insertion sort on the whole key finishes; where too many keys
share those bits, six passes sort all 64, after two over the tokens. Compiled with numba on first use, and
kept on disk where that can be written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np

_BITS = 11
_BUCKETS = 1 << _BITS
_SHORT = 48  # below this many genes, insertion alone is faster than clearing the buckets
_PATIENCE = 8  # moves a gene that insertion may need before all 64 bits are sorted


class Spare(NamedTuple):
    """Room for the sort of a cell."""

    keys: np.ndarray
    tokens: np.ndarray
    starts: np.ndarray


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
    """Sort by insertion, equal keys by token; give up (False) after `patience` moves, with nothing lost."""
    for index in range(1, len(keys)):
        key, token = keys[index], tokens[index]
        place = index
        while place > 0 and (keys[place - 1] > key or (keys[place - 1] == key and tokens[place - 1] > token)):
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


def _new_spare(most):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    return Spare(
        np.empty(most, dtype=np.uint64), np.empty(most, dtype=np.uint16), np.empty(_BUCKETS, dtype=np.int64)
    )


new_spare = compiled(_new_spare)


def _sort_cell(keys, tokens, spare):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Sort one cell in place by ascending key, equal keys by token; n genes, `spare` for as many at least.

    `keys` is ``(n,)`` uint64, `tokens` ``(n,)`` uint16.
    """
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
    keys_spare, tokens_spare, starts = spare.keys[:n], spare.tokens[:n], spare.starts
    radix_pass(keys, tokens, keys_spare, tokens_spare, starts, shift)
    radix_pass(keys_spare, tokens_spare, keys, tokens, starts, shift + np.uint64(_BITS))
    if not insertion(keys, tokens, _PATIENCE * n):
        radix_pass(tokens, keys, tokens_spare, keys_spare, starts, np.uint64(0))
        radix_pass(tokens_spare, keys_spare, tokens, keys, starts, np.uint64(_BITS))
        for bits in range(0, 6 * _BITS, 2 * _BITS):
            radix_pass(keys, tokens, keys_spare, tokens_spare, starts, np.uint64(bits))
            radix_pass(keys_spare, tokens_spare, keys, tokens, starts, np.uint64(bits + _BITS))
    for index in range(n):
        keys[index] += low


sort_cell = compiled(_sort_cell)
