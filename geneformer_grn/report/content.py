"""What the report page is made from: frozen records of tables and arrays, with their columns and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True, kw_only=True)
class InputSection:
    """What went into the run and what was lost on the way.

    Parameters
    ----------
    n_genes, n_genes_matched
        Genes of the file, and those found in the model's vocabulary.
    n_cells, n_cells_kept
        Cells of the file, and those used.
    share_counts_lost
        Share (0 to 1) of all counts that lies on genes not matched; None where unknown.
    n_genes_summed
        Rows that were added to another row of the same gene.
    n_genes_ambiguous
        Names that stand for more than one gene.
    first_lost
        The first few names not matched.
    dropped
        Reason -> number of cells left out for it.
    """

    n_genes: int
    n_genes_matched: int
    n_cells: int
    n_cells_kept: int
    share_counts_lost: float | None = None
    n_genes_summed: int = 0
    n_genes_ambiguous: int = 0
    first_lost: Sequence[str] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class CellsSection:
    """Cells as the model sees them.

    Parameters
    ----------
    umap
        ``(n, 2)`` float; UMAP of the model's cell embedding.
    groups
        ``(n,)`` str; group of each cell.
    group_note
        Where the groups come from, for instance that they are clusters named by marker genes.
    """

    umap: np.ndarray
    groups: np.ndarray
    group_note: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportContent:
    """Everything the page shows. A section whose table is empty says so in words.

    Parameters
    ----------
    title
        Heading of the page.
    summary
        Three or four key facts, a sentence each.
    facts
        Short name -> value, shown at the top: file, cells, groups, model, date, seed.
    inputs
        Genes and cells matched, lost, kept.
    warnings
        Sentences the reader must not miss.
    cells
        The embedding.
    edges
        Columns ``source``, ``target``, ``weight``, ``group``, ``method``; optional ``source_symbol``,
        ``target_symbol``, ``support``, ``sign`` (+1, -1, 0 or missing), ``agreement`` (percentile,
        0 to 100, of the pair under the other method). Any length; the page picks the strongest.
    network_method
        The method whose edges are drawn; the first in the table where it has none of this method.
    agreement
        One row per group: ``group``, ``spearman``; optional ``n_pairs``, ``top_k``, ``overlap`` and
        ``overlap_expected`` (shares, 0 to 1).
    effects
        Columns ``gene``, ``shift``; optional ``gene_symbol``, ``kind``, ``group``, ``n_cells``, ``ci_low``,
        ``ci_high``, ``p_value``, ``q_value``, and the shifts of genes matched on rank as ``null_mean``,
        ``null_low``, ``null_high``.
    propagated
        Columns ``source``, ``gene``, ``hop``, ``effect``; optional ``group``, ``source_symbol``,
        ``gene_symbol``.
    notes
        Section (``inputs``, ``cells``, ``network``, ``perturbation``, ``downstream``) -> a further paragraph,
        for instance how the null was drawn or why a table is empty.
    methods
        (heading, text) pairs.
    caveats
        Sentences.
    provenance
        Nested dict of parameters, versions, seed, fingerprints, timings; nested dicts become tables.
    outputs
        (file name, description) pairs.
    """

    title: str
    summary: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    inputs: InputSection | None = None
    warnings: Sequence[str] = ()
    cells: CellsSection | None = None
    edges: pd.DataFrame = field(default_factory=pd.DataFrame)
    network_method: str = "attention"
    agreement: pd.DataFrame = field(default_factory=pd.DataFrame)
    effects: pd.DataFrame = field(default_factory=pd.DataFrame)
    propagated: pd.DataFrame = field(default_factory=pd.DataFrame)
    notes: Mapping[str, str] = field(default_factory=dict)
    methods: Sequence[tuple[str, str]] = ()
    caveats: Sequence[str] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    outputs: Sequence[tuple[str, str]] = ()
