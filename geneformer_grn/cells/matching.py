"""From a file's genes to the vocabulary's: which column is which token, and the matrix over tokens.

Columns that mean one gene are summed, which is what an aligner would have counted; an Ensembl ID that stands
twice in a file is refused instead, since identifiers are unique and a repeat means that tables were joined
wrongly.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from geneformer_grn._runtime import logger
from geneformer_grn.cells.opening import ENSEMBL_ID, identifier_candidates
from geneformer_grn.genes.mapping import GeneMapping, map_genes
from geneformer_grn.genes.vocabulary import GeneVocabulary

if TYPE_CHECKING:
    from anndata import AnnData

_FLOAT32_EXACT = 2**24  # the first whole number after which float32 skips one
_ROWS_VALUES = 1 << 22
_NEARLY = 0.95  # of the best place's known identifiers: a likelier place with as many is read instead
_MOUSE_ID = r"(?i:ENSMUSG)\d+(\.\d+)?"
_MOUSE_SYMBOL = r"[A-Z][a-z0-9.-]*[a-z][a-z0-9.-]*"


def map_identifiers(
    adata: AnnData,
    var: pd.DataFrame,
    *,
    vocabulary: GeneVocabulary,
    gene_column: str | None,
    sum_duplicates: bool,
    name: str,
) -> tuple[GeneMapping, str]:
    """Return the mapping of the identifiers of which most are known, and where they are.

    Near ties go to the likelier place, see :func:`identifier_candidates`: Ensembl IDs mean one gene each, so
    a few aliases more are no reason to read symbols instead. What ``pp.map_genes`` wrote is taken as it is.

    Raises
    ------
    ValueError
        No identifier is known, or an Ensembl ID occurs twice.
    """
    found: list[tuple[GeneMapping, str, np.ndarray]] = []
    for label, identifiers in identifier_candidates(var, gene_column):
        found.append((map_genes(identifiers.tolist(), vocabulary), label, identifiers))
    numbers = [int((mapping.tokens >= 0).sum()) for mapping, _, _ in found]
    mouse = _mouse_warning(found[int(np.argmax(numbers))], [identifiers for _, _, identifiers in found])
    if not any(numbers):
        looked = ", ".join(f"{label} (first: {identifiers[0]!r})" for _, label, identifiers in found)
        raise ValueError(
            f"{name}: 0 of {len(var):,} genes match the vocabulary (setting {vocabulary.setting!r}, "
            f"{len(vocabulary) - vocabulary.n_special:,} genes); looked in {looked}. It needs Ensembl IDs or "
            "gene symbols of its species: pass --gene-column COLUMN, or run gg.pp.map_genes(adata)"
        )
    # pp.map_genes gives several symbols one Ensembl ID on purpose: there, repeats mean a sum.
    ours = found[0][1] == "var['ensembl_id']" and "map_genes" in adata.uns.get("geneformer_grn", {})
    enough = 1 if ours and numbers[0] else _NEARLY * max(numbers)
    chosen = next(place for place, number in enumerate(numbers) if number >= enough)
    mapping, label, identifiers = found[chosen]
    if not (sum_duplicates or (ours and chosen == 0)):
        check_duplicates(identifiers, label, name)
    if mouse:
        logger.warning("%s: %s", name, mouse)
        mapping = replace(mapping, report={**mapping.report, "species_warning": mouse})
    return mapping, label


def _mouse_warning(best: tuple[GeneMapping, str, np.ndarray], candidates: list[np.ndarray]) -> str:
    """Return what to say of genes that look like those of a mouse, or nothing.

    Mouse symbols are written like Cd74, and case is ignored in matching, so most find a human gene.
    """
    mapping, _, identifiers = best
    mouse_ids = any(_share(_MOUSE_ID, candidate) > 0.5 for candidate in candidates)
    if not (mouse_ids or _share(_MOUSE_SYMBOL, identifiers[mapping.tokens >= 0]) > 0.5):
        return ""
    return (
        "looks like mouse; symbols were matched to human genes of the same name. Map through orthologs first"
    )


def _share(pattern: str, identifiers: np.ndarray) -> float:
    """Return the share of identifiers, of those that are not empty, that are written like `pattern`."""
    texts = pd.Series(identifiers, dtype=object).astype(str).str.strip()
    texts = texts[texts != ""]
    return float(texts.str.fullmatch(pattern).mean()) if len(texts) else 0.0


def check_duplicates(identifiers: np.ndarray, label: str, name: str) -> None:
    """Refuse an Ensembl ID that occurs twice: it is unique, so the file was put together wrongly."""
    series = pd.Series(identifiers, dtype=object).str.upper()
    ids = series[series.str.fullmatch(ENSEMBL_ID).to_numpy(dtype=bool)]
    times = ids.value_counts()
    if len(times) and times.iloc[0] > 1:
        raise ValueError(
            f"{name}: {times.index[0]} occurs {times.iloc[0]} times in {label} ({int((times > 1).sum()):,} "
            "duplicated Ensembl IDs). Keep one row of each gene, or pass --sum-duplicates to add their "
            "counts up"
        )


def known_genes(
    matrix: sparse.csr_matrix, tokens: np.ndarray, *, integral: bool
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Return the columns with a token, sorted by token, those of one token summed; and their tokens."""
    column_tokens, column_of = np.unique(tokens, return_inverse=True)
    unknown = int(column_tokens[0] == -1)
    column_of, column_tokens = column_of - unknown, column_tokens[unknown:].astype(np.int32)
    most = int(np.bincount(column_of[column_of >= 0]).max())
    small = integral and (matrix.nnz == 0 or float(matrix.data.max()) * most <= _FLOAT32_EXACT)
    data_parts, column_parts = [], []
    lengths = np.zeros(matrix.shape[0] + 1, dtype=np.int64)
    # Blocks of rows keep the temporary arrays small next to the matrix itself.
    cuts = np.searchsorted(matrix.indptr, np.arange(0, matrix.nnz + _ROWS_VALUES, _ROWS_VALUES))
    cuts = np.unique(np.concatenate([[0], np.minimum(cuts, matrix.shape[0]), [matrix.shape[0]]]))
    for start, stop in pairwise(cuts):
        values = slice(matrix.indptr[start], matrix.indptr[stop])
        data, columns = matrix.data[values], column_of[matrix.indices[values]]
        keep = (columns >= 0) & (data != 0)
        rows = np.repeat(np.arange(stop - start), np.diff(matrix.indptr[start : stop + 1]))
        lengths[start + 1 : stop + 1] = np.bincount(rows[keep], minlength=stop - start)
        data_parts.append(data[keep].astype(np.float32 if small else np.float64))
        column_parts.append(columns[keep].astype(np.int32))
    known = sparse.csr_matrix(
        (np.concatenate(data_parts), np.concatenate(column_parts), np.cumsum(lengths)),
        shape=(matrix.shape[0], len(column_tokens)),
    )
    known.sum_duplicates()  # also sorts the columns of each row
    return known, column_tokens


def row_sums(matrix: sparse.csr_matrix) -> np.ndarray:
    """Return the ``(n,)`` float64 sums of rows, in double precision whatever the matrix has."""
    sums = np.zeros(matrix.shape[0])
    filled = np.flatnonzero(np.diff(matrix.indptr))
    if len(filled):
        sums[filled] = np.add.reduceat(matrix.data, matrix.indptr[filled], dtype=np.float64)
    return sums
