"""One pass over a file's cells, to judge them: read and ranked as ``tokenize`` does, only sums are kept."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace

import numpy as np

from geneformer_grn._runtime import n_cores
from geneformer_grn.cells.judging import LARGEST_LOG1P, stored_values
from geneformer_grn.cells.ranker import Ranker
from geneformer_grn.cells.row_ranges import StoredValues, merge_values
from geneformer_grn.cells.source import CountSource
from geneformer_grn.genes.vocabulary import GeneVocabulary

_QUICK_CELLS, _QUICK_PLACES = 2000, 4
_QUARTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


def quick_rows(rows: np.ndarray, *, seekable: bool) -> np.ndarray:
    """Return some rows from four places, or the first ones of a file that is read from its start only."""
    if len(rows) <= _QUICK_CELLS:
        return rows
    if not seekable:
        return rows[:_QUICK_CELLS]
    each = _QUICK_CELLS // _QUICK_PLACES
    starts = np.linspace(0, len(rows) - each, _QUICK_PLACES).astype(int)
    return rows[np.unique((starts[:, None] + np.arange(each)).ravel())]


@dataclass(kw_only=True)
class Tally:
    """What one pass over some rows saw; arrays have an entry a row."""

    seen: StoredValues
    log: bool
    lengths: np.ndarray
    totals: np.ndarray
    known: np.ndarray
    n_looked: int
    n_nonzero: int
    seconds: float


def tally_rows(
    source: CountSource, rows: np.ndarray, tokens: np.ndarray, vocabulary: GeneVocabulary
) -> Tally:
    """Read and rank rows; a second time where it turns out at the end only that the values are logarithms."""
    sampled = stored_values(source.sample())
    tally = _pass(source, rows, tokens, vocabulary, log=is_log(sampled))
    seen = merge_values([sampled, tally.seen])
    if is_log(seen) != tally.log:
        tally = _pass(source, rows, tokens, vocabulary, log=is_log(seen))
    return replace(tally, seen=seen)


def is_log(seen: StoredValues) -> bool:
    """Return whether values look like log1p of normalised counts."""
    whole = seen.first_fraction is None or seen.n_not_finite > 0
    return not whole and seen.minimum >= 0 and seen.maximum < LARGEST_LOG1P


def _pass(
    source: CountSource, rows: np.ndarray, tokens: np.ndarray, vocabulary: GeneVocabulary, *, log: bool
) -> Tally:
    ranker = Ranker(
        tokens, vocabulary.medians, threads=n_cores(), undo_log=log,
        longest=vocabulary.max_length - vocabulary.n_wrapping,
    )  # fmt: skip
    summaries, parts = [], []
    n_looked = n_nonzero = 0
    warm, start = False, time.perf_counter()
    for _, block in source.row_blocks(rows):
        if not warm:  # compiling is not what more cells take more of
            before, warm = time.perf_counter(), True
            ranker.rank(block[:1])
            start += time.perf_counter() - before
        with np.errstate(all="ignore"):  # of values that are no counts
            ranked = ranker.rank(block)
        summaries.append(ranked.values)
        parts.append((ranked.lengths, ranked.totals, ranked.known))
        n_looked, n_nonzero = n_looked + block.nnz, n_nonzero + int(np.count_nonzero(block.data))
    lengths, totals, known = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Tally(
        seen=merge_values(summaries), log=log, lengths=lengths, totals=totals, known=known,
        n_looked=n_looked, n_nonzero=n_nonzero,
        seconds=time.perf_counter() - start,
    )  # fmt: skip


def looks_like(seen: StoredValues) -> str:
    """Return what values look like, see :class:`~geneformer_grn.workflows.validation.ValueFacts`."""
    if seen.n_not_finite:
        return "not numbers"
    if seen.minimum < 0:
        return "scaled"
    if seen.first_fraction is None:
        return "raw counts"
    return "log-normalised" if is_log(seen) else "normalised"


def quartiles(values: np.ndarray) -> list[float]:
    """Return minimum, quartiles and maximum of what is finite; nothing of nothing."""
    values = values[np.isfinite(values)]
    return [float(value) for value in np.quantile(values, _QUARTILES)] if len(values) else []


def peak_memory_mb() -> float:
    """Return the most memory that this process held so far, MB (10^6 bytes), libraries included."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
