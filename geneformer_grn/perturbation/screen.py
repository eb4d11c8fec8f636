"""The screen: which genes are perturbed in which cells, tested and null genes, within a bound on passes.

Cells of a group are taken in one random order, and every gene is perturbed in the first cells of that order
that hold it. Tested and null genes then mostly share cells, which makes their comparison fair and saves
unperturbed passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from geneformer_grn.perturbation.edits import NEEDS_GENE, require_kind
from geneformer_grn.perturbation.matching import NULL_GENES, GroupRanks, choose_null_sets
from geneformer_grn.perturbation.requests import Request

_FEWEST_CELLS = 3  # kept as long as possible when passes are scarce: fewer give no useful interval
_FEWEST_NULL = 10


@dataclass(frozen=True, kw_only=True)
class PerturbationPlan:
    """How large a screen is.

    Parameters
    ----------
    kind
        A kind of `EDITS`: ``delete``, ``knockout``, ``overexpress``, ``inhibit`` or ``activate``.
    cells_per_gene
        Cells of each group that a null gene is perturbed in, and that p-values compare; with ``sample`` the
        tested genes too.
    tested_cells
        Where tested genes are perturbed: ``sample``: `cells_per_gene` cells; ``holders``: every cell that
        holds them (overexpressed: unless in front already); ``all``: every cell, those without the gene
        giving NaN.
    n_null
        Null genes per tested gene, or as many as exist; 0 for none (then there are no p-values).
    max_passes
        Upper bound of passes over all groups, nulls and unperturbed cells included; `cells_per_gene` and then
        `n_null` are lowered to fit.
    seed
        Seed of the cell order and of the bootstrap.
    """

    kind: str = "delete"
    cells_per_gene: int = 10
    tested_cells: Literal["sample", "holders", "all"] = "sample"
    n_null: int = NULL_GENES
    max_passes: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_kind(self.kind)
        if self.cells_per_gene < 1 or self.n_null < 0:
            raise ValueError(
                "a screen needs at least 1 cell per gene and 0 null genes, "
                f"got {self.cells_per_gene} and {self.n_null}"
            )


@dataclass(eq=False)
class Screen:
    """A screen, planned.

    Parameters
    ----------
    requests
        Tested perturbations and null ones.
    nulls
        Number of each tested request -> numbers of the requests it is compared with.
    cells_per_gene, n_null
        What was used of the plan, lowered to fit its bound.
    """

    cells_per_gene: int
    n_null: int
    requests: list[Request] = field(default_factory=list)
    nulls: dict[int, list[int]] = field(default_factory=dict)

    @property
    def n_passes(self) -> int:
        """Passes at most: every (request, cell) pair, and every cell unperturbed.

        Overexpression may need a cell unperturbed twice: whole, and with the gene left out that is pushed
        out.
        """
        n_pairs = sum(len(request.cells) for request in self.requests)
        used = np.zeros(
            max((int(r.cells.max(initial=-1)) for r in self.requests), default=-1) + 1, dtype=bool
        )
        for request in self.requests:
            used[request.cells] = True
        twice = any(request.kind not in NEEDS_GENE for request in self.requests)
        return n_pairs + int(np.count_nonzero(used)) * (2 if twice else 1)


def plan_screen(
    ranks: Sequence[GroupRanks],
    sets: Sequence[tuple[int, ...]],
    plan: PerturbationPlan,
) -> Screen:
    """Decide which cells each gene set and each null set is perturbed in.

    Parameters
    ----------
    ranks
        The groups.
    sets
        Gene sets to test, in each group.
    plan
        Size of the screen.

    Returns
    -------
    The screen, with tested sets first in each group.

    Raises
    ------
    ValueError
        Not even one cell per gene fits the bound on passes.
    """
    bound, largest = plan.max_passes, (plan.cells_per_gene, plan.n_null)
    screen = _build(ranks, sets, plan, size=largest)
    if bound is None or screen.n_passes <= bound:
        return screen
    nulls = _null_levels(plan.n_null)
    screen = _build(ranks, sets, plan, size=(1, nulls[-1]))
    if screen.n_passes > bound:
        raise ValueError(
            f"{len(sets):,} perturbations in {len(ranks):,} groups need at least {screen.n_passes:,} passes, "
            f"nulls included; at most {bound:,} are allowed. Allow more (--passes, max_passes), or perturb "
            "fewer genes."
        )

    def first_that_fits(sizes: list[tuple[int, int]]) -> Screen | None:
        """Return the screen of the first size within the bound; sizes shrink, so a try rules out half."""
        found = None
        while sizes:
            middle = (len(sizes) - 1) // 2
            tried = _build(ranks, sets, plan, size=sizes[middle])
            fits = tried.n_passes <= bound
            found = tried if fits else found
            sizes = sizes[:middle] if fits else sizes[middle + 1 :]
        return found

    fewest = min(_FEWEST_CELLS, plan.cells_per_gene)
    few = first_that_fits([(fewest, n_null) for n_null in nulls])
    if few is None:
        return first_that_fits([(n_cells, nulls[-1]) for n_cells in range(fewest - 1, 1, -1)]) or screen
    more = [(n_cells, few.n_null) for n_cells in range(plan.cells_per_gene, fewest, -1)]
    return first_that_fits(more) or few


def _null_levels(n_null: int) -> list[int]:
    """Return the numbers of null genes tried where passes are scarce, most first."""
    levels = [n_null]
    while levels[-1] > _FEWEST_NULL:
        levels.append(max(levels[-1] * 3 // 4, _FEWEST_NULL))
    return levels


def _build(
    ranks: Sequence[GroupRanks],
    sets: Sequence[tuple[int, ...]],
    plan: PerturbationPlan,
    *,
    size: tuple[int, int],
) -> Screen:
    """Return the screen with `size` (cells per gene, null genes per tested set)."""
    n_cells, n_null = size
    screen = Screen(cells_per_gene=n_cells, n_null=n_null)
    for group in ranks:
        number: dict[tuple[int, ...], int] = {}
        for genes in sets:
            number[genes] = len(screen.requests)
            cells = _tested_cells(group, genes, plan, n_cells)
            screen.requests.append(Request(genes=genes, kind=plan.kind, cells=cells, group=group.name))
        must_hold = plan.kind in NEEDS_GENE or plan.tested_cells == "holders"
        chosen = choose_null_sets(
            group, sets, candidates=group.detected(1), n_null=n_null, n_cells=n_cells if must_hold else 0
        )
        for genes, null_sets in chosen.items():
            for null in null_sets:
                if null not in number:
                    number[null] = len(screen.requests)
                    cells = _usable_cells(group, null, plan)[:n_cells].copy()  # a view would keep them all
                    screen.requests.append(
                        Request(genes=null, kind=plan.kind, cells=cells, group=group.name, is_null=True)
                    )
            screen.nulls[number[genes]] = [number[null] for null in null_sets]
    return screen


def _usable_cells(group: GroupRanks, genes: tuple[int, ...], plan: PerturbationPlan) -> np.ndarray:
    """Return the rows of the cells that `genes` can be perturbed in, in drawing order."""
    if plan.kind in NEEDS_GENE:
        return group.holders(genes)
    return group.followers(genes) if plan.tested_cells == "holders" else group.cells


def _tested_cells(
    group: GroupRanks, genes: tuple[int, ...], plan: PerturbationPlan, n_cells: int
) -> np.ndarray:
    """Return the rows in which a tested set is perturbed."""
    if plan.tested_cells == "all":
        return group.cells
    usable = _usable_cells(group, genes, plan)
    return usable if plan.tested_cells == "holders" else usable[:n_cells].copy()
