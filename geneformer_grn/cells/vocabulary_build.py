"""A new vocabulary from count files: the genes they hold, and each gene's exact non-zero median.

The work is done in passes over the files (``medians.py`` says why), each file on its own, and what it gave is
kept in a work folder (``vocabulary_work.py``): a build that was stopped goes on where it was, and several
machines can share the files of a pass.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from geneformer_grn._runtime import logger
from geneformer_grn.cells.medians import MOST_VALUES, Search, next_search
from geneformer_grn.cells.reading import ReadSettings
from geneformer_grn.cells.stamps import check_share
from geneformer_grn.cells.vocabulary_work import VocabularyWork
from geneformer_grn.genes.table import load_gene_table
from geneformer_grn.genes.vocabulary import (
    MAX_LENGTH,
    SPECIAL_TOKENS,
    TARGET_SUM,
    GeneVocabulary,
    Setting,
)  # fmt: skip

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
        How the files are read. Empty cells are always left out: they have no part in a median. Duplicated
        Ensembl IDs are summed unless told otherwise.
    """

    setting: Setting = "default"
    min_cells: int = 10
    max_genes: int | None = None
    biotypes: tuple[str, ...] = ()
    target_sum: float = TARGET_SUM
    max_length: int | None = None
    read: ReadSettings = field(default_factory=lambda: ReadSettings(sum_duplicates=True))

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


def build_vocabulary(
    files: Sequence[Path | str],
    settings: VocabularySettings | None = None,
    *,
    work: Path | None = None,
    most_values: int = MOST_VALUES,
) -> GeneVocabulary:
    """Build the vocabulary of the genes in some count files, with their non-zero medians.

    Parameters
    ----------
    files
        Count files with raw counts; genes by Ensembl ID or symbol, mapped by the package's gene table.
    settings
        Which genes to keep; default :class:`VocabularySettings`.
    work
        Folder for what is known so far; a build with the same files and settings goes on from it. It is left
        there. None: a temporary one.
    most_values
        Values that are collected in memory at once (8 bytes each, twice); more take further passes.

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
        A file holds no raw counts or no known genes, is given twice, or no gene (or too many) remain; or
        `work` belongs to other files or settings, or to another state of a file.

    Examples
    --------
    >>> vocabulary = build_vocabulary(["a.h5ad", "b.h5ad"], VocabularySettings(min_cells=5))  # doctest: +SKIP
    >>> vocabulary.save("tokenizers/mine")  # doctest: +SKIP
    """
    settings = settings or VocabularySettings()
    if work is None:
        with tempfile.TemporaryDirectory(prefix="geneformer-grn-vocabulary-") as folder:
            return build_vocabulary(files, settings, work=Path(folder), most_values=most_values)
    state = VocabularyWork.open(work, files, settings, most_values=most_values)
    search = state.search()
    while not search.is_done:
        state.run(search, range(len(state.files)))
        search = _next_pass(state, search, settings, most_values)
    return _finished(state, search, settings)


def build_part(
    files: Sequence[Path | str],
    settings: VocabularySettings | None = None,
    *,
    work: Path,
    part: tuple[int, int],
    most_values: int = MOST_VALUES,
) -> dict[str, Any]:
    """Do one machine's share of the present pass: every N-th file. The same again goes on with the next pass.

    Any machine that finds a pass complete works out the next one, all of them the same. Repeat the shares
    until nothing is left, or let :func:`build_vocabulary` do the rest alone, at any time.

    Parameters
    ----------
    files, settings, work, most_values
        As in :func:`build_vocabulary`; the same on every machine, `work` in a folder that all of them see.
    part
        (I, N): files I, I + N, I + 2 N, ..., counted from 0.

    Returns
    -------
    dict
        ``pass`` (from 1), ``kind``, ``n_done`` and ``n_files`` of the pass, and ``finished``: nothing is left
        but to call :func:`build_vocabulary`.

    Raises
    ------
    ValueError
        There is no such part, or as in :func:`build_vocabulary`.
    """
    settings = settings or VocabularySettings()
    index, count = part
    check_share(index, count)
    state = VocabularyWork.open(work, files, settings, most_values=most_values)
    search = state.search()
    if not search.is_done and state.is_complete():
        search = _next_pass(state, search, settings, most_values)
    if not search.is_done:
        state.run(search, range(index, len(state.files), count))
    n_done = state.n_done()
    return {
        "pass": state.number, "kind": search.kind, "n_done": n_done, "n_files": len(state.files),
        "finished": search.is_done or (search.kind == "collect" and n_done == len(state.files)),
    }  # fmt: skip


def _next_pass(
    state: VocabularyWork, search: Search, settings: VocabularySettings, most_values: int
) -> Search:
    """Add up a complete pass, and keep what the next one asks."""
    keep = None
    if state.number == 1:
        state.refuse_repeats()
        if search.kind == "count":
            n_cells = np.zeros(len(load_gene_table()), dtype=np.int64)
            for answer in state.answers():
                n_cells += np.bincount(
                    answer["places"] >> search.bits, weights=answer["counts"], minlength=len(n_cells)
                ).astype(np.int64)
            keep = np.zeros(len(n_cells), dtype=bool)
            keep[_kept_genes(n_cells, settings)] = True
            state.keep_n_seen(int((n_cells > 0).sum()))
    following = next_search(search, state.answers(), most_values=most_values, keep=keep)
    if state.number == 1 and search.kind == "collect":
        state.keep_n_seen(int((following.n > 0).sum()))
    state.advance(following)
    return following


def _finished(state: VocabularyWork, search: Search, settings: VocabularySettings) -> GeneVocabulary:
    """Return the vocabulary that a finished search gives."""
    kept = _kept_genes(search.n, settings)
    gene_ids = np.array(list(load_gene_table().symbol_of), dtype=object)
    sources, n_seen = state.sources(), state.n_seen()
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
    return _assemble(gene_ids[kept], search.medians()[kept], settings, provenance)


def _kept_genes(n_cells: np.ndarray, settings: VocabularySettings) -> np.ndarray:
    """Return the numbers of the genes that make it into the vocabulary, ascending."""
    keep = n_cells >= settings.min_cells
    if settings.biotypes:
        table = load_gene_table()
        keep &= np.array([table.biotype_of[gene] in settings.biotypes for gene in table.symbol_of])
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
