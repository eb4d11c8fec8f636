"""What a screen would cost, the estimate of every gene, and which genes are run exactly."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geneformer_grn._runtime import logger, progress
from geneformer_grn.workflows.perturb_job import PerturbJob, mean_embeddings
from geneformer_grn.workflows.screen_options import ScreenOptions

if TYPE_CHECKING:
    from geneformer_grn.model.encoder import Encoder
    from geneformer_grn.perturbation.first_order import Effort

LEAST_SHARE = 0.15  # of the genes: a list shorter than that misses too many of the top tenth


@dataclass(frozen=True, kw_only=True)
class ScreenCost:
    """What a screen takes, before it is run.

    Parameters
    ----------
    effort
        What the estimate may cost per cell.
    exact
        Passes that running every gene takes.
    screened
        Passes that the screen takes, about.
    is_estimated
        Whether genes are estimated: a share was asked for, or it takes that many times fewer passes.
    """

    effort: Effort
    exact: int
    screened: int
    is_estimated: bool


def screen_cost(options: ScreenOptions, job: PerturbJob, *, n_pairs: int, n_cells: int) -> ScreenCost:
    """Return what a screen takes, and say so where it saves little.

    Parameters
    ----------
    options, job
        What was asked.
    n_pairs, n_cells
        Pairs of a gene and a cell that holds it, and cells that hold one.
    """
    from geneformer_grn.perturbation.first_order import Effort

    effort = Effort.within(
        options.effort * n_pairs / max(n_cells, 1), job.options.kind,
        n_states=len(job.states), cell_shift=not job.states,
    )  # fmt: skip
    least = LEAST_SHARE if options.share is None else options.share
    run_share = least + options.audit * (1.0 - least)
    exact = n_pairs + n_cells
    screened = math.ceil(n_cells * (1 + effort.passes(len(job.states))) + run_share * n_pairs)
    saves = exact >= options.least_saving * screened
    cost = ScreenCost(
        effort=effort, exact=exact, screened=screened,
        is_estimated=n_pairs > 0 and (saves or options.share is not None),
    )  # fmt: skip
    if not n_pairs:
        logger.warning("no cell holds any of these genes: there is nothing to run")
    elif not saves:
        logger.warning(
            "%s passes run every gene exactly and a screen takes about %s: not %g times fewer, %s",
            f"{exact:,}", f"{screened:,}", options.least_saving,
            "but a share was asked for" if cost.is_estimated else "so every gene is run",
        )  # fmt: skip
    return cost


class Groups:
    """Which cells are screened in which group, and how many cells of a group hold a gene.

    Parameters
    ----------
    job
        The job, with a request per gene and group.

    Attributes
    ----------
    code
        Group -> its number.
    of_cell
        ``(n,)`` int64 number of each cell's group, -1 of cells that are left out.
    holders
        ``(groups, V)`` int64 how many cells of a group hold a gene as the model reads them.
    cells
        Rows of the cells that hold a gene that is screened.
    """

    def __init__(self, job: PerturbJob) -> None:
        self.code = {group: code for code, group in enumerate(dict.fromkeys(r.group for r in job.requests))}
        self.of_cell = np.full(len(job.ranked), -1, dtype=np.int64)
        for request in job.requests:
            self.of_cell[request.cells] = self.code[request.group]
        self.holders = np.zeros((len(self.code), len(job.vocabulary)), dtype=np.int64)
        is_screened = np.zeros(len(job.vocabulary), dtype=bool)
        is_screened[[request.genes[0] for request in job.requests]] = True
        room = job.vocabulary.max_length - job.vocabulary.n_wrapping
        holding = []
        for cell in np.flatnonzero(self.of_cell >= 0):
            genes = job.ranked.cell(int(cell))[:room]
            if len(genes) > 1:  # of one gene nothing is left to compare
                self.holders[self.of_cell[cell], genes] += 1
                if is_screened[genes].any():
                    holding.append(cell)
        self.cells = np.array(holding, dtype=np.int64)

    def tested(self, job: PerturbJob) -> pd.DataFrame:
        """Return a row per request: its number, gene, group, token, and the cells that hold the gene."""
        rows = [
            (
                number,
                name,
                request.group,
                request.genes[0],
                self.holders[self.code[request.group], request.genes[0]],
            )
            for number, (request, name) in enumerate(zip(job.requests, job.prepared.names, strict=True))
        ]
        return pd.DataFrame(rows, columns=["request", "gene", "group", "token", "n_cells"])


def estimated(encoder: Encoder, job: PerturbJob, groups: Groups, effort: Effort) -> tuple[np.ndarray, int]:
    """Return the estimates ``(groups, V)``, means over the cells that hold a gene, and the passes spent.

    Parameters
    ----------
    encoder, job, groups
        The model, and what is screened.
    effort
        What a cell may cost.
    """
    from geneformer_grn.perturbation.first_order import estimate_cells

    states: Mapping[str, np.ndarray] = {}
    if job.states:
        states = dict(zip(job.states, mean_embeddings(encoder, job), strict=True))
    column = 1 + job.states.index(str(job.options.goal)) if job.states else 0
    total, n_passes = np.zeros(groups.holders.shape), 0
    found = estimate_cells(
        encoder, job.ranked, groups.cells, job.options.kind, job.settings,
        effort=effort, states=states, seed=job.options.seed,
    )  # fmt: skip
    with progress(total=len(groups.cells), desc="estimating", unit="cell") as bar:
        for cell in found:
            total[groups.of_cell[cell.cell], cell.genes] += cell.values[:, column]
            n_passes += cell.n_passes
            bar.update(1)
    known = groups.holders > 0
    return np.divide(total, groups.holders, out=np.full_like(total, np.nan), where=known), n_passes


def chosen(genes: pd.DataFrame, options: ScreenOptions, *, room: int) -> pd.DataFrame:
    """Return the genes with what is listed and what is audited, group by group, in at most `room` passes.

    Parameters
    ----------
    genes
        As `Groups.tested` gives them, with their ``estimate``.
    options
        What was asked.
    room
        Counts only where the share is left open; then it is the largest, in thousandths, that fits.
    """
    from geneformer_grn.perturbation.shortlist import audit_sample, strongest

    size, passes = genes["estimate"].abs().to_numpy(), genes["n_cells"].to_numpy()
    groups = list(genes.groupby("group", sort=False).indices.values())
    audited = np.zeros(len(genes), dtype=bool)
    for number, rows in enumerate(groups):
        rng = np.random.default_rng([options.perturb.seed, number])
        audited[rows] = audit_sample(~np.isnan(size[rows]), options.audit, rng=rng)

    def listed(share: float) -> np.ndarray:
        mask = np.zeros(len(genes), dtype=bool)
        for rows in groups:
            mask[rows] = strongest(size[rows], share)
        return mask

    share = options.share
    if share is None:
        tried = range(round(1000 * LEAST_SHARE), 1001)
        n_fitting = bisect.bisect_right(
            tried, room, key=lambda thousandths: passes[listed(thousandths / 1000) | audited].sum()
        )
        share = tried[max(n_fitting - 1, 0)] / 1000
    return genes.assign(listed=listed(share), audited=audited)
