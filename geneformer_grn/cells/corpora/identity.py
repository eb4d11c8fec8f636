"""Is it the same cell? Found by its tokens, whatever the file, the name or the donor it came under.

Every cell becomes one 64-bit number, and only cells of equal numbers are compared token by token: exact, in
tens of bytes a cell, where a dictionary of token sequences would hold the corpus.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from geneformer_grn.cells.corpora.corpus import Corpus

LEAST_GENES = 50
"""Cells with no more genes than this are not compared: so few may agree by chance."""

_CELLS_AT_ONCE = 1024
_FACTOR = 0x9E3779B97F4A7C15  # odd, so that no power of it is zero modulo 2**64


def token_hashes(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return a 64-bit polynomial hash of each cell: the order of the tokens counts.

    Parameters
    ----------
    values
        ``(tokens,)`` uint16, cells end to end.
    lengths
        ``(n,)`` tokens of each cell; an empty cell hashes to 0.

    Returns
    -------
    numpy.ndarray
        ``(n,)`` uint64, ``sum_i mix(token_i) * factor**i`` modulo 2**64.
    """
    hashes = np.zeros(len(lengths), dtype=np.uint64)
    filled = np.flatnonzero(lengths)
    if not len(filled):
        return hashes
    sizes = lengths[filled]
    starts = np.cumsum(sizes) - sizes
    powers = np.full(int(sizes.max()), _FACTOR, dtype=np.uint64)
    powers[0] = 1
    powers = np.cumprod(powers, dtype=np.uint64)
    terms = powers[np.arange(len(values)) - np.repeat(starts, sizes)]
    terms *= _mixed()[values]
    hashes[filled] = np.add.reduceat(terms, starts)
    return hashes


def _mixed() -> np.ndarray:
    """Return a fixed random-looking number for each of the 65,536 tokens (splitmix64)."""
    mixed = np.arange(1, 65_537, dtype=np.uint64) * np.uint64(_FACTOR)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def repeated_cells(corpora: Sequence[Corpus], labels: np.ndarray) -> np.ndarray:
    """Find cells with the same tokens, and more than :data:`LEAST_GENES` of them, under different labels.

    Parameters
    ----------
    corpora
        Of one vocabulary; their cells are numbered end to end.
    labels
        ``(n,)`` integers, one a cell: its corpus, or its part of a split.

    Returns
    -------
    numpy.ndarray
        ``(r, 2)`` int64 cell numbers: the first such cell, and the repeat, whose label differs.
    """
    n_cells = sum(len(corpus) for corpus in corpora)
    least = LEAST_GENES + corpora[0].vocabulary.n_wrapping
    compared = np.flatnonzero(np.concatenate([corpus.lengths for corpus in corpora]) > least)
    hashes = np.empty(n_cells, dtype=np.uint64)
    done = 0
    for piece in _hashes(corpora):
        hashes[done : done + len(piece)] = piece
        done += len(piece)
    hashes = hashes[compared]
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    equal = np.concatenate([[False], hashes[1:] == hashes[:-1], [False]])  # to the one before
    firsts = np.flatnonzero(~equal[:-1] & equal[1:])
    stops = np.flatnonzero(equal[:-1] & ~equal[1:]) + 1
    starts = np.cumsum([0, *(len(corpus) for corpus in corpora)])
    pairs: list[tuple[int, int]] = []
    for first, stop in zip(firsts.tolist(), stops.tolist(), strict=True):
        cells = compared[order[first:stop]]
        if (labels[cells] == labels[cells[0]]).all():
            continue
        same: dict[bytes, int] = {}
        for cell in cells.tolist():
            where = int(np.searchsorted(starts, cell, side="right")) - 1
            tokens = corpora[where].cell(cell - int(starts[where])).tobytes()
            known = same.setdefault(tokens, cell)
            if labels[known] != labels[cell]:
                pairs.append((known, cell))
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _hashes(corpora: Sequence[Corpus]) -> Iterator[np.ndarray]:
    chunks = (chunk for corpus in corpora for chunk in corpus.table.column("input_ids").chunks)
    for chunk in chunks:
        for start in range(0, len(chunk), _CELLS_AT_ONCE):
            cells = chunk.slice(start, _CELLS_AT_ONCE)
            yield token_hashes(cells.flatten().to_numpy(), np.diff(cells.offsets.to_numpy()))


def file_rows(corpus: Corpus, name: str) -> np.ndarray:
    """Return which rows of the file called `name` are in the corpus, ``(m,)`` int64, from its cell ids.

    Raises
    ------
    ValueError
        The cell ids do not end in a row number.
    """
    rows = [np.empty(0, dtype=np.int64)]
    columns = corpus.table.select(["source", "cell_id"])
    for batch in columns.to_batches():
        ids = batch.column(1).filter(pc.equal(batch.column(0), name))
        numbers = pc.replace_substring_regex(ids, pattern="^.*:", replacement="")
        try:
            rows.append(numbers.cast(pa.int64()).to_numpy(zero_copy_only=False))
        except pa.ArrowInvalid as error:
            raise ValueError(
                f"the cell ids of {name} in corpus {corpus.path.name} do not end in a row number, so that "
                "it cannot be told which cells of the file these are; tokenize it again"
            ) from error
    return np.concatenate(rows)
