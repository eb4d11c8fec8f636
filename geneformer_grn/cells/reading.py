"""From a file or an AnnData to blocks of rows whose genes are matched to a vocabulary.

Opening looks at tables and a few values only; then counts come in blocks of rows, so that memory is bounded
by the block and not by the file. The price is that what only the whole file tells (the share of lost counts,
a fraction in the last row) is refused at its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
from scipy import sparse

from geneformer_grn._runtime import logger
from geneformer_grn.cells.filters import ChosenRows, choose_rows, read_left_out
from geneformer_grn.cells.judging import (
    LARGEST_LOG1P,
    refuse_impossible,
    refuse_normalised,
    stored_values,
)  # fmt: skip
from geneformer_grn.cells.matching import map_identifiers
from geneformer_grn.cells.opening import open_source
from geneformer_grn.cells.row_ranges import StoredValues
from geneformer_grn.cells.source import CountSource
from geneformer_grn.genes.mapping import GeneMapping, Species, WholeTable
from geneformer_grn.genes.vocabulary import GeneVocabulary

if TYPE_CHECKING:
    from anndata import AnnData

_REFUSE_LOST, _WARN_LOST = 0.8, 0.2

Scale = Literal["counts", "scaled", "log"]


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
    where
        Read only cells that fit this expression over obs columns, such as ``n_genes > 500``.
    without
        Table of cells to leave out, as :mod:`geneformer_grn.cells.duplicates` writes it.
    species
        ``mouse``: the file's genes are mouse genes, read as their one-to-one human orthologs.
    """

    layer: str | None = None
    gene_column: str | None = None
    counts_column: str | None = None
    allow_normalised: bool = False
    sum_duplicates: bool = False
    drop_empty: bool = False
    where: str | None = None
    without: str | None = None
    species: Species = "human"

    def __post_init__(self) -> None:
        if self.species not in get_args(Species):
            raise ValueError(f"species {self.species!r} is unknown; use {' or '.join(get_args(Species))}")


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenedCounts:
    """A count file whose genes are matched to a vocabulary and whose rows are chosen, not yet read.

    Made by :func:`open_counts`; close it, or use it in a ``with`` statement.

    Parameters
    ----------
    source
        The open file.
    settings
        How it is read.
    name
        What messages and records call it.
    mapping
        The token of each of the file's genes.
    identifiers
        Where the file names its genes.
    chosen
        The rows that are read.
    scale
        What the values are: raw counts, a scaled matrix, or logarithms.
    given_totals
        ``(n_file,)`` float64 total counts by an obs column, NaN where it holds no number; None: summed.
    totals_column
        Name of that column.
    """

    source: CountSource
    settings: ReadSettings
    name: str
    mapping: GeneMapping
    identifiers: str
    chosen: ChosenRows
    scale: Scale
    given_totals: np.ndarray | None
    totals_column: str | None

    def __enter__(self) -> OpenedCounts:
        return self

    def __exit__(self, *_: object) -> None:
        self.source.close()

    @property
    def what(self) -> str:
        """The matrix, as messages call it."""
        return f"{self.source.label} of {self.name}"

    def blocks(
        self, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[np.ndarray, sparse.csr_matrix]]:
        """Yield ``(rows, block)``: row numbers and values of the chosen rows of ``start..stop``, in order.

        The columns are the file's genes. The values are as stored, logarithms included, and not checked yet
        (see :meth:`check`).
        """
        rows = self.chosen.rows
        stop = self.source.shape[0] if stop is None else stop
        first, last = np.searchsorted(rows, [start, stop])
        yield from self.source.row_blocks(rows[first:last])

    def check(self, values: StoredValues) -> None:
        """Refuse values that are no counts.

        Raises
        ------
        ValueError
            They are negative or not finite, or fractions that the settings do not allow.
        """
        refuse_impossible(values, self.what, self.source)
        if values.first_fraction is not None and not self.settings.allow_normalised:
            refuse_normalised(self.source, values, self.what)

    def report(self) -> dict[str, Any]:
        """Return what is known before any count is read: plain values, for manifests."""
        return {
            **self.mapping.report, "naming": self.mapping.naming, "identifiers": self.identifiers,
            "format": self.source.kind, "matrix": self.source.label, "n_cells_file": self.source.shape[0],
            "n_dropped_filter": self.chosen.n_filtered, "n_dropped_where": self.chosen.n_not_asked,
            "n_dropped_copies": self.chosen.n_copies,
            "n_not_sampled": self.chosen.n_not_sampled, "normalised": self.scale != "counts",
            "n_counts_from": "file" if self.totals_column is None else f"obs[{self.totals_column!r}]",
        }  # fmt: skip

    def n_counts(self, rows: np.ndarray, sums: np.ndarray) -> np.ndarray:
        """Return the ``(k,)`` float64 total counts of `rows`, whose values sum to `sums`.

        Raises
        ------
        ValueError
            The column that should say so holds something else than positive numbers.
        """
        if self.given_totals is None:
            return sums
        values = self.given_totals[rows]
        wrong = int((~(np.isfinite(values) & (values > 0))).sum())
        if wrong:
            raise ValueError(
                f"{self.name}: obs[{self.totals_column!r}] is not a positive number in {wrong:,} of "
                f"{len(values):,} cells; name another column by --counts-column, or repair it"
            )
        return values


def open_counts(
    source: Path | str | AnnData,
    vocabulary: GeneVocabulary | WholeTable,
    settings: ReadSettings | None = None,
    *,
    n_cells: int | None = None,
    seed: int = 0,
    name: str | None = None,
    scale: Scale | None = None,
) -> OpenedCounts:
    """Open cells, match their genes and choose their rows; no more is read than that takes.

    Parameters
    ----------
    source, vocabulary, settings, n_cells, seed, name
        As in :func:`geneformer_grn.cells.counts.read_counts`.
    scale
        What the values are, where an earlier opening found out; None: find out.

    Raises
    ------
    FileNotFoundError, ValueError
        As in :func:`read_counts`, as far as a look at the file's tables and a few of its values tells.
    """
    settings = settings or ReadSettings()
    opened = open_source(source, layer=settings.layer)
    name = name or opened.name
    try:
        copies = read_left_out(settings.without, name, opened.obs.index) if settings.without else None
        chosen = choose_rows(
            opened.obs, name, where=settings.where, copies=copies, n_cells=n_cells, seed=seed
        )
        scale = scale or _scale(opened, settings, f"{opened.label} of {name}")
        mapping, identifiers = map_identifiers(
            opened.var, vocabulary, gene_column=settings.gene_column, sum_duplicates=settings.sum_duplicates,
            mapped=opened.mapped, species=settings.species, name=name,
        )  # fmt: skip
        if repeats := mapping.report.get("n_repeated_ids"):
            logger.warning(
                "%s: %s rows repeat an Ensembl ID; their counts are added up", name, f"{repeats:,}"
            )
        column, totals = _given_totals(opened.obs, settings, setting=vocabulary.setting, scale=scale)
    except BaseException:
        opened.close()
        raise
    return OpenedCounts(
        source=opened, settings=settings, name=name, mapping=mapping, identifiers=identifiers, chosen=chosen,
        scale=scale, given_totals=totals, totals_column=column,
    )  # fmt: skip


def lost_share(name: str, report: dict[str, Any], *, total: float, known: float) -> float:
    """Return the share of a file's counts in genes outside the vocabulary; refuse it where it is too large.

    Parameters
    ----------
    name
        What messages call the file.
    report
        What its mapping reported: ``n_matched`` and ``n_genes``.
    total, known
        Counts of all genes, and of those in the vocabulary.

    Raises
    ------
    ValueError
        More than 80 % of the counts would be lost.
    """
    lost = 1.0 - known / total if total > 0 else 0.0
    if lost > _REFUSE_LOST:
        raise ValueError(
            f"{_lost_text(name, report, lost)}; pass --gene-column COLUMN if its identifiers are elsewhere, "
            "or use another vocabulary"
        )
    return lost


def warn_lost(name: str, report: dict[str, Any], lost: float) -> None:
    """Warn of a share of lost counts, see :func:`lost_share`, that is large."""
    if lost > _WARN_LOST:
        logger.warning(_lost_text(name, report, lost))


def _lost_text(name: str, report: dict[str, Any], lost: float) -> str:
    return (
        f"{name}: {100 * lost:.0f} % of its counts are in genes that the vocabulary does not know "
        f"({report['n_matched']:,} of {report['n_genes']:,} genes match)"
    )


def refuse_empty(name: str, report: dict[str, Any], *, n_cells: int, n_empty: int) -> None:
    """Raise the ValueError about cells without a count of a known gene, where there are any.

    Raises
    ------
    ValueError
        `n_empty` of `n_cells` cells are empty.
    """
    if n_empty == n_cells:
        raise ValueError(f"{name}: none of its {n_cells:,} cells has a count of a known gene")
    if n_empty:
        raise ValueError(
            f"{name}: {n_empty:,} of {n_cells:,} cells are empty (no count of any of the "
            f"{report['n_matched']:,} known genes); pass --drop-empty to leave them out"
        )


def _scale(source: CountSource, settings: ReadSettings, what: str) -> Scale:
    """Return what the values are; the whole file is looked at only where fractions are allowed.

    Raises
    ------
    ValueError
        Values are negative or not finite, or fractions and not allowed, as far as was looked.
    """
    if not settings.allow_normalised:
        values = stored_values(source.sample())
        refuse_impossible(values, what, source)
        if values.first_fraction is not None:
            refuse_normalised(source, values, what)
        return "counts"
    maximum, whole = 0.0, True
    for _, block in source.blocks():
        values = stored_values(block.data)
        refuse_impossible(values, what, source)
        maximum, whole = max(maximum, values.maximum), whole and values.first_fraction is None
    if whole:
        return "counts"
    if maximum >= LARGEST_LOG1P:
        logger.warning(
            "%s is normalised, not logarithmic; a cell's scale cancels, so the order of genes survives", what
        )
        return "scaled"
    logger.warning(
        "%s looks log-normalised (largest %.4g): log1p is undone, after which a cell's scale cancels and the "
        "order of genes is that of its counts, unless more than a scale per cell was changed",
        what, maximum,
    )  # fmt: skip
    return "log"


def _given_totals(
    obs: pd.DataFrame, settings: ReadSettings, *, setting: str, scale: Scale
) -> tuple[str | None, np.ndarray | None]:
    """Return the obs column that holds each cell's total counts, and its numbers; None: to be summed."""
    column = settings.counts_column
    if column is None and setting != "default" and "n_counts" in obs:
        column = "n_counts"
    if column is None:
        return None, None
    if column not in obs:
        raise ValueError(
            f"obs has no column {column!r}; columns there: {', '.join(map(str, obs.columns)) or 'none'}"
        )
    if scale != "counts":
        logger.warning("obs[%r] is not used: the matrix is normalised, so its own sums belong to it", column)
        return None, None
    return column, pd.to_numeric(obs[column], errors="coerce").to_numpy(dtype=np.float64)
