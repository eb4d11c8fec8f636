"""Which pairs a network may hold: regulators from the vocabulary or a file, targets by how much they vary."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from geneformer_grn._runtime import logger
from geneformer_grn.cells.counts import CellCounts
from geneformer_grn.genes.mapping import find_genes, lookup
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.network.inference import mean_and_sd

if TYPE_CHECKING:
    from scipy import sparse


def read_gene_list(path: Path | str) -> tuple[str, ...]:
    """Read genes from a text file: one per line, the first column counts; ``#`` starts a comment.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is not text, or names no gene.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no gene list at {path}; give a text file with one gene per line")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not a text file of genes") from error
    fields = [line.split("#")[0].replace(",", "\t").split("\t")[0].strip() for line in lines]
    genes = tuple(dict.fromkeys(gene for gene in fields if gene))
    if not genes:
        raise ValueError(f"{path.name} names no gene; give a text file with one gene per line")
    return genes


def regulator_tokens(regulators: tuple[str, ...] | Literal["auto"], vocabulary: GeneVocabulary) -> np.ndarray:
    """Return the ``(R,)`` int64 tokens of regulators given by name, or of the vocabulary's own.

    Names that the vocabulary does not know are reported, with the nearest that it knows, and left out.

    Raises
    ------
    ValueError
        None is known, or the vocabulary marks no regulators.
    """
    if regulators == "auto":
        tokens = np.flatnonzero(vocabulary.is_regulator)
        if len(tokens) == 0:
            raise ValueError("this vocabulary marks no regulators; pass a list of them by --regulators FILE")
        return tokens
    found, unknown = lookup(regulators, vocabulary)
    if unknown:
        try:
            find_genes(regulators, vocabulary)
        except ValueError as error:  # it names the nearest symbols
            if not found:
                raise ValueError(f"regulators: {error}") from None
            logger.warning("regulators left out: %s", error)
    return np.unique(np.array(found, dtype=np.int64))


def detected(
    expression: sparse.csr_matrix, counts: CellCounts, rows: np.ndarray, min_support: int
) -> set[int]:
    """Return the tokens that at least `min_support` of the cells express."""
    return set(counts.column_tokens[expression[rows].getnnz(axis=0) >= min_support].tolist())


def choose_genes(
    counts: CellCounts,
    expression: sparse.csr_matrix,
    vocabulary: GeneVocabulary,
    *,
    regulators: tuple[str, ...] | Literal["auto"],
    groups: dict[str, np.ndarray],
    max_targets: int,
    min_support: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the regulators and targets that some group expresses enough.

    Parameters
    ----------
    counts, expression
        The cells, and their ``(n, n_columns)`` log-normalised expression.
    vocabulary
        The vocabulary they were read with.
    regulators
        Names, or ``auto``, see `regulator_tokens`.
    groups
        Group -> rows of its cells.
    max_targets
        Targets are the genes with the largest standard deviation over all cells, at most this many, and all
        regulators kept: effects travel on through those.
    min_support
        Cells of one group that must express a gene.

    Returns
    -------
    tuple of ndarray
        Tokens ``(R,)`` and ``(T,)``, int64, ascending.

    Raises
    ------
    ValueError
        No regulator is expressed.
    """
    present: set[int] = set()
    for rows in groups.values():
        present |= detected(expression, counts, rows, min_support)
    wanted = regulator_tokens(regulators, vocabulary)
    kept = np.array(sorted(present & set(wanted.tolist())), dtype=np.int64)
    if len(kept) == 0:
        raise ValueError(
            f"none of {len(wanted):,} regulators is expressed in {min_support} cells of a group; "
            "pass others by --regulators, or more cells"
        )
    _, sd = mean_and_sd(expression)
    by_variance = counts.column_tokens[np.argsort(-sd, kind="stable")].tolist()
    variable = [gene for gene in by_variance if gene in present][:max_targets]
    return kept, np.array(sorted({*variable, *kept.tolist()}), dtype=np.int64)
