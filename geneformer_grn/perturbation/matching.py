"""How genes rank in a group of cells, and which other genes are their equals in that.

Deleting any gene moves a cell, and deleting one that ranks high moves it more. So a tested gene is compared
with null genes matched on mean rank, on detection and, where counts are at hand, on mean expression in the
same group. All three lie between 0 and 1 and count alike: simple, and no scale is fitted to the data. A gene
at the very top has no equals above it; `perturbation.effects_table` takes the trend out that is left.

Tested sets of one size share a pool of null sets. That bounds the passes: 45 pairs of ten genes with 200 null
pairs each would be 9,000 perturbations, and are 400.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import islice

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.stats import rankdata

from geneformer_grn.cells.counts import CellCounts, log_normalised
from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.genes.vocabulary import GeneVocabulary

NULL_GENES = 200  # per tested gene, or as many as exist: p then reaches down to 1 / 201

_TRIES = 20  # null sets looked at per null set wanted: genes that few cells hold together may have none


@dataclass(frozen=True, eq=False)
class GroupRanks:
    """How the genes rank in one group of cells.

    Parameters
    ----------
    name
        The group.
    cells
        ``(n,)`` int32 rows of the ranked cells, in the random order they are drawn in.
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

    def n_holders(self, genes: Sequence[int]) -> int:
        """Return how many cells hold all of `genes`."""
        if len(genes) == 1:
            return int(self.held.indptr[genes[0] + 1] - self.held.indptr[genes[0]])
        return len(self.holders(genes))

    def followers(self, genes: Sequence[int]) -> np.ndarray:
        """Return the holders in which `genes` are not in front already (where a set counts as never)."""
        holders = self.holders(genes)
        in_front = self.cells[self.leading == genes[0]] if len(genes) == 1 else holders[:0]
        return holders[~np.isin(holders, in_front)]

    def detected(self, n_cells: int) -> np.ndarray:
        """Return the genes held by at least `n_cells` cells, or by as many as any gene is."""
        n_holders = np.diff(self.held.indptr)
        return np.flatnonzero(n_holders >= max(min(n_cells, int(n_holders.max())), 1))

    def traits(self) -> np.ndarray:
        """Return ``(V, t)`` what genes are matched on."""
        known = [trait for trait in (self.rank, self.detection, self.expression) if trait is not None]
        return np.column_stack(known)

    def nearest(self, gene: int, candidates: np.ndarray, n: int | None = None) -> np.ndarray:
        """Return the `n` (None: all) of `candidates` (tokens) most alike: the sum of distances in traits."""
        traits = self.traits()
        return candidates[_smallest(np.abs(traits[candidates] - traits[gene]).sum(axis=1), n)]


def _smallest(distance: np.ndarray, n: int | None) -> np.ndarray:
    """Return the places of the `n` smallest distances, the smallest first, ties in their order."""
    if n is None or n >= len(distance):
        return np.argsort(distance, kind="stable")
    within = np.flatnonzero(distance <= np.partition(distance, n)[n])  # far quicker than to sort them all
    return within[np.argsort(distance[within], kind="stable")][:n]


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
            np.random.default_rng([seed, code]).permutation(np.flatnonzero(codes == code)).astype(np.int32),
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
    group: GroupRanks,
    sets: Sequence[tuple[int, ...]],
    *,
    candidates: np.ndarray,
    n_null: int = NULL_GENES,
    n_cells: int = 0,
) -> dict[tuple[int, ...], list[tuple[int, ...]]]:
    """Return for each tested set its null sets: as many other genes, matched member by member.

    Null genes are not among the tested ones, unless too few others are left (where every gene is tested,
    each is compared with the others nearest to it). Tested sets of one size share a pool of null sets, twice
    `n_null` or as many as are tested, from which each takes its `n_null` nearest: the pool is what bounds the
    passes. Where some tested sets are held by fewer than `n_cells` cells, up to `n_null` more are in it.

    Parameters
    ----------
    group
        How genes rank in the group.
    sets
        Tested gene sets.
    candidates
        ``(c,)`` tokens of the genes that may be null genes.
    n_null
        Null sets per tested set; as many as exist where candidates are few.
    n_cells
        Cells that must hold all genes of a null set, or as many as hold all of the tested set: what few cells
        hold is compared with what few cells hold. 0: they need not be held together.
    """
    others = np.setdiff1d(candidates, [gene for genes in sets for gene in genes])
    chosen: dict[tuple[int, ...], list[tuple[int, ...]]] = {genes: [] for genes in sets}
    for size in {len(genes) for genes in sets} if n_null else set():
        alike = [genes for genes in sets if len(genes) == size]
        needed = np.array([min(n_cells, group.n_holders(genes)) if n_cells else 0 for genes in alike])
        pool = _shared_pool(group, alike, candidates, others, needed, n_null=n_null)
        held_by = np.array([group.n_holders(null) for null in pool], dtype=np.int64)
        for genes, least in zip(alike, needed, strict=True):
            held = pool[held_by >= least]
            chosen[genes] = [tuple(null) for null in held[_nearest_sets(group, genes, held, n_null)].tolist()]
    return chosen


def _shared_pool(
    group: GroupRanks,
    sets: Sequence[tuple[int, ...]],
    candidates: np.ndarray,
    others: np.ndarray,
    needed: np.ndarray,
    *,
    n_null: int,
) -> np.ndarray:
    """Return ``(p, m)`` null sets: for each of `sets`, `needed` cells hold `n_null` of them, if possible.

    What enough cells hold for the most demanding sets will do for all, so those get a pool beside the common
    one.
    """
    most = needed.max()
    n_holders = np.diff(group.held.indptr)
    size = n_null if len(sets) == 1 else max(2 * n_null, len(sets))
    pool = _null_pool(group, sets, others, needed, size=size)
    if len(sets[0]) == 1 and np.count_nonzero(n_holders[others] >= most) < n_null:
        tested = np.intersect1d(candidates, sets)
        held = candidates[n_holders[candidates] >= most]
        return reduce(np.union1d, (pool.ravel(), tested, held))[:, None]
    if most == needed.min():
        return pool
    demanding = [genes for genes, least in zip(sets, needed, strict=True) if least == most]
    beside = _null_pool(group, demanding, others, np.full(len(demanding), most), size=n_null)
    both = {frozenset(null): null for null in [*pool.tolist(), *beside.tolist()]}
    return np.array(list(both.values()), dtype=np.int64).reshape(len(both), len(sets[0]))


def _null_pool(
    group: GroupRanks,
    sets: Sequence[tuple[int, ...]],
    others: np.ndarray,
    needed: np.ndarray,
    *,
    size: int,
) -> np.ndarray:
    """Return ``(size, m)`` null sets of `sets` (m genes each): the most alike of each, the next, ..."""
    depth = -(-size // len(sets))
    while True:
        columns = [
            _sets_like(group, genes, others, depth, least) for genes, least in zip(sets, needed, strict=True)
        ]
        in_turn = (column[place] for place in range(depth) for column in columns if place < len(column))
        pool = list({frozenset(null): null for null in in_turn}.values())[:size]
        if len(pool) == size or max(map(len, columns)) < depth:
            return np.array(pool, dtype=np.int64).reshape(len(pool), len(sets[0]))
        depth *= 2


def _sets_like(
    group: GroupRanks, genes: tuple[int, ...], others: np.ndarray, n: int, needed: int
) -> list[tuple[int, ...]]:
    """Return up to `n` sets that match a tested one member by member, held by `needed` cells."""
    others = others[np.diff(group.held.indptr)[others] >= needed]
    if len(genes) == 1:
        return [(gene,) for gene in group.nearest(genes[0], others, n).tolist()]
    found: dict[frozenset[int], tuple[int, ...]] = {}
    for members in islice(_combined([group.nearest(gene, others) for gene in genes]), _TRIES * n):
        if len(found) == n:
            break
        distinct = frozenset(members)
        is_new = len(distinct) == len(genes) and distinct not in found
        if is_new and group.n_holders(members) >= needed:
            found[distinct] = members
    return list(found.values())


def _combined(near: Sequence[np.ndarray]) -> Iterator[tuple[int, ...]]:
    """Yield one gene of each column: first those in the same place, then later members moved on by places.

    No gene comes twice in the same place of a set until all have been there: null sets that share genes are
    fewer than they seem.
    """
    n = len(near[0])
    for shift in range(n):
        for place in range(n):
            yield tuple(int(column[(place + i * shift) % n]) for i, column in enumerate(near))


def _nearest_sets(group: GroupRanks, genes: tuple[int, ...], pool: np.ndarray, n: int) -> np.ndarray:
    """Return the places in `pool` of the `n` sets nearest to a tested set that share no gene with it.

    Members are compared in the order of their rank.
    """
    traits = group.traits()
    in_order = traits[np.take_along_axis(pool, np.argsort(group.rank[pool], axis=1, kind="stable"), axis=1)]
    own = np.array(genes)[np.argsort(group.rank[list(genes)], kind="stable")]
    apart = np.flatnonzero(~np.isin(pool, own).any(axis=1))
    return apart[_smallest(np.abs(in_order[apart] - traits[own]).sum(axis=(1, 2)), n)]
