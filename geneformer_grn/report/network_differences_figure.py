"""Which edges change between two groups of cells, drawn as one network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geneformer_grn.report.drawing import MUTED, require_columns, shorten
from geneformer_grn.report.network_drawing import EdgeLook
from geneformer_grn.report.network_figure import draw_panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Reddish purple and bluish green of Okabe & Ito: told apart by the colour-blind, not those of signs.
FIRST, SECOND = "#cc79a7", "#009e73"


def weights_of_groups(edges: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Return the edges of two groups beside each other, as `differences_figure` reads them.

    An edge that only one list holds has the weight 0 in the other group: lists are cut at the strongest
    edges, so that this says "not among them". A table of tested differences does not have this flaw.

    Parameters
    ----------
    edges
        Of one method: ``source``, ``target``, ``weight``, ``group``, optionally symbols and ``sign``, which
        then is the weight's.
    first, second
        The groups.

    Raises
    ------
    ValueError
        A column is missing, a group has no edges, or a pair occurs twice in a group.
    """
    require_columns(edges, ["source", "target", "weight", "group"], "a comparison of groups")
    label = edges["group"].astype(str).to_numpy()
    symbols = [column for column in ("source_symbol", "target_symbol") if column in edges]
    parts = {}
    for name, group in (("weight_a", first), ("weight_b", second)):
        rows = edges[label == group]
        if rows.empty:
            known = ", ".join(dict.fromkeys(label.tolist()))
            raise ValueError(f"no edge has group {group!r}; the table has: {known or 'none'}")
        if rows.duplicated(["source", "target"]).any():
            raise ValueError(f"pairs occur twice in group {group!r}; compare the edges of one method")
        weight = rows["weight"].to_numpy(dtype=np.float64)
        if "sign" in rows:
            sign = rows["sign"].to_numpy(dtype=np.float64, na_value=0.0)
            weight = np.where(sign == 0, np.abs(weight), np.abs(weight) * sign)
        parts[name] = rows[["source", "target", *symbols]].assign(**{name: weight})
    both = parts["weight_a"].merge(
        parts["weight_b"], on=["source", "target"], how="outer", suffixes=("", "_b")
    )
    for column in symbols:
        both[column] = both[column].fillna(both[f"{column}_b"])
    both = both.drop(columns=[f"{column}_b" for column in symbols])
    both = both.fillna({"weight_a": 0.0, "weight_b": 0.0})
    return both.assign(difference=both["weight_a"] - both["weight_b"], group_a=first, group_b=second)


def strongest_differences(differences: pd.DataFrame, n_edges: int, max_q: float | None) -> pd.DataFrame:
    """Return the edges that change, of `max_q` at most where that is asked for, the largest changes first."""
    table = differences[differences["difference"].notna().to_numpy()]
    if max_q is not None:
        require_columns(table, ["q_value"], "a choice of differences by q-value")
        table = table[(table["q_value"] <= max_q).to_numpy()]
    table = table[(table["difference"] != 0).to_numpy()]
    order = np.argsort(-table["difference"].abs().to_numpy(dtype=np.float64), kind="stable")
    return table.iloc[order[:n_edges]]


def differences_figure(
    differences: pd.DataFrame,
    *,
    n_edges: int = 60,
    max_q: float | None = None,
    size: tuple[float, float] | None = None,
) -> Figure:
    """Draw the edges that differ most between two groups: solid stronger in the first, dashed in the second.

    Parameters
    ----------
    differences
        ``source``, ``target``, ``weight_a``, ``weight_b``, ``difference`` (a less b), optionally symbols,
        ``group_a``, ``group_b`` (names for the legend) and ``q_value``.
    n_edges
        At most so many edges, the largest differences first.
    max_q
        Draw edges of this q-value at most; None: whatever it is.
    size
        Width and height in inches; follows from the number of genes where None.

    Raises
    ------
    ValueError
        A required column is missing.

    Notes
    -----
    "Stronger" is of the larger absolute weight, since a repression of 0.5 is more than none. Bars end edges
    whose stronger weight is negative.
    """
    columns = ["source", "target", "weight_a", "weight_b", "difference"]
    require_columns(differences, columns, "the figure of differences")
    table = strongest_differences(differences, n_edges, max_q)
    a, b = (table[column].to_numpy(dtype=np.float64) for column in ("weight_a", "weight_b"))
    change = np.abs(table["difference"].to_numpy(dtype=np.float64))
    strength = change / change.max() if len(change) else change
    in_second = np.abs(b) > np.abs(a)
    signs = np.sign(np.where(in_second, b, a)).astype(int)
    looks = [
        EdgeLook(SECOND if second else FIRST, int(sign), float(share), dashed=bool(second))
        for second, sign, share in zip(in_second, signs, strength, strict=True)
    ]
    names = [
        shorten(str(table[column].iloc[0]), 24) if column in table and len(table) else fallback
        for column, fallback in (("group_a", "the first"), ("group_b", "the second"))
    ]
    legend = [
        (EdgeLook(FIRST, 1, 0.6), f"stronger in {names[0]}"),
        (EdgeLook(SECOND, 1, 0.6, dashed=True), f"stronger in {names[1]}"),
    ]
    if (signs < 0).any():
        legend.append((EdgeLook(MUTED, -1, 0.6), "negative weight"))
    return draw_panels({"": (table, looks)}, legend=legend, size=size, one_scale=True)
