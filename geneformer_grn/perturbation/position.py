"""How much of an effect is more than the move of later genes by one position.

Deleting a token moves every later gene up by one, and the model reads positions, so part of every deletion's
shift has nothing to do with the gene. Two measures leave it out. `beyond_null` needs no further pass: it
subtracts what perturbing matched genes does, which share the move but also whatever else such genes do.
`position_shift` is exact and costs a second run: knock-out keeps the positions.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from geneformer_grn.perturbation.effects_table import RESAMPLES
from geneformer_grn.statistics import hierarchical_bootstrap

EXCESS_COLUMNS = ("excess", "excess_low", "excess_high")
_BETWEEN = ["gene", "group", "readout", "state"]


def beyond_null(effects: pd.DataFrame) -> pd.DataFrame:
    """Return the effects with what each is beyond the shift that perturbing any such gene brings.

    Parameters
    ----------
    effects
        `EFFECT_COLUMNS`.

    Returns
    -------
    The same rows with `EXCESS_COLUMNS` behind: ``excess`` is ``shift - null_mean``, ``excess_low`` and
    ``excess_high`` are the ends of its interval, the null's mean taken as known. Deleting null genes of the
    same rank moves as many later genes up by one, so for deletion this is what exceeds the position shift.

    Examples
    --------
    >>> beyond_null(run_screen(encoder, ranked, None, genes).effects)  # doctest: +SKIP
    """
    ends = ("shift", "ci_low", "ci_high")
    return effects.assign(
        **{name: effects[end] - effects["null_mean"] for name, end in zip(EXCESS_COLUMNS, ends, strict=True)}
    )


def position_shift(
    deleted: pd.DataFrame, knocked_out: pd.DataFrame, *, donors: pd.Series | None = None, seed: int = 0
) -> pd.DataFrame:
    """Return how much of deletion is the move of later genes by one position.

    Knock-out takes a gene away from the others and keeps their positions; deletion does the same and moves
    those behind it. Their difference, cell by cell, is that move.

    Parameters
    ----------
    deleted, knocked_out
        Cells tables (`CELL_COLUMNS`) of the same genes in the same cells, of kind ``delete`` and
        ``knockout``. Only cells in both count.
    donors
        Donor of each ``cell_id``, for the interval; None: it is over cells.
    seed
        Seed of the bootstrap.

    Returns
    -------
    One row per gene, group, readout and state: ``n_cells``, the means ``delete`` and ``knockout``,
    ``position_shift`` (their difference) with its 95 % interval ``ci_low`` to ``ci_high``, and
    ``position_share``, what part of the deletion's shift it is (NaN where deletion moves nothing; above 1 or
    below 0 where the two have opposite signs).

    Raises
    ------
    ValueError
        The tables share no gene and cell; the donor of a cell is missing.
    """
    keys = ["cell_id", *_BETWEEN]
    both = deleted[[*keys, "shift"]].merge(
        knocked_out[[*keys, "shift"]], on=keys, suffixes=("_delete", "_knockout"), validate="one_to_one"
    )
    both = both.dropna(subset=["shift_delete", "shift_knockout"])
    if both.empty:
        raise ValueError(
            "no gene was both deleted and knocked out in the same cell; run both on the same cells"
        )
    rows = []
    for number, (key, part) in enumerate(both.groupby(_BETWEEN, sort=False)):
        delete, knockout = part["shift_delete"].to_numpy(), part["shift_knockout"].to_numpy()
        of_donor = None if donors is None else part["cell_id"].map(donors).to_numpy()
        low, high = hierarchical_bootstrap(
            delete - knockout, of_donor, rng=np.random.default_rng([seed, number]), n=RESAMPLES
        )
        moved, total = float((delete - knockout).mean()), float(delete.mean())
        share = moved / total if total else float("nan")
        rows.append((*key, len(part), total, float(knockout.mean()), moved, low, high, share))
    values = ["n_cells", "delete", "knockout", "position_shift", "ci_low", "ci_high", "position_share"]
    return pd.DataFrame(rows, columns=[*_BETWEEN, *values])
