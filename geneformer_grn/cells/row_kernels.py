"""Compiled passes over the rows of a count file: what values are, sums by gene, inputs of the model.

They know nothing of the order of genes. Numbers come as float32 or float64 and columns as int32, so that few
versions are compiled.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from geneformer_grn.cells.radix import compiled

_ONE, _NONE = np.uint64(1), np.uint64(0)


class Rows(NamedTuple):
    """Rows of a file: values float32 or float64, columns int32, ``(n+1,)`` int64 offsets from 0."""

    data: np.ndarray
    indices: np.ndarray
    offsets: np.ndarray


class Columns(NamedTuple):
    """What the columns of a file mean.

    `tokens` ``(n_columns,)`` int32, -1 where unknown; `shared` ``(n_columns,)`` bool, several columns have
    this token; `column_of` ``(V,)`` int32, a column of each token; `medians` ``(V,)`` float64.
    """

    tokens: np.ndarray
    shared: np.ndarray
    column_of: np.ndarray
    medians: np.ndarray


def _trailing_zeros(_, word):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return how many low bits of a 64-bit word are 0; 64 for 0."""

    def codegen(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], context.get_constant(types.boolean, False))  # noqa: FBT003

    return types.uint64(types.uint64), codegen


def _ones(_, word):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return how many bits of a 64-bit word are 1."""

    def codegen(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), codegen


trailing_zeros: Any = intrinsic(_trailing_zeros)
ones: Any = intrinsic(_ones)


def _ascends(indices, n_columns):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return whether columns ascend strictly, so that none stands twice; refuse those that do not exist."""
    descents = 0
    for index in range(1, len(indices)):
        descents += indices[index] <= indices[index - 1]
    low = indices[0] if len(indices) else 0
    high = indices[-1] if len(indices) else 0
    if descents:
        for column in indices:
            low = min(low, column)
            high = max(high, column)
    if low < 0 or (high >= n_columns and len(indices)):
        raise ValueError("a row of the matrix has a column number outside of the matrix; it is damaged")
    return descents == 0


ascends = compiled(_ascends)


def _inspect(data, bits):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the least and largest bits of values, and how many are no whole numbers; one at least.

    Bits order as positive values do, and unlike those, they are compared many at a time.
    """
    low, high, n_fractions = bits[0], bits[0], np.uint32(0)
    for index in range(len(data)):
        low = min(low, bits[index])
        high = max(high, bits[index])
        n_fractions += np.uint32(data[index] != np.floor(data[index]))
    return low, high, n_fractions


inspect = compiled(_inspect)


def _largest_counts(data, indices, columns, cap, largest):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Raise `largest` to each column's largest whole number up to `cap`, where its token is not shared."""
    for index in range(len(data)):
        value, column = data[index], indices[index]
        if not 0 <= column < len(columns.tokens):
            continue  # refused where the row is ranked
        usual = 0 < value <= cap and value == np.floor(value)
        if usual and columns.tokens[column] >= 0 and not columns.shared[column]:
            largest[column] = max(largest[column], np.int64(value))


largest_counts = compiled(_largest_counts)


def _known_rows(rows, columns, data_out, columns_out, ends, totals):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write each row's sums by `columns.tokens`, ascending, without zeros."""
    sums = np.zeros(len(columns.medians))
    bits = np.zeros((len(sums) >> 6) + 1, dtype=np.uint64)
    end = 0
    for row in range(len(rows.offsets) - 1):
        ascends(rows.indices[rows.offsets[row] : rows.offsets[row + 1]], len(columns.tokens))
        total = 0.0
        for index in range(rows.offsets[row], rows.offsets[row + 1]):
            token = columns.tokens[np.uint32(rows.indices[index])]
            total += rows.data[index]
            if token >= 0:
                sums[np.uint32(token)] += rows.data[index]
                bits[np.uint32(token) >> np.uint32(6)] |= _ONE << np.uint64(token & 63)
        for place in range(len(bits)):
            word = bits[place]
            bits[place] = _NONE
            while word:
                token = np.uint64(place << 6) + trailing_zeros(word)
                word &= word - _ONE
                if sums[token] != 0:
                    data_out[end] = sums[token]
                    columns_out[end] = token
                    sums[token] = 0.0
                    end += 1
        ends[row] = end
        totals[row] = total


known_rows = compiled(_known_rows)
