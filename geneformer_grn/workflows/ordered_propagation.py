"""Effects along networks that lead downwards only, from the cells of each group; no edge table is followed.

The table only says which genes may regulate and which are predicted. What is fitted are levels, not their
logarithms (see `geneformer_grn.network.ordering`), and the effects are told as the other methods tell theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import sparse

from geneformer_grn._runtime import logger
from geneformer_grn.cells.counts import CellCounts
from geneformer_grn.genes.table import load_gene_table
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.network.ordered_response import counting_noise, ordered_response
from geneformer_grn.network.ordering import scaled_levels
from geneformer_grn.network.refit import expression_change
from geneformer_grn.workflows.regulators import regulator_tokens

_TARGET_SUM = 1e4  # of `log_normalised`
_FEWEST_CELLS = 6  # two halves of three

N_HALVES = 30
"""Halves of the cells that effects are averaged over."""


def ordered_effects(
    edges: pd.DataFrame,
    counts: CellCounts,
    vocabulary: GeneVocabulary,
    *,
    sources: Sequence[str],
    kind: str = "delete",
    labels: np.ndarray | None = None,
    regulators: Sequence[str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Predict the effects of each source in the cells of each group, by `ordered_response`.

    Parameters
    ----------
    edges
        Checked edge table with a column ``group``: in each group the genes of its edges are predicted.
    counts, vocabulary
        The cells, raw counts, and the vocabulary they were read with.
    sources
        Ensembl IDs to perturb, each on its own.
    kind
        ``delete``: down to 0. ``overexpress``: up to the 95th percentile of the cells that express the gene.
    labels
        ``(n,)`` str group of each cell. Where the edges are those of all cells, states, each with its own
        mean. None: one group.
    regulators
        Symbols or Ensembl IDs that may regulate, predicted too; None: the sources of the group's edges.
    seed
        Of the halves of the cells.

    Returns
    -------
    DataFrame
        ``source``, ``gene``, ``group``, ``hop``, ``effect``: change of ``log1p`` of the mean level, counts
        per ten thousand. No mean falls below 0.

    Raises
    ------
    ValueError
        A group has fewer than 6 cells, the values are normalised, or no regulator is known to the cells.
    """
    if counts.report.get("normalised"):
        raise ValueError(
            "the ordered response reads noise off raw counts, and these values are normalised; name the "
            "layer of counts by --layer, or use another --method"
        )
    named = None
    if regulators is not None:
        named = vocabulary.ensembl_ids[regulator_tokens(tuple(regulators), vocabulary)].tolist()
    gene_ids = vocabulary.ensembl_ids[counts.column_tokens]
    pooled = labels is None or (set(edges["group"]) == {"all"} and "all" not in set(labels))
    parts = []
    for group, part in edges.groupby("group", sort=False):
        rows = np.arange(len(counts)) if pooled else np.flatnonzero(labels == group)
        if len(rows) < _FEWEST_CELLS:
            found = "none" if labels is None else ", ".join(sorted(set(labels)))
            raise ValueError(
                f"the ordered response needs {_FEWEST_CELLS} cells, and group {group!r} has {len(rows)}; "
                f"name the column of the groups by --groups (groups found: {found})"
            )
        among, regulating = _genes(part, gene_ids, named)
        levels, noise, unit = _levels(counts, rows, among)
        moved = _moved(levels, gene_ids[among], sources, kind=kind, regulating=regulating, group=str(group))
        states = labels[rows] if pooled and labels is not None else None
        effects = ordered_response(
            levels, gene_ids[among], moved,
            regulators=regulating, labels=states, noise=noise, n_halves=N_HALVES, seed=seed,
        )  # fmt: skip
        mean = dict(zip(gene_ids[among].tolist(), np.asarray(levels.mean(axis=0)).ravel(), strict=True))
        before = effects["gene"].map(mean).to_numpy(np.float64)
        after = np.maximum(before + effects["effect"].to_numpy(np.float64), 0.0)
        told = effects.assign(group=group, effect=np.log1p(unit * after) - np.log1p(unit * before))
        parts.append(told[told["effect"] != 0])
    return pd.concat(parts, ignore_index=True)


def _genes(
    edges: pd.DataFrame, gene_ids: np.ndarray, named: list[str] | None
) -> tuple[np.ndarray, list[str]]:
    """Return the columns of the genes that take part, and the names of those that may regulate."""
    regulators = set(edges["source"]) if named is None else set(named)
    among = np.flatnonzero(np.isin(gene_ids, sorted({*edges["source"], *edges["target"], *regulators})))
    regulating = [gene for gene in gene_ids[among].tolist() if gene in regulators]
    if not regulating:
        raise ValueError(
            f"none of {len(regulators):,} regulators (first: {min(regulators)!r}) is among the "
            f"{len(gene_ids):,} genes of the cells; both need the same kind of gene ID"
        )
    return among, regulating


def _levels(
    counts: CellCounts, rows: np.ndarray, among: np.ndarray
) -> tuple[sparse.csr_matrix, np.ndarray, float]:
    """Return levels and noise of some genes, and how many counts per ten thousand one level is."""
    raw = sparse.csr_matrix(counts.matrix[rows], dtype=np.float64)
    levels = sparse.csr_matrix(scaled_levels(raw))
    unit = _TARGET_SUM / counts.n_counts[rows].mean() * raw.sum() / levels.sum()
    return levels[:, among], counting_noise(raw)[among], float(unit)


def _moved(
    levels: sparse.csr_matrix,
    gene_ids: np.ndarray,
    sources: Sequence[str],
    *,
    kind: str,
    regulating: list[str],
    group: str,
) -> dict[str, float]:
    """Return the change in level of every source that may regulate and is expressed; the others are named."""
    wanted = [source for source in sources if source in set(regulating)]
    changes = expression_change(levels, gene_ids, genes=wanted, kind=kind)
    moved = {source: change for source, change in changes.items() if change != 0}
    idle = [source for source in sources if source not in moved]
    if idle:
        logger.warning(
            "group %r: nothing to propagate from %s (no regulator here, or not expressed)",
            group, first_symbols(idle),
        )  # fmt: skip
    return moved


def first_symbols(genes: Sequence[str]) -> str:
    """Return the first five genes for a reader, by symbol where there is one.

    Examples
    --------
    >>> first_symbols(["ENSG00000107485"])
    'GATA3'
    """
    symbol_of = load_gene_table().symbol_of
    more = f" and {len(genes) - 5} more" if len(genes) > 5 else ""
    return ", ".join(symbol_of.get(gene, gene) for gene in genes[:5]) + more
