"""Sentences that say what a table shows, in plain words, with the limits of what it shows.

They are computed from the tables, so that a page never claims more than its numbers do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from geneformer_grn.report.figures import SIGNIFICANT
from geneformer_grn.report.tables import format_number, format_share

# Rank correlation of attention and co-expression from which we speak of close and of partial agreement: a
# convention of ours; the table holds the numbers.
CLOSE, PARTIAL = 0.6, 0.3


def listed(names: Sequence[str], *, at_most: int = 6) -> str:
    """Return names as a phrase: ``a, b and c``, cut with the number left out."""
    if len(names) > at_most:
        return f"{', '.join(names[:at_most])} and {len(names) - at_most} more"
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def agreement_sentence(agreement: pd.DataFrame) -> str:
    """Return what the agreement of attention and co-expression means.

    Parameters
    ----------
    agreement
        One row per group with ``spearman`` and optionally ``overlap``, ``overlap_expected`` (shares).
    """
    if "spearman" not in agreement or agreement["spearman"].isna().all():
        return "Attention and co-expression could not be compared in any group."
    middle = float(agreement["spearman"].median())
    number = format_number(round(middle, 2), digits=2)
    if middle >= CLOSE:
        meaning = (
            f"Attention and co-expression rank gene pairs alike (median rank correlation {number}): here the "
            "model's attention adds little beyond what co-expression already shows."
        )
    elif middle >= PARTIAL:
        meaning = (
            f"Attention and co-expression agree in part (median rank correlation {number}). Edges that both "
            "list are the safer ones to follow up."
        )
    else:
        meaning = (
            f"Attention and co-expression rank gene pairs differently (median rank correlation {number}). "
            "That alone does not say which is right: an edge seen by attention only is a hypothesis, not a "
            "finding."
        )
    if {"overlap", "overlap_expected"} <= set(agreement):
        overlap = float(agreement["overlap"].mean())
        chance = float(agreement["overlap_expected"].mean())
        if np.isfinite(overlap) and np.isfinite(chance) and chance > 0:
            meaning += (
                f" Of the top edges, {format_share(overlap)} are found by both on average, where chance "
                f"alone would give {format_share(chance)}."
            )
    return meaning


def effects_sentence(effects: pd.DataFrame) -> str:
    """Return how many perturbations move cells more than genes matched on rank do."""
    if "q_value" not in effects or effects["q_value"].isna().all():
        return (
            "No test against matched genes was made, so the ranking alone does not tell a real effect from "
            "that of any gene as strongly expressed."
        )
    tested = int(effects["q_value"].notna().sum())
    beyond = int((effects["q_value"] <= SIGNIFICANT).sum())
    if beyond == 0:
        return (
            f"None of the {tested:,} perturbations tested moves cells further than perturbing other genes of "
            f"similar rank does (q ≤ {SIGNIFICANT}). The order below is then no evidence for any gene: "
            "strongly expressed genes come first in any such ranking."
        )
    return (
        f"{beyond:,} of {tested:,} perturbations {'moves' if beyond == 1 else 'move'} cells further than "
        f"perturbing other genes of similar rank does (q ≤ {SIGNIFICANT})."
    )
