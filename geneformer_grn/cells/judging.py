"""Whether stored values can be raw counts: looked at one by one, refused with where counts seem to be.

A file is judged by its content and not by its names. The price is one look at every value; what it buys is
that nothing wrong reaches a model in silence.
"""

from __future__ import annotations

from typing import NoReturn

import numpy as np

from geneformer_grn.cells.row_ranges import StoredValues
from geneformer_grn.cells.source import CountSource

# exp(20) counts of one gene in one cell do not exist: larger values cannot be logarithms of counts.
LARGEST_LOG1P = 20.0
_BLOCK = 1 << 22


def stored_values(values: np.ndarray) -> StoredValues:
    """Look at some values of any number type, in pieces, so that no copy of them is made."""
    minimum, maximum, n_not_finite = np.inf, -np.inf, 0
    fraction: float | None = None
    for start in range(0, len(values), _BLOCK):
        piece = values[start : start + _BLOCK]
        if piece.dtype.kind == "f":
            finite = np.isfinite(piece)
            n_not_finite += len(piece) - int(finite.sum())
            piece = piece[finite]
            if fraction is None:
                broken = np.flatnonzero(piece != np.floor(piece))
                fraction = float(piece[broken[0]]) if len(broken) else None
        if len(piece):
            minimum, maximum = min(minimum, float(piece.min())), max(maximum, float(piece.max()))
    if maximum < minimum:
        minimum = maximum = 0.0
    return StoredValues(minimum=minimum, maximum=maximum, n_not_finite=n_not_finite, first_fraction=fraction)


def refuse_impossible(values: StoredValues, what: str, source: CountSource) -> None:
    """Refuse values that no counts, and nothing made of counts for this method, can be.

    The message names another matrix of `source` that seems to hold counts, where there is one.

    Raises
    ------
    ValueError
        A value is negative, infinite or not a number.
    """
    if values.n_not_finite:
        raise ValueError(f"{what} holds NaN or infinite values; raw counts are needed")
    if values.minimum < 0:
        raise ValueError(
            f"{what} holds negative values (smallest {values.minimum:.4g}): it was scaled or regressed, and "
            f"neither counts nor ranks can be had back from it. Raw counts are needed.{_hint(source)}"
        )


def refuse_normalised(source: CountSource, values: StoredValues, what: str) -> NoReturn:
    """Say why fractions are no counts, and where counts seem to be instead.

    Raises
    ------
    ValueError
        Always.
    """
    kind = "log-normalised" if values.maximum < LARGEST_LOG1P else "normalised"
    raise ValueError(
        f"{what} holds fractions (first {values.first_fraction:.4g}, largest {values.maximum:.4g}) and "
        f"looks {kind}; raw counts are needed.{_hint(source)} Without them, pass "
        "--allow-normalised: the order of a cell's genes mostly survives"
    )


def _hint(source: CountSource) -> str:
    place, option = next(iter(counts_elsewhere(source).items()), ("", ""))
    return f" Raw counts seem to be in {place}: {option}." if place else ""


def counts_elsewhere(source: CountSource) -> dict[str, str]:
    """Return which other matrices of the file seem to hold raw counts, and the option that chooses each."""
    places: dict[str, str] = {}
    for place, option, sample in source.elsewhere():
        try:
            values = stored_values(sample())  # a sample is enough for a hint
        except ValueError:  # that one is damaged, and not what was asked for
            continue
        whole = values.first_fraction is None and values.n_not_finite == 0
        if whole and values.minimum >= 0 and values.maximum > 1:  # zeros and ones are marks, not counts
            places[place] = option
    return places
