"""Cosines of float32 rows in float64 on a CPU, in one pass over each pair and without a copy.

PyTorch would gather both sides and convert them first: eight trips through memory instead of one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

_REORDERED = {"reassoc", "contract", "nsz"}  # what vector sums need; NaN and infinity stay as they are


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function`, cached on disk where that is possible."""
    try:
        return numba.njit(function, cache=True, nogil=True, fastmath=_REORDERED)
    except RuntimeError:  # numba: no folder for the cache can be written
        return numba.njit(function, nogil=True, fastmath=_REORDERED)


@compiled
def cosines_of_rows(before, after, before_index, after_index, cosines):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Write the cosine of each pair of rows.

    Parameters
    ----------
    before, after
        ``(S, d)`` and ``(T, d)`` float32 states.
    before_index, after_index
        ``(K,)`` int64 rows to pair.
    cosines
        ``(K,)`` float64, written; a row of zeros has the cosine 0.
    """
    width = before.shape[1]
    for pair in range(len(cosines)):
        first, second = before_index[pair], after_index[pair]
        product, before_square, after_square = 0.0, 0.0, 0.0
        for column in range(width):
            old, new = np.float64(before[first, column]), np.float64(after[second, column])
            product += old * new
            before_square += old * old
            after_square += new * new
        # As torch.nn.functional.cosine_similarity, which keeps each norm above 1e-8.
        norms = max(np.sqrt(before_square), 1e-8) * max(np.sqrt(after_square), 1e-8)
        cosines[pair] = product / norms
