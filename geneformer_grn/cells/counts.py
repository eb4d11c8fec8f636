"""Counts of known genes: from an h5ad file or an AnnData to a checked sparse matrix over the vocabulary.

What cannot be raw counts is refused; what is left out (unknown genes, filtered and empty cells) is counted
in the report. Sums are taken once, here, so that every later step sees the same cells in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from geneformer_grn._runtime import logger
from geneformer_grn.cells.matching import known_genes, map_identifiers, row_sums
from geneformer_grn.cells.opening import (
    as_csr,
    check_values,
    choose_matrix,
    read_h5ad,
    refuse_normalised,
    undo_normalisation,
)  # fmt: skip
from geneformer_grn.genes.mapping import GeneMapping
from geneformer_grn.genes.vocabulary import GeneVocabulary

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["CellCounts", "ReadSettings", "log_normalised", "read_counts", "read_h5ad"]

_REFUSE_LOST, _WARN_LOST = 0.8, 0.2


@dataclass(frozen=True, kw_only=True)
class ReadSettings:
    """How a count file is read.

    Parameters
    ----------
    layer
        Layer with the raw counts (``raw``: ``adata.raw``); None: ``X``.
    gene_column
        var column with the gene identifiers (``index``: var_names); None: found by content.
    counts_column
        obs column with each cell's total counts; None: see :func:`read_counts`.
    allow_normalised
        Accept fractions: log1p is undone where values look like it, after which the order of genes is that of
        the raw counts, since a cell's scale factor cancels.
    sum_duplicates
        Add up an Ensembl ID that occurs more than once, instead of refusing the file.
    drop_empty
        Leave out cells without any count of a known gene, instead of refusing the file.
    """

    layer: str | None = None
    gene_column: str | None = None
    counts_column: str | None = None
    allow_normalised: bool = False
    sum_duplicates: bool = False
    drop_empty: bool = False


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
        An ``.h5ad`` file or an AnnData (left unchanged).
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
    settings = settings or ReadSettings()
    if n_cells is not None and n_cells < 1:
        raise ValueError(f"{n_cells} cells were asked for; at least 1 is needed")
    adata, own_name = _open(source)
    name = name or own_name
    raw, var, label = choose_matrix(adata, settings.layer)
    what = f"{label} of {name}"
    passing, n_filtered = _filter_pass(adata.obs, name)
    matrix = as_csr(raw, what)
    matrix = matrix if n_filtered == 0 else matrix[passing]
    summary = check_values(matrix.data, what)
    if not summary.integral:
        if not settings.allow_normalised:
            refuse_normalised(adata, label, what=what, summary=summary)
        matrix = undo_normalisation(matrix, what, summary)
    mapping, identifiers = map_identifiers(
        adata, var, vocabulary=vocabulary, gene_column=settings.gene_column,
        sum_duplicates=settings.sum_duplicates, name=name,
    )  # fmt: skip
    known, column_tokens = known_genes(matrix, mapping.tokens, integral=summary.integral)
    totals = row_sums(matrix)
    lost = _check_lost(totals, row_sums(known), mapping, name)
    filled = _filled_rows(known, settings, mapping, name)
    chosen = _sample(filled, n_cells, seed)
    kept = passing[chosen]
    n_counts, counts_from = _total_counts(
        adata.obs.iloc[kept], totals[chosen], settings,
        setting=vocabulary.setting, normalised=not summary.integral,
    )  # fmt: skip
    report = {
        **mapping.report, "naming": mapping.naming, "identifiers": identifiers, "matrix": label,
        "n_cells_file": adata.n_obs, "n_cells": len(kept), "n_dropped_filter": n_filtered,
        "n_dropped_empty": len(passing) - len(filled), "n_not_sampled": len(filled) - len(kept),
        "share_counts_lost": lost, "counts_total": float(totals.sum()),
        "counts_known": float(known.data.sum(dtype=np.float64)), "normalised": not summary.integral,
        "n_counts_from": counts_from,
    }  # fmt: skip
    logger.info(
        "%s: %s cells, %s of %s genes known (%s in %s), %.1f %% of counts outside the vocabulary",
        name, f"{len(kept):,}", f"{int((mapping.tokens >= 0).sum()):,}", f"{len(mapping.tokens):,}",
        mapping.naming, identifiers, 100 * lost,
    )  # fmt: skip
    return CellCounts(
        matrix=known if len(chosen) == known.shape[0] else known[chosen],
        column_tokens=column_tokens, n_counts=n_counts, obs=adata.obs.iloc[kept].copy(), kept=kept,
        report=report, name=name,
    )  # fmt: skip


def log_normalised(counts: CellCounts, *, target_sum: float = 1e4) -> sparse.csr_matrix:
    """Return ``log1p(count / n_counts * target_sum)``, ``(n, n_columns)`` float32 csr, natural logarithm."""
    scale = np.repeat(target_sum / counts.n_counts, np.diff(counts.matrix.indptr))
    data = np.log1p(counts.matrix.data * scale).astype(np.float32)
    return sparse.csr_matrix((data, counts.matrix.indices, counts.matrix.indptr), shape=counts.matrix.shape)


def _open(source: Path | str | AnnData) -> tuple[AnnData, str]:
    if isinstance(source, str | Path):
        adata, name = read_h5ad(source), Path(source).name
    elif hasattr(source, "obs") and hasattr(source, "var"):
        adata, name = (source.to_memory() if source.isbacked else source), "the AnnData"
    else:
        raise TypeError(f"cells are an .h5ad file or an AnnData, not a {type(source).__name__}")
    if adata.n_obs == 0 or adata.n_vars == 0:
        raise ValueError(
            f"{name} holds {adata.n_obs} cells and {adata.n_vars} genes; nothing can be read from it"
        )
    return adata, name


def _filter_pass(obs: pd.DataFrame, name: str) -> tuple[np.ndarray, int]:
    """Return the row numbers with ``filter_pass == 1`` (all without that column), and how many others."""
    if "filter_pass" not in obs:
        return np.arange(len(obs), dtype=np.int64), 0
    passing = np.flatnonzero((obs["filter_pass"].astype(str).isin(["1", "1.0", "True"])).to_numpy())
    if len(passing) == 0:
        raise ValueError(f"{name}: no cell has obs['filter_pass'] == 1; drop that column to read all cells")
    return passing.astype(np.int64), len(obs) - len(passing)


def _check_lost(totals: np.ndarray, known: np.ndarray, mapping: GeneMapping, name: str) -> float:
    """Return the share of counts in genes outside the vocabulary; warn or refuse where it is large."""
    total = float(totals.sum())
    lost = 1.0 - float(known.sum()) / total if total > 0 else 0.0
    text = (
        f"{name}: {100 * lost:.0f} % of its counts are in genes that the vocabulary does not know "
        f"({int((mapping.tokens >= 0).sum()):,} of {len(mapping.tokens):,} genes match)"
    )
    if lost > _REFUSE_LOST:
        raise ValueError(
            f"{text}; pass --gene-column COLUMN if its identifiers are elsewhere, or use another vocabulary"
        )
    if lost > _WARN_LOST:
        logger.warning(text)
    return lost


def _filled_rows(
    known: sparse.csr_matrix, settings: ReadSettings, mapping: GeneMapping, name: str
) -> np.ndarray:
    """Return the rows that hold a known gene."""
    filled = np.flatnonzero(np.diff(known.indptr))
    n_empty = known.shape[0] - len(filled)
    if len(filled) == 0:
        raise ValueError(f"{name}: none of its {n_empty:,} cells has a count of a known gene")
    if n_empty and not settings.drop_empty:
        raise ValueError(
            f"{name}: {n_empty:,} of {known.shape[0]:,} cells are empty (no count of any of the "
            f"{int((mapping.tokens >= 0).sum()):,} known genes); pass --drop-empty to leave them out"
        )
    return filled


def _sample(rows: np.ndarray, n_cells: int | None, seed: int) -> np.ndarray:
    if n_cells is None or n_cells >= len(rows):
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, n_cells, replace=False))


def _total_counts(
    obs: pd.DataFrame, totals: np.ndarray, settings: ReadSettings, *, setting: str, normalised: bool
) -> tuple[np.ndarray, str]:
    """Return each cell's total counts, and where they come from."""
    column = settings.counts_column
    if column is None and setting != "default" and "n_counts" in obs:
        column = "n_counts"
    if column is None:
        return totals, "file"
    if column not in obs:
        raise ValueError(
            f"obs has no column {column!r}; columns there: {', '.join(map(str, obs.columns)) or 'none'}"
        )
    if normalised:
        logger.warning("obs[%r] is not used: the matrix is normalised, so its own sums belong to it", column)
        return totals, "file"
    values = pd.to_numeric(obs[column], errors="coerce").to_numpy(dtype=np.float64)
    wrong = int((~(np.isfinite(values) & (values > 0))).sum())
    if wrong:
        raise ValueError(
            f"obs[{column!r}] is not a positive number in {wrong:,} of {len(values):,} cells; name another "
            "column by --counts-column, or repair it"
        )
    return values, f"obs[{column!r}]"
