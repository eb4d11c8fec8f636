"""How genes rank in a group of cells, and which other genes are their equals in that.

Deleting any gene moves a cell, and deleting one that ranks high moves it more. So a tested gene is compared
with null genes matched on mean rank, on detection and, where counts are at hand, on mean expression in the
same group. All three lie between 0 and 1 and count alike: simple, and no scale is fitted to the data. A gene
at the very top has no equals above it; `perturbation.effects` takes the trend out that is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.stats import rankdata

from geneformer_grn.cells.counts import CellCounts, log_normalised
from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.genes.vocabulary import GeneVocabulary

NULL_GENES = 200  # per tested gene, or as many as exist: p then reaches down to 1 / 201


@dataclass(frozen=True, eq=False)
class GroupRanks:
    """How the genes rank in one group of cells.

    Parameters
    ----------
    name
        The group.
    cells
        ``(n,)`` int64 rows of the ranked cells, in the random order they are drawn in.
    rank
        ``(V,)`` mean relative rank (0 = first, 1 = last) over the cells that hold the gene; 1 where none
        does.
    detection
        ``(V,)`` share of the cells that hold the gene within the model's length.
    held
        ``(n, V)`` csc; which cell of `cells` holds which gene.
    leading
        ``(n,)`` the gene in front of each cell of `cells`, -1 in an empty one.
    expression
        ``(V,)`` where the gene's mean log-normalised expression lies among the genes the group holds (1 =
        highest, 0 = not held); None where the counts are not known.
    """

    name: str
    cells: np.ndarray
    rank: np.ndarray
    detection: np.ndarray
    held: sparse.csc_matrix
    leading: np.ndarray
    expression: np.ndarray | None = None

    def holders(self, genes: Sequence[int]) -> np.ndarray:
        """Return the rows of the cells that hold all of `genes`, in drawing order."""
        columns = [self.held.indices[self.held.indptr[gene] : self.held.indptr[gene + 1]] for gene in genes]
        return self.cells[reduce(np.intersect1d, columns)]

    def followers(self, genes: Sequence[int]) -> np.ndarray:
        """Return the holders in which `genes` are not in front already (where a set counts as never)."""
        holders = self.holders(genes)
        in_front = self.cells[self.leading == genes[0]] if len(genes) == 1 else holders[:0]
        return holders[~np.isin(holders, in_front)]

    def detected(self, n_cells: int) -> np.ndarray:
        """Return the genes held by at least `n_cells` cells, or by as many as any gene is."""
        n_holders = np.diff(self.held.indptr)
        return np.flatnonzero(n_holders >= max(min(n_cells, int(n_holders.max())), 1))

    def nearest(self, gene: int, candidates: np.ndarray) -> np.ndarray:
        """Return `candidates` (tokens), the most alike first: the sum of the distances in what is matched."""
        distance = np.zeros(len(candidates))
        for trait in (self.rank, self.detection, self.expression):
            if trait is not None:
                distance += np.abs(trait[candidates] - trait[gene])
        return candidates[np.argsort(distance, kind="stable")]


def rank_groups(
    ranked: RankedCells,
    groups: Sequence[object] | np.ndarray | pd.Series | None,
    vocabulary: GeneVocabulary,
    *,
    seed: int,
    counts: CellCounts | None = None,
) -> list[GroupRanks]:
    """Return how genes rank in each group of cells.

    Parameters
    ----------
    ranked
        The cells.
    groups
        ``(n,)`` labels, or None for one group ``all``. Cells whose label is missing are in no group.
    vocabulary
        The vocabulary they were ranked with.
    seed
        Seed of the order cells are drawn in.
    counts
        Counts of the same cells, in the same order; None: genes are then not matched on expression.

    Raises
    ------
    ValueError
        The labels or the counts do not match the cells in number, or all labels are missing.
    """
    labels = np.full(len(ranked), "all", dtype=object) if groups is None else np.asarray(groups, dtype=object)
    if len(labels) != len(ranked):
        raise ValueError(f"{len(labels):,} group labels were given for {len(ranked):,} cells")
    if counts is not None and len(counts) != len(ranked):
        raise ValueError(f"counts of {len(counts):,} cells were given for {len(ranked):,} ranked cells")
    codes, names = pd.factorize(labels, sort=True)
    if not len(names):
        raise ValueError("no cell has a group label")
    return [
        _rank_group(
            ranked,
            vocabulary,
            str(name),
            np.random.default_rng([seed, code]).permutation(np.flatnonzero(codes == code)),
            counts,
        )
        for code, name in enumerate(names)
    ]


def _rank_group(
    ranked: RankedCells,
    vocabulary: GeneVocabulary,
    name: str,
    cells: np.ndarray,
    counts: CellCounts | None,
) -> GroupRanks:
    room = vocabulary.max_length - vocabulary.n_wrapping
    genes = [ranked.cell(cell)[:room] for cell in cells]
    lengths = np.array([len(tokens) for tokens in genes], dtype=np.int64)
    tokens = np.concatenate(genes).astype(np.int64)
    position = np.concatenate([np.arange(length) / max(length - 1, 1) for length in lengths])
    count = np.bincount(tokens, minlength=len(vocabulary))
    total = np.bincount(tokens, weights=position, minlength=len(vocabulary))
    held = sparse.csr_matrix(
        (np.ones(len(tokens), dtype=bool), tokens, np.concatenate([[0], np.cumsum(lengths)])),
        shape=(len(cells), len(vocabulary)),
    )
    return GroupRanks(
        name=name,
        cells=cells,
        rank=np.divide(total, count, out=np.ones(len(vocabulary)), where=count > 0),
        detection=count / len(cells),
        held=held.tocsc(),
        leading=np.array([tokens[0] if len(tokens) else -1 for tokens in genes], dtype=np.int64),
        expression=None if counts is None else _expression(counts, cells, count),
    )


def _expression(counts: CellCounts, cells: np.ndarray, n_holders: np.ndarray) -> np.ndarray:
    """Return where ``(V,)`` genes lie in mean log-normalised expression: average rank over held genes."""
    of_group = replace(counts, matrix=counts.matrix[cells], n_counts=counts.n_counts[cells])
    mean = np.zeros(len(n_holders))
    mean[counts.column_tokens] = np.asarray(log_normalised(of_group).mean(axis=0)).ravel()
    held = np.flatnonzero(n_holders)
    place = np.zeros(len(n_holders))
    place[held] = rankdata(mean[held]) / max(len(held), 1)
    return place


def choose_null_sets(
    group: GroupRanks, sets: Sequence[tuple[int, ...]], *, candidates: np.ndarray, n_null: int = NULL_GENES
) -> dict[tuple[int, ...], list[tuple[int, ...]]]:
    """Return for each tested set its null sets: other genes, matched with `GroupRanks.nearest`.

    Null genes are not among the tested ones, unless too few others are left (where every gene is tested,
    each is compared with the others nearest to it). Single genes share a pool of null genes, twice `n_null`
    or as many as are tested, from which each takes its `n_null` nearest: the pool is what bounds the
    passes.

    Parameters
    ----------
    group
        How genes rank in the group.
    sets
        Tested gene sets.
    candidates
        ``(c,)`` tokens of the genes detected often enough.
    n_null
        Null sets per tested set; as many as exist where candidates are few.
    """
    if n_null == 0:
        return {genes: [] for genes in sets}
    others = np.setdiff1d(candidates, [gene for genes in sets for gene in genes])
    singles = [genes for genes in sets if len(genes) == 1]
    scarce = len(others) < n_null
    pool = candidates if scarce else _null_pool(group, singles, others, n_null=n_null)
    chosen: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for genes in sets:
        if len(genes) == 1:
            near = group.nearest(genes[0], pool[pool != genes[0]])
            chosen[genes] = [(int(gene),) for gene in near[:n_null]]
        else:
            chosen[genes] = _null_sets(group, genes, others, n_null)
    return chosen


def _null_pool(
    group: GroupRanks, singles: Sequence[tuple[int, ...]], others: np.ndarray, *, n_null: int
) -> np.ndarray:
    """Return the null genes `singles` share: their nearest, second nearest, ... until there are enough."""
    size = n_null if len(singles) == 1 else max(2 * n_null, len(singles))
    near = [group.nearest(genes[0], others)[:size] for genes in singles]
    pool: dict[int, None] = {}
    for gene in (int(gene) for column in zip(*near, strict=True) for gene in column):
        pool[gene] = None
        if len(pool) == size:
            break
    return np.array(list(pool), dtype=np.int64)


def _null_sets(
    group: GroupRanks, genes: tuple[int, ...], others: np.ndarray, n_null: int
) -> list[tuple[int, ...]]:
    """Return up to `n_null` sets that match a tested set member by member, no gene twice in a set.

    Member ``i`` of set ``j`` is the gene ``j`` places from its nearest; the places of later members are
    shifted where two members would take the same gene.
    """
    near = [group.nearest(gene, others) for gene in genes]
    found: list[tuple[int, ...]] = []
    for place in range(min(n_null, len(others) - len(genes) + 1)):
        members: list[int] = []
        for column in near:
            rest = column[~np.isin(column, members)]
            members.append(int(rest[place]))
        found.append(tuple(members))
    return found
