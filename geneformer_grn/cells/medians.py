"""A new vocabulary from count files: the genes they hold, and each gene's exact non-zero median.

Medians are exact and not sketched: the order of a cell's genes hangs on their last bits. The values are kept
by gene, 8 bytes per non-zero count over all files (30 M counts: 240 MB), and never copied as a whole; files
are opened one at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from geneformer_grn._runtime import logger, progress, sha256_file
from geneformer_grn.cells.counts import ReadSettings, read_counts
from geneformer_grn.cells.opening import choose_matrix, identifier_candidates, read_h5ad
from geneformer_grn.genes.mapping import map_to_table
from geneformer_grn.genes.table import load_gene_table
from geneformer_grn.genes.vocabulary import (
    MAX_LENGTH,
    SPECIAL_TOKENS,
    TARGET_SUM,
    GeneVocabulary,
    Setting,
)  # fmt: skip

if TYPE_CHECKING:
    from anndata import AnnData

_MOST_TOKENS = np.iinfo(np.uint16).max + 1


@dataclass(frozen=True, kw_only=True)
class VocabularySettings:
    """How a vocabulary is built.

    Parameters
    ----------
    setting
        Special tokens, crop: ``v1``, ``v2`` or ``default``.
    min_cells
        A gene needs a count in at least this many cells of all files together.
    max_genes
        Keep at most this many genes, those seen in most cells; None: all.
    biotypes
        Keep genes of these GENCODE biotypes; empty: of all.
    target_sum
        Counts that a cell is scaled to before medians are taken.
    max_length
        Longest model input, special tokens included; None: the setting's own.
    read
        How the files are read. Empty cells are always left out: they have no part in a median.
    """

    setting: Setting = "default"
    min_cells: int = 10
    max_genes: int | None = None
    biotypes: tuple[str, ...] = ()
    target_sum: float = TARGET_SUM
    max_length: int | None = None
    read: ReadSettings = field(default_factory=ReadSettings)

    def __post_init__(self) -> None:
        if self.setting not in SPECIAL_TOKENS:
            raise ValueError(f"setting {self.setting!r} is unknown; use {', '.join(SPECIAL_TOKENS)}")
        if self.min_cells < 1:
            raise ValueError(
                f"min_cells is {self.min_cells}; a gene without a cell has no median, so at least 1"
            )
        if self.max_genes is not None and self.max_genes < 1:
            raise ValueError(f"max_genes is {self.max_genes}; it must be at least 1")
        if self.max_length is not None and self.max_length < 4:
            raise ValueError(f"max_length is {self.max_length}; it must be at least 4")
        if not self.target_sum > 0:
            raise ValueError(f"target_sum is {self.target_sum}; it must be positive")
        known = set(load_gene_table().biotype_of.values()) - {""}
        unknown = sorted(set(self.biotypes) - known)
        if unknown:
            raise ValueError(f"unknown biotype(s) {', '.join(unknown)}; known are {', '.join(sorted(known))}")


class NonZeroMedians:
    """Non-zero medians of ``count / n_counts * target_sum`` over blocks of cells, exact.

    Parameters
    ----------
    n_genes
        Number of genes; the medians come out in this order.
    target_sum
        Counts that a cell is scaled to.
    """

    def __init__(self, n_genes: int, *, target_sum: float = TARGET_SUM) -> None:
        self._target_sum = target_sum
        self._n_cells = np.zeros(n_genes, dtype=np.int64)
        self._blocks: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    @property
    def n_cells(self) -> np.ndarray:
        """``(n_genes,)`` int64; in how many cells each gene was seen."""
        return self._n_cells.copy()

    def update(self, matrix: sparse.csr_matrix, n_counts: np.ndarray, genes: np.ndarray) -> None:
        """Add a block of cells.

        Parameters
        ----------
        matrix
            ``(n, n_columns)`` csr, counts of one gene a column.
        n_counts
            ``(n,)`` total counts of each cell.
        genes
            ``(n_columns,)`` int; which gene each column is, no gene twice.

        Raises
        ------
        ValueError
            A cell has no positive total, or a gene has two columns.
        """
        if len(np.unique(genes)) != len(genes):
            raise ValueError("two columns hold the same gene; add them up before taking medians")
        if not np.all(n_counts > 0):
            raise ValueError(f"{int(np.sum(~(n_counts > 0)))} cells have no positive total count")
        totals = np.repeat(np.asarray(n_counts, dtype=np.float64), np.diff(matrix.indptr))
        scaled = matrix.data.astype(np.float64) / totals * self._target_sum
        by_gene = sparse.csr_matrix((scaled, matrix.indices, matrix.indptr), shape=matrix.shape).tocsc()
        by_gene.eliminate_zeros()
        column_of = np.full(len(self._n_cells), -1, dtype=np.int32)
        column_of[genes] = np.arange(len(genes), dtype=np.int32)
        self._n_cells[genes] += np.diff(by_gene.indptr)
        self._blocks.append((by_gene.data, by_gene.indptr, column_of))

    def result(self) -> np.ndarray:
        """Return the medians, ``(n_genes,)`` float64, NaN for genes never seen."""
        medians = np.full(len(self._n_cells), np.nan)
        for gene in np.flatnonzero(self._n_cells):
            parts = [
                values[starts[column_of[gene]] : starts[column_of[gene] + 1]]
                for values, starts, column_of in self._blocks
                if column_of[gene] >= 0
            ]
            medians[gene] = np.median(np.concatenate(parts))
        return medians


def build_vocabulary(
    files: Sequence[Path | str], settings: VocabularySettings | None = None
) -> GeneVocabulary:
    """Build the vocabulary of the genes in some count files, with their non-zero medians.

    Parameters
    ----------
    files
        ``.h5ad`` files with raw counts; genes by Ensembl ID or symbol, mapped by the package's gene table.
    settings
        Which genes to keep; default :class:`VocabularySettings`.

    Returns
    -------
    GeneVocabulary
        Genes in ascending order of Ensembl ID. Its provenance names files (without their folders), hashes,
        licences as the files state them, and what was left out.

    Raises
    ------
    FileNotFoundError
        A file is missing.
    ValueError
        A file holds no raw counts or no known genes, is given twice, or no gene (or too many) remain.

    Examples
    --------
    >>> vocabulary = build_vocabulary(["a.h5ad", "b.h5ad"], VocabularySettings(min_cells=5))  # doctest: +SKIP
    >>> vocabulary.save("tokenizers/mine")  # doctest: +SKIP
    """
    settings = settings or VocabularySettings()
    if not files:
        raise ValueError("a vocabulary is built from cells; name at least one .h5ad file")
    gene_ids = np.array(list(load_gene_table().symbol_of), dtype=object)
    collected = NonZeroMedians(len(gene_ids), target_sum=settings.target_sum)
    name_of: dict[str, str] = {}
    sources: list[dict[str, Any]] = []
    for path in progress(list(map(Path, files)), desc="vocabulary", unit="file"):
        adata = read_h5ad(path)
        digest = sha256_file(path)
        if digest in name_of:
            raise ValueError(
                f"{path.name} has the same content as {name_of[digest]}; its cells would count twice"
            )
        name_of[digest] = path.name
        report = _add_file(path, _genes_named(adata, path.name, settings.read), collected, settings)
        stated = {key: str(adata.uns.get(key) or "not stated") for key in ("license", "source")}
        sources.append({"name": path.name, "sha256": digest, **stated, **report})
    kept = _kept_genes(gene_ids, collected.n_cells, settings)
    n_seen = int((collected.n_cells > 0).sum())
    logger.info("%s genes seen, %s kept", f"{n_seen:,}", f"{len(kept):,}")
    provenance = {
        "sources": sources,
        "licences": sorted({source["license"] for source in sources}),
        "n_cells": sum(source["n_cells"] for source in sources),
        "n_genes_seen": n_seen,
        "min_cells": settings.min_cells,
        "max_genes": settings.max_genes,
        "biotypes": list(settings.biotypes),
        "read": asdict(settings.read),
        "medians": "exact median of the non-zero count / n_counts * target_sum over all cells, float64",
    }
    return _assemble(gene_ids[kept], collected.result()[kept], settings, provenance)


def _genes_named(adata: AnnData, name: str, read: ReadSettings) -> np.ndarray:
    """Return the Ensembl IDs of all genes that a file may mean, wherever its identifiers are; ascending."""
    _, var, _ = choose_matrix(adata, read.layer)
    named = [gene for _, genes in identifier_candidates(var, read.gene_column) for gene in genes]
    found = np.unique(map_to_table(named).genes)
    genes = np.array(list(load_gene_table().symbol_of), dtype=object)[found[found >= 0]]
    if len(genes) == 0:
        raise ValueError(
            f"{name}: none of its {len(var):,} genes is in the gene table (first: "
            f"{', '.join(map(repr, named[:3]))}); it needs human Ensembl IDs or symbols. "
            "Name their column by --gene-column"
        )
    return genes


def _add_file(
    path: Path, genes: np.ndarray, collected: NonZeroMedians, settings: VocabularySettings
) -> dict[str, Any]:
    """Read a file's counts of `genes`, add them to `collected`, and return what its provenance says of them.

    The reader takes a vocabulary, so it is given a provisional one. A file that names more genes than uint16
    tokens can count is read in parts: every n-th gene, so that all parts hold like shares of the counts.
    """
    number_of = {gene: number for number, gene in enumerate(load_gene_table().symbol_of)}
    read = replace(settings.read, drop_empty=True)
    n_parts = -(-len(genes) // (_MOST_TOKENS - len(SPECIAL_TOKENS[settings.setting])))
    n_cells = 0
    naming = "ensembl"
    for part in range(n_parts):
        some = genes[part::n_parts]
        provisional = _assemble(some, np.ones(len(some)), settings, {})
        counts = read_counts(path, provisional, read)
        columns = [number_of[gene] for gene in provisional.ensembl_ids[counts.column_tokens]]
        collected.update(counts.matrix, counts.n_counts, np.array(columns))
        n_cells = max(n_cells, len(counts))
        naming = counts.report["naming"]
    return {"n_cells": n_cells, "n_genes": len(genes), "naming": naming}


def _kept_genes(gene_ids: np.ndarray, n_cells: np.ndarray, settings: VocabularySettings) -> np.ndarray:
    """Return the numbers of the genes that make it into the vocabulary, ascending."""
    keep = n_cells >= settings.min_cells
    if settings.biotypes:
        biotype_of = load_gene_table().biotype_of
        keep &= np.array([biotype_of[gene] in settings.biotypes for gene in gene_ids])
    kept = np.flatnonzero(keep)
    if settings.max_genes is not None:
        most_seen = np.argsort(-n_cells[kept], kind="stable")[: settings.max_genes]
        kept = np.sort(kept[most_seen])
    if len(kept) == 0:
        raise ValueError(
            f"no gene is seen in {settings.min_cells} cells (the most seen one is in {int(n_cells.max())}); "
            "lower --min-cells"
        )
    most = _MOST_TOKENS - len(SPECIAL_TOKENS[settings.setting])
    if len(kept) > most:
        raise ValueError(
            f"{len(kept):,} genes remain, and a vocabulary holds at most {most:,}; "
            "raise --min-cells or give --max-genes"
        )
    return kept


def _assemble(
    genes: np.ndarray, medians: np.ndarray, settings: VocabularySettings, provenance: dict[str, Any]
) -> GeneVocabulary:
    """Return the vocabulary of the given genes, special tokens in front."""
    table = load_gene_table()
    special = SPECIAL_TOKENS[settings.setting]
    regulators = [table.is_regulator(gene) for gene in genes]
    return GeneVocabulary(
        ensembl_ids=np.array([*special, *genes], dtype=object),
        symbols=np.array([*special, *(table.symbol_of[gene] for gene in genes)], dtype=object),
        medians=np.concatenate([np.full(len(special), np.nan), medians]),
        is_regulator=np.array([False] * len(special) + regulators, dtype=bool),
        setting=settings.setting,
        max_length=settings.max_length or MAX_LENGTH[settings.setting],
        target_sum=settings.target_sum,
        provenance=provenance,
    )
