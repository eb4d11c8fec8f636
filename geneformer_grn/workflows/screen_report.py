"""What a screen found: the exact shifts beside the estimates, and how much of the true top it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from geneformer_grn._runtime import logger

if TYPE_CHECKING:
    from geneformer_grn.perturbation.shortlist import Recall
    from geneformer_grn.workflows.perturb_job import PerturbJob

LEAST_RECALL = 0.95  # of the true top; where the interval lies below it, the user is warned
FEWEST_TRUE = 20  # genes of the true top among those audited: fewer tell no more than a wide interval


def with_shifts(genes: pd.DataFrame, effects: pd.DataFrame, job: PerturbJob) -> pd.DataFrame:
    """Return the genes with the exact shift of what ranks them, and their rank, the strongest first.

    Parameters
    ----------
    genes
        As `geneformer_grn.workflows.screen_plan.chosen` gives them.
    effects
        What was run exactly.
    job
        What was asked.
    """
    state = str(job.options.goal) if job.states else ""
    exact = effects[effects["state"] == state].set_index(["gene", "group"])["shift"]
    shift = exact.reindex(pd.MultiIndex.from_frame(genes[["gene", "group"]])).to_numpy()
    by = genes["estimate"] if genes["estimate"].notna().any() else pd.Series(shift, index=genes.index)
    rank = by.abs().groupby(genes["group"]).rank(ascending=False, method="first")
    return genes.assign(shift=shift, rank=rank.astype("Int64")).sort_values(
        ["group", "rank"], kind="stable", ignore_index=True
    )


def recall_facts(genes: pd.DataFrame) -> dict[str, float | bool]:
    """Return the recall of the true top of the audited genes, groups taken together.

    Parameters
    ----------
    genes
        With what was listed and audited, and the exact shift.
    """
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
        "recall_can_be_told": recall.n_true >= FEWEST_TRUE,
    }  # fmt: skip


def tell(facts: Mapping[str, Any]) -> None:
    """Say what a screen took instead of every gene, and what of the true top it can be expected to hold.

    Parameters
    ----------
    facts
        What was done, of `geneformer_grn.workflows.screen.screen_counts`.
    """
    times = facts["times_fewer_passes"]
    logger.info(
        "%s passes (%s for the estimate) instead of %s: %s",
        f"{facts['n_passes']:,}", f"{facts['n_passes_estimate']:,}", f"{facts['n_passes_exact_run']:,}",
        f"{times:.1f} times fewer" if times >= 1.0 else f"{1.0 / times:.1f} times as many",
    )  # fmt: skip
    if "recall" not in facts:
        logger.info("recall was not measured: no genes were drawn for it")
        return
    interval = f"95 % interval {facts['recall_low']:.3f} to {facts['recall_high']:.3f}"
    drawn = f"of {facts['n_genes_audited']} genes drawn at random and run exactly"
    if not facts["recall_can_be_told"]:
        logger.warning(
            "recall of the true top 10 %%: too few to tell. Only %d such genes are among the %s; %.3f of "
            "them were listed (%s). Draw more (audit), or screen more genes",
            facts["recall_n_true"], drawn.removeprefix("of "), facts["recall"], interval,
        )  # fmt: skip
        return
    told = (
        f"measured recall of the true top 10 %: {facts['recall']:.3f} ({interval}; the "
        f"{facts['recall_n_true']} strongest {drawn})"
    )
    if facts["recall_high"] < LEAST_RECALL:
        logger.warning("%s; list a larger share, or run every gene with perturb", told)
    else:
        logger.info("%s", told)
