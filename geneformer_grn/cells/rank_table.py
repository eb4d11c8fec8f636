"""The order of small counts, worked out once from the counts that occur, instead of in every cell.

The table holds, of each gene, the counts up to the largest one seen in a sample of the file. It changes only
how fast cells are ranked, never how: what it lacks is sorted, by the same ratios.
"""

from __future__ import annotations

import numpy as np

from geneformer_grn.cells.rank_kernels import ASIDE, SKIPPED, Table
from geneformer_grn.cells.row_kernels import Columns, Rows, largest_counts

_LARGEST = 128  # counts of one gene in the table: more would spread each cell's bits thinner than they gain
_ELSEWHERE = np.uint32(0xFFFFFFFF)


def plain_table(columns: Columns) -> Table:
    """Return the table that holds nothing: every gene is sorted."""
    return Table(
        base=np.where(columns.tokens >= 0, ASIDE, SKIPPED).astype(np.uint32),
        limit=np.zeros(len(columns.tokens), dtype=np.float32),
        places=np.array([0, _ELSEWHERE], dtype=np.uint32),
        tokens=np.zeros(128, dtype=np.uint16),
        keys=np.empty(0, dtype=np.uint64),
    )


def note_counts(rows: Rows, columns: Columns, largest: np.ndarray) -> None:
    """Raise `largest`, ``(n_columns,)`` int64, to the largest count of each column that is worth a place."""
    largest_counts(rows.data, rows.indices, columns, _LARGEST, largest)


def build_table(largest: np.ndarray, columns: Columns) -> Table:
    """Return the table of each column's counts from 1 to its largest, ``(n_columns,)`` int64.

    Around the places of a column lie those of the count 0, which is not ranked, and of all larger ones.
    """
    within = largest > 0
    sizes = np.where(within, largest + 2, 0)
    ends = 2 + np.cumsum(sizes)
    plain = plain_table(columns)
    column = np.repeat(np.arange(len(largest)), largest)
    firsts = np.cumsum(largest) - largest
    counts = np.arange(len(column)) - np.repeat(firsts, largest) + 1
    tokens = columns.tokens[column]
    ratios = counts.astype(np.float64) / columns.medians[tokens]
    order = np.lexsort((tokens, -ratios))
    base = np.where(within, ends - sizes, plain.base)
    places = np.full(2 + int(sizes.sum()), _ELSEWHERE, dtype=np.uint32)
    places[SKIPPED] = len(order)
    places[base[within]] = len(order)
    places[base[column[order]] + counts[order]] = np.arange(len(order), dtype=np.uint32)
    infinity = np.array(np.inf).view(np.uint64)
    return Table(
        base=base.astype(np.uint32),
        limit=np.where(within, largest + 1, 0).astype(np.float32),
        places=places,
        tokens=np.concatenate([tokens[order], np.zeros(128)]).astype(np.uint16),
        keys=infinity - ratios[order].view(np.uint64),
    )
