"""One look at every file of a corpus recipe: its counts, what each cell is worth, and whom it is of.

Counts are kept by the genes of the package's table, before there is a vocabulary, so that a corpus does not
depend on which model happens to be shipped. All files are held in memory together, 16 bytes a non-zero: the
search for copies compares every file with every other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from geneformer_grn._runtime import logger, n_cores, progress
from geneformer_grn.cells.counts import CellCounts
from geneformer_grn.cells.known_counts import known_counts
from geneformer_grn.cells.reading import OpenedCounts, ReadSettings, lost_share, open_counts, refuse_empty
from geneformer_grn.genes.mapping import WholeTable
from geneformer_grn.genes.table import load_gene_table
from geneformer_grn.workflows.corpus_recipe import CorpusFile, Rules, UmiRules

if TYPE_CHECKING:
    from geneformer_grn.cells.row_ranges import StoredValues

NOBODY = frozenset({"", "unknown", "nan", "na", "n/a", "none", "not available", "not stated"})
"""What files write, in lower case, where they do not know."""

RULES = ("min_genes", "min_counts", "max_mitochondrial", "max_one_gene")
_MOST_COLUMNS = 1 << 16  # known genes that are looked at together


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """A file of a recipe, read.

    Parameters
    ----------
    file
        Which one.
    counts
        Its cells with a count of a known gene; tokens are places in the gene table.
    obs_names
        ``(n_file,)`` names of all its cells.
    donors
        ``(n,)`` objects: the donor of each cell of `counts`, empty where unknown.
    failed
        ``(n,)`` objects: the first quality rule that the cell does not meet, empty where it meets all.
    untested
        Rules that the file cannot be tested by.
    n_file, n_filtered, n_empty
        Its cells, those that it filters out itself (``filter_pass``), and those without a known gene.
    empty
        Rows of the latter.
    stated
        ``license`` and ``source`` as the file states them.
    """

    file: CorpusFile
    counts: CellCounts
    obs_names: np.ndarray
    donors: np.ndarray
    failed: np.ndarray
    untested: tuple[str, ...]
    n_file: int
    n_filtered: int
    n_empty: int
    empty: np.ndarray
    stated: dict[str, str]


def look_at(
    files: Sequence[CorpusFile], read: ReadSettings, *, column: str, rules: dict[str, Rules]
) -> list[Look]:
    """Read files once.

    Parameters
    ----------
    files
        What a recipe names.
    read
        How they are read.
    column
        obs column of the donors; a file may lack it.
    rules
        Quality rules by ``umi`` and ``full-length``; cells of files that are kept apart are not judged.

    Returns
    -------
    list of Look
        One a file, in order.

    Raises
    ------
    FileNotFoundError, ValueError
        A file cannot be read as raw counts of known genes.
    """
    return [
        _look(file, read, column, rules[file.about.reads])
        for file in progress(files, desc="read", unit="file")
    ]


def known(values: pd.Series) -> np.ndarray:
    """Return a column as ``(n,)`` texts, empty where the file says that it does not know."""
    texts = values.astype(object).where(values.notna(), "").astype(str).str.strip()
    return texts.mask(texts.str.lower().isin(NOBODY), "").to_numpy(dtype=object)


def _look(file: CorpusFile, read: ReadSettings, column: str, rules: Rules) -> Look:
    with open_counts(file.path, WholeTable(), read, name=file.name) as opened:
        matrix, tokens, totals = _read(opened)
    report, rows = opened.report(), opened.chosen.rows
    total, inside = float(totals.sum()), float(matrix.data.sum(dtype=np.float64))
    lost_share(file.name, report, total=total, known=inside)
    filled = np.diff(matrix.indptr) > 0
    if not filled.any():
        refuse_empty(file.name, report, n_cells=len(rows), n_empty=len(rows))
    matrix, totals, kept = matrix[filled], totals[filled], rows[filled]
    obs = opened.source.obs
    counts = CellCounts(
        matrix=matrix, column_tokens=tokens, n_counts=totals, obs=obs.iloc[kept].copy(), kept=kept,
        name=file.name,
    )  # fmt: skip
    judged = file.role != "kept apart"
    failed, untested = _judged(counts, rules) if judged else (np.full(len(kept), "", dtype=object), ())
    _warn_reads(file, obs)
    return Look(
        file=file, counts=counts, obs_names=obs.index.astype(str).to_numpy(dtype=object),
        donors=_donors(counts.obs, column), failed=failed, untested=untested, n_file=len(obs),
        n_filtered=opened.chosen.n_filtered, n_empty=int((~filled).sum()), empty=rows[~filled],
        stated=opened.source.stated,
    )  # fmt: skip


def _read(opened: OpenedCounts) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray]:
    """Return all counts of known genes, the gene of each column, and each cell's total over all genes."""
    genes = opened.mapping.tokens
    found = np.unique(genes[genes >= 0])
    groups = np.array_split(found, -(-len(found) // _MOST_COLUMNS))
    columns = [np.where(np.isin(genes, group), genes, -1) for group in groups]
    blocks: list[sparse.csr_matrix] = []
    sums: list[np.ndarray] = []
    tokens = found.astype(np.int32)
    for _, block in opened.blocks():
        pieces = [_known(block, some, undo_log=opened.scale == "log") for some in columns]
        opened.check(pieces[0][3])
        blocks.append(sparse.hstack([piece[0] for piece in pieces], format="csr"))
        sums.append(pieces[0][2])
        tokens = np.concatenate([piece[1] for piece in pieces])
    return sparse.csr_matrix(sparse.vstack(blocks, format="csr")), tokens, np.concatenate(sums)


def _known(
    block: sparse.csr_matrix, columns: np.ndarray, *, undo_log: bool
) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray, StoredValues]:
    return known_counts(block, columns, threads=n_cores(), undo_log=undo_log)


def _judged(counts: CellCounts, rules: Rules) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the first rule that each cell fails, empty for none, and the rules that cannot be tested."""
    symbols = np.array(list(load_gene_table().symbol_of.values()), dtype=object)[counts.column_tokens]
    mitochondrial = np.array([symbol.startswith("MT-") for symbol in symbols], dtype=bool)
    matrix, totals = counts.matrix, np.maximum(counts.n_counts, 1e-12)
    bad = {"min_genes": np.diff(matrix.indptr) < rules.min_genes}
    if isinstance(rules, UmiRules):
        bad["min_counts"] = counts.n_counts < rules.min_counts
    untested = []
    if rules.max_mitochondrial is not None:
        if mitochondrial.any():
            share = np.asarray(matrix[:, mitochondrial].sum(axis=1, dtype=np.float64)).ravel() / totals
            bad["max_mitochondrial"] = share > rules.max_mitochondrial
        else:
            untested.append("max_mitochondrial")
    if rules.max_one_gene is not None:
        share = matrix.max(axis=1).toarray().ravel().astype(np.float64) / totals
        bad["max_one_gene"] = share > rules.max_one_gene
    failed = np.full(len(counts), "", dtype=object)
    for rule in reversed([rule for rule in RULES if rule in bad]):
        failed[bad[rule]] = rule
    return failed, tuple(untested)


def _donors(obs: pd.DataFrame, column: str) -> np.ndarray:
    return known(obs[column]) if column in obs else np.full(len(obs), "", dtype=object)


def _warn_reads(file: CorpusFile, obs: pd.DataFrame) -> None:
    """Say so where a file that is judged as molecules seems to count reads."""
    if file.about.reads != "umi" or file.role == "kept apart" or "assay" not in obs:
        return
    assay = next(iter(known(obs["assay"])), "")
    if "full-length" in assay.lower() or ("smart" in assay.lower() and "umi" not in assay.lower()):
        logger.warning(
            "%s: its assay is %r; if these are reads and not molecules, say reads = \"full-length\" in its "
            "[[files.about]]", file.name, assay,
        )  # fmt: skip
