"""The screen of many genes: estimated from a few passes a cell, the top of them then run exactly.

What both faces call: ``geneformer-grn screen`` and ``gg.tl.screen``. All that is reported as an effect was
run exactly. The estimate only decides for which genes, and a random sample of genes that is run exactly, too,
measures how well it did.
"""

from __future__ import annotations

import bisect
import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geneformer_grn._runtime import logger, progress
from geneformer_grn.cells.counts import CellCounts
from geneformer_grn.workflows.perturb_job import PerturbJob, make_job, mean_embeddings
from geneformer_grn.workflows.perturb_parts import PerturbWork
from geneformer_grn.workflows.perturb_results import read_tables, record
from geneformer_grn.workflows.perturb_tables import write_tables
from geneformer_grn.workflows.screen_options import ScreenOptions, ScreenTables

if TYPE_CHECKING:
    from geneformer_grn.model.encoder import Encoder
    from geneformer_grn.perturbation.first_order import Effort
    from geneformer_grn.perturbation.shortlist import Recall

__all__ = ["ScreenOptions", "ScreenTables", "screen_counts"]

_LEAST_SHARE = 0.15  # of the genes: a list shorter than that misses too many of the top tenth
LEAST_RECALL = 0.95  # of the true top; where the interval lies below it, the user is warned


def screen_counts(encoder: Encoder, counts: CellCounts, options: ScreenOptions) -> ScreenTables:
    """Screen the genes of the cells of a count file.

    Genes are ranked by the estimated cell shift, or with states by the size of the estimated shift towards
    the goal; per group the top of them is run exactly, in every cell that holds them. Where that would not
    take `least_saving` times fewer passes than running every gene, every gene is run, and said so.

    Parameters
    ----------
    encoder
        The model.
    counts
        Cells read with its vocabulary.
    options
        What to do.

    Raises
    ------
    ValueError
        A kind without an estimate, or as in `geneformer_grn.workflows.perturb_job.make_job`.

    Examples
    --------
    >>> options = ScreenOptions(perturb=PerturbOptions(genes="all", n_null=0))
    >>> screen_counts(encoder, counts, options).facts["recall"]  # doctest: +SKIP
    """
    from geneformer_grn.perturbation.first_order import require_estimate

    require_estimate(options.perturb.kind)
    encoder.require_layer(options.perturb.encoder_layer)
    job = make_job(counts, encoder.vocabulary, options.perturb)
    groups = _Groups(job)
    genes = groups.tested(job)
    n_pairs, n_cells = int(genes["n_cells"].sum()), len(groups.cells)
    exact_passes = n_pairs + n_cells
    effort = _effort(options, job, pairs_per_cell=n_pairs / max(n_cells, 1))
    least = _LEAST_SHARE if options.share is None else options.share
    run_share = least + options.audit * (1.0 - least)
    planned = math.ceil(n_cells * (1 + effort.passes(len(job.states))) + run_share * n_pairs)
    is_worth = exact_passes >= options.least_saving * planned
    if is_worth:
        estimates, spent = _estimated(encoder, job, groups, effort)
        code = genes["group"].map(groups.code)
        room = exact_passes / max(options.least_saving, 1.0) - spent - n_cells
        genes = _chosen(genes.assign(estimate=estimates[code, genes["token"]]), options, room=int(room))
    else:
        logger.warning(
            "%s passes run every gene exactly and a screen would take about %s: not %g times fewer, so every "
            "gene is run", f"{exact_passes:,}", f"{planned:,}", options.least_saving,
        )  # fmt: skip
        genes, spent = genes.assign(estimate=np.nan, listed=True, audited=False), 0
    run, effects, cells, facts = _run(encoder, job, genes[genes["listed"] | genes["audited"]])
    genes = _with_shifts(genes, effects, job)
    facts |= {
        "n_genes_screened": len(genes),
        "n_genes_listed": int(genes["listed"].sum()),
        "n_passes_exact_run": exact_passes,
        "n_passes_estimate": spent,
        "n_passes": facts["n_passes"] + spent,
        "times_fewer_passes": exact_passes / max(facts["n_passes"] + spent, 1),
        "is_estimated": is_worth,
        **(_recall_facts(genes) if is_worth and options.audit else {}),
    }
    if is_worth:
        _tell(facts)
    noted = record(run, facts, model=encoder.name, precision=encoder.precision)
    noted["parameters"] |= {name: value for name, value in asdict(options).items() if name != "perturb"}
    columns = ["gene", "group", "n_cells", "estimate", "rank", "listed", "audited", "shift"]
    return ScreenTables(effects=effects, cells=cells, genes=genes[columns], facts=facts, record=noted)


class _Groups:
    """Which cells are screened in which group, and how many cells of a group hold a gene."""

    def __init__(self, job: PerturbJob) -> None:
        self.code = {group: code for code, group in enumerate(dict.fromkeys(r.group for r in job.requests))}
        self.of_cell = np.full(len(job.ranked), -1, dtype=np.int64)
        for request in job.requests:
            self.of_cell[request.cells] = self.code[request.group]
        self.cells = np.flatnonzero(self.of_cell >= 0)
        self.holders = np.zeros((len(self.code), len(job.vocabulary)), dtype=np.int64)
        room = job.vocabulary.max_length - job.vocabulary.n_wrapping
        for cell in self.cells:
            genes = job.ranked.cell(int(cell))[:room]
            if len(genes) > 1:  # of one gene nothing is left to compare
                self.holders[self.of_cell[cell], genes] += 1

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


def _effort(options: ScreenOptions, job: PerturbJob, *, pairs_per_cell: float) -> Effort:
    from geneformer_grn.perturbation.first_order import Effort

    return Effort.within(
        options.effort * pairs_per_cell, job.options.kind,
        n_states=len(job.states), cell_shift=not job.states,
    )  # fmt: skip


def _estimated(encoder: Encoder, job: PerturbJob, groups: _Groups, effort: Effort) -> tuple[np.ndarray, int]:
    """Return the estimates ``(groups, V)``, means over the cells that hold a gene, and the passes spent."""
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


def _chosen(genes: pd.DataFrame, options: ScreenOptions, *, room: int) -> pd.DataFrame:
    """Return the genes with what is listed and what is audited, group by group, in at most `room` passes.

    The room counts only where the share is left open; then it is the largest, in thousandths, that fits.
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
        tried = range(round(1000 * _LEAST_SHARE), 1001)
        n_fitting = bisect.bisect_right(
            tried, room, key=lambda thousandths: passes[listed(thousandths / 1000) | audited].sum()
        )
        share = tried[max(n_fitting - 1, 0)] / 1000
    return genes.assign(listed=listed(share), audited=audited)


def _run(
    encoder: Encoder, job: PerturbJob, genes: pd.DataFrame
) -> tuple[PerturbJob, pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Run some of the job's requests exactly; return their job, effects, cells and facts."""
    from geneformer_grn.perturbation.noise import require_fine
    from geneformer_grn.perturbation.screen import Screen

    numbers = genes["request"].to_numpy()
    before = job.prepared
    requests = [before.screen.requests[number] for number in numbers]
    screen = Screen(
        cells_per_gene=before.screen.cells_per_gene, n_null=0, requests=requests,
        nulls={number: [] for number in range(len(requests))},
    )  # fmt: skip
    prepared = replace(
        before, sets=list(dict.fromkeys(request.genes for request in requests)), screen=screen,
        names=before.names[numbers], traits=before.traits[numbers],
    )  # fmt: skip
    part = replace(job, prepared=prepared)
    with tempfile.TemporaryDirectory(prefix="geneformer-grn-") as name:
        work = PerturbWork.open(Path(name) / "work", part.facts(), {})
        if encoder.precision == "bf16":
            require_fine(work.noise(part, encoder))
        work.run_share(part, (0, 1), encoder)
        tables = Path(name) / "tables"
        tables.mkdir()
        facts = write_tables(part, [work], tables)
        found = read_tables(tables, facts, {})
    return part, found.effects, found.cells, facts


def _with_shifts(genes: pd.DataFrame, effects: pd.DataFrame, job: PerturbJob) -> pd.DataFrame:
    """Return the genes with the exact shift of what ranks them, and their rank, the strongest first."""
    state = str(job.options.goal) if job.states else ""
    exact = effects[effects["state"] == state].set_index(["gene", "group"])["shift"]
    shift = exact.reindex(pd.MultiIndex.from_frame(genes[["gene", "group"]])).to_numpy()
    by = genes["estimate"] if genes["estimate"].notna().any() else pd.Series(shift, index=genes.index)
    rank = by.abs().groupby(genes["group"]).rank(ascending=False, method="first")
    return genes.assign(shift=shift, rank=rank.astype("Int64")).sort_values(
        ["group", "rank"], kind="stable", ignore_index=True
    )


def _recall_facts(genes: pd.DataFrame) -> dict[str, float]:
    """Return the recall of the true top of the audited genes, groups taken together."""
    from geneformer_grn.perturbation.shortlist import measured_recall

    sample = genes[genes["audited"]]
    found: list[Recall] = [
        measured_recall(part["shift"].abs().to_numpy(), part["listed"].to_numpy())
        for _, part in sample.groupby("group", sort=False)
    ]
    recall = sum(found[1:], start=found[0])
    low, high = recall.interval()
    return {
        "recall": recall.value, "recall_low": low, "recall_high": high,
        "recall_n_true": recall.n_true, "n_genes_audited": recall.n_sample,
    }  # fmt: skip


def _tell(facts: dict[str, Any]) -> None:
    logger.info(
        "%s passes (%s for the estimate) instead of %s: %.1f times fewer",
        f"{facts['n_passes']:,}", f"{facts['n_passes_estimate']:,}", f"{facts['n_passes_exact_run']:,}",
        facts["times_fewer_passes"],
    )  # fmt: skip
    if "recall" not in facts:
        logger.info("recall was not measured: no genes were drawn for it")
        return
    told = (
        f"measured recall of the true top 10 %: {facts['recall']:.3f} (95 % interval "
        f"{facts['recall_low']:.3f} to {facts['recall_high']:.3f}; the {facts['recall_n_true']} strongest of "
        f"{facts['n_genes_audited']} genes drawn at random and run exactly)"
    )
    if facts["recall_high"] < LEAST_RECALL:
        logger.warning("%s; list a larger share, or run every gene with perturb", told)
    else:
        logger.info("%s", told)
