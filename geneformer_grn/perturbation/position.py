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
    The same rows with `EXCESS_COLUMNS` behind: ``excess`` is ``shift_compared - null_mean``, both means over
    equally many cells per gene. ``excess_low`` to ``excess_high`` is the interval of the difference between
    the gene and one of its null genes: it holds the gene's own interval over those cells and the 95 % range
    of the null means, so that a gene within that range has 0 in it. NaN below two cells or without null
    genes. Deleting null genes of the same rank moves as many later genes up by one, so for deletion this is
    what exceeds the position shift. ``gene_symbol``, where there is one, stays the last column; rows without
    take that of another row of the same gene, or its name.

    Notes
    -----
    The interval of a difference from those of its terms: Zou and Donner (2008), Construction of confidence
    limits about effect measures: a general approach.

    Examples
    --------
    >>> beyond_null(run_screen(encoder, ranked, None, genes).effects)  # doctest: +SKIP
    """
    own, null = effects["shift_compared"], effects["null_mean"]
    below = np.hypot(own - effects["compared_low"], effects["null_high"] - null)
    above = np.hypot(effects["compared_high"] - own, null - effects["null_low"])
    ends = dict(zip(EXCESS_COLUMNS, (own - null, own - null - below, own - null + above), strict=True))
    found = effects.assign(**ends)
    if "gene_symbol" in found:
        found["gene_symbol"] = _symbols(found.pop("gene_symbol"), found["gene"])
    return found


def _symbols(symbols: pd.Series, genes: pd.Series) -> pd.Series:
    """Return the symbols, those missing taken from another row of the gene, or its name."""
    known = symbols.notna()
    symbol_of = dict(zip(genes[known], symbols[known], strict=True))
    return symbols.where(known, genes.map(symbol_of)).where(lambda filled: filled.notna(), genes)


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
