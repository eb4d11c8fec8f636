"""Counts of known genes in memory: a checked sparse matrix over the vocabulary, and what was left out.

For work that looks at a file's cells more than once. Sums are taken once, here, so that every later step sees
the same cells in the same order; only the known genes stay in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from geneformer_grn._runtime import logger, n_cores
from geneformer_grn.cells.known_counts import known_counts
from geneformer_grn.cells.reading import ReadSettings, lost_share, open_counts, refuse_empty, warn_lost
from geneformer_grn.genes.vocabulary import GeneVocabulary

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["CellCounts", "ReadSettings", "log_normalised", "read_counts"]


@dataclass(frozen=True, kw_only=True)
class CellCounts:
    """Counts of the vocabulary's genes in the cells that are kept.

    Parameters
    ----------
    matrix
        ``(n, n_columns)`` csr, float32 (float64 where float32 would round); columns ascending by token, no
        stored zeros.
    column_tokens
        ``(n_columns,)`` int32 token of each column.
    n_counts
        ``(n,)`` float64 total counts of each cell over all genes of the file, or as its counts column says.
    obs
        ``n`` rows of the input's obs, input order.
    kept
        ``(n,)`` int64 row numbers in the input.
    report
        What was matched, lost, dropped and chosen (plain values, for manifests).
    name
        File name, without its folder.
    """

    matrix: sparse.csr_matrix
    column_tokens: np.ndarray
    n_counts: np.ndarray
    obs: pd.DataFrame
    kept: np.ndarray
    report: dict[str, Any] = field(default_factory=dict)
    name: str = "cells"

    def __len__(self) -> int:
        return self.matrix.shape[0]


def read_counts(
    source: Path | str | AnnData,
    vocabulary: GeneVocabulary,
    settings: ReadSettings | None = None,
    *,
    n_cells: int | None = None,
    seed: int = 0,
    name: str | None = None,
) -> CellCounts:
    """Read the counts of the vocabulary's genes, check them, and say what was left out.

    Parameters
    ----------
    source
        Any file that :func:`geneformer_grn.cells.opening.open_source` knows, or an AnnData (left unchanged).
    vocabulary
        The genes to keep.
    settings
        How to read; default :class:`ReadSettings`.
    n_cells
        Read a random sample of at most this many cells, in input order; None: all.
    seed
        Seed of that sample.
    name
        What messages and records call the cells; default: the file's name.

    Returns
    -------
    CellCounts
        Cells with ``obs["filter_pass"] == 1`` where that column exists (as the reference), else all. Total
        counts come from the counts column; without one, from ``obs["n_counts"]`` in the settings v1 and v2
        (as the reference; it may count genes the file does not hold), else from the file.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is damaged or holds no cells, no raw counts, no known genes, duplicated genes or empty cells.

    Examples
    --------
    >>> counts = read_counts("cells.h5ad", vocabulary)  # doctest: +SKIP
    >>> counts.matrix.shape  # doctest: +SKIP
    (2638, 13714)
    """
    with open_counts(source, vocabulary, settings, n_cells=n_cells, seed=seed, name=name) as opened:
        parts: list[sparse.csr_matrix] = []
        sums: list[np.ndarray] = []
        for _, block in opened.blocks():
            known, column_tokens, totals, values = known_counts(
                block, opened.mapping.tokens, threads=n_cores(), undo_log=opened.scale == "log"
            )
            opened.check(values)
            parts.append(known)
            sums.append(totals)
    known = parts[0] if len(parts) == 1 else sparse.csr_matrix(sparse.vstack(parts, format="csr"))
    totals, rows, tokens = np.concatenate(sums), opened.chosen.rows, opened.mapping.tokens
    counts_total, counts_known = float(totals.sum()), float(known.data.sum(dtype=np.float64))
    report = opened.report()
    lost = lost_share(opened.name, report, total=counts_total, known=counts_known)
    warn_lost(opened.name, report, lost)
    filled = np.flatnonzero(np.diff(known.indptr))
    if len(filled) == 0 or not opened.settings.drop_empty:
        refuse_empty(opened.name, report, n_cells=len(rows), n_empty=len(rows) - len(filled))
    kept = rows[filled]
    report |= {
        "n_cells": len(kept), "n_dropped_empty": len(rows) - len(kept),
        "share_counts_lost": lost, "counts_total": counts_total, "counts_known": counts_known,
    }  # fmt: skip
    logger.info(
        "%s: %s cells, %s of %s genes known (%s in %s), %.1f %% of counts outside the vocabulary",
        opened.name, f"{len(kept):,}", f"{int((tokens >= 0).sum()):,}", f"{len(tokens):,}",
        opened.mapping.naming, opened.identifiers, 100 * lost,
    )  # fmt: skip
    return CellCounts(
        matrix=known if len(filled) == known.shape[0] else known[filled],
        column_tokens=column_tokens, n_counts=opened.n_counts(kept, totals[filled]),
        obs=opened.source.obs.iloc[kept].copy(), kept=kept, report=report, name=opened.name,
    )  # fmt: skip


def log_normalised(counts: CellCounts, *, target_sum: float = 1e4) -> sparse.csr_matrix:
    """Return ``log1p(count / n_counts * target_sum)``, ``(n, n_columns)`` float32 csr, natural logarithm."""
    scale = np.repeat(target_sum / counts.n_counts, np.diff(counts.matrix.indptr))
    data = np.log1p(counts.matrix.data * scale).astype(np.float32)
    return sparse.csr_matrix((data, counts.matrix.indices, counts.matrix.indptr), shape=counts.matrix.shape)
