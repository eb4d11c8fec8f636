"""Tables of numbers made into tables of text for the page: which rows to show, how numbers are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from geneformer_grn.report.drawing import label_genes
from geneformer_grn.report.network_figure import top_edges

WHOLE = "all cells"  # name of the group where a table has no groups
MISSING = "–"
LAST = "Infinity"  # sort key of a missing number, as the page's script reads it


@dataclass(frozen=True)
class Column:
    """A column of a page's table: its heading, the text of each row, and what to sort by.

    Parameters
    ----------
    heading
        Text of the header cell.
    texts
        One text per row.
    keys
        One sort key per row, number or text.
    kind
        ``text``, ``number`` (right-aligned) or ``gene`` (italic, as the field writes symbols).
    """

    heading: str
    texts: list[str]
    keys: list[float | str]
    kind: str = "text"


def format_number(value: Any, *, digits: int = 3) -> str:
    """Return a number as text: whole ones with thousands separators, others to `digits` significant ones."""
    number = math.nan if value is None or value is pd.NA else float(value)
    if math.isnan(number):
        return MISSING
    # "#" keeps trailing zeros, so that the numbers of a column line up.
    text = f"{int(number):,}" if number.is_integer() else f"{number:#.{digits}g}".rstrip(".")
    return text.replace("-", "−", 1) if text.startswith("-") else text


def format_share(value: float) -> str:
    """Return a share as a percentage; small ones are not rounded to nothing."""
    percent = 100 * float(value)
    if math.isnan(percent):
        return MISSING
    if 0 < percent < 0.1:
        return "< 0.1 %"
    return f"{percent:.1f} %"


def format_value(value: Any) -> str:
    """Return a value of the provenance as text; nested values are written in full."""
    if value is None:
        return MISSING
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{int(value)}"  # a seed or a size is quoted as it was typed
    if isinstance(value, float | np.floating):
        return f"{float(value):.6g}"
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {format_value(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(format_value(item) for item in value) or MISSING
    return str(value)


def by_group(table: pd.DataFrame, order: Sequence[str] = ()) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each group of `table` and its rows: groups named in `order` first, others as they appear."""
    if table.empty:
        return
    if "group" not in table:
        yield WHOLE, table
        return
    groups = table["group"].astype(str)
    names = list(dict.fromkeys(groups))
    for name in [*(name for name in order if name in set(names)), *(n for n in names if n not in set(order))]:
        yield name, table[(groups == name).to_numpy()]


def text_column(table: pd.DataFrame, column: str, heading: str) -> Column:
    """Return a column of text."""
    texts = [MISSING if pd.isna(value) else str(value) for value in table[column]]
    return Column(heading, texts, list(texts))


def gene_column(table: pd.DataFrame, column: str, heading: str) -> Column:
    """Return a column of gene symbols, or identifiers where no symbol is known."""
    texts = label_genes(table, column).tolist()
    return Column(heading, texts, list(texts), "gene")


def number_column(
    table: pd.DataFrame, column: str, heading: str, write: Callable[[Any], str] = format_number
) -> Column:
    """Return a column of numbers, missing ones sorted last."""
    values = table[column].to_numpy(dtype=np.float64, na_value=np.nan)
    return Column(heading, [write(value) for value in values], _sort_keys(values), "number")


def interval_column(table: pd.DataFrame, low: str, high: str, heading: str) -> Column:
    """Return a column of intervals, sorted by their lower end."""
    lows = table[low].to_numpy(dtype=np.float64, na_value=np.nan)
    highs = table[high].to_numpy(dtype=np.float64, na_value=np.nan)
    texts = [
        MISSING
        if np.isnan(a) or np.isnan(b)
        else f"{format_number(a, digits=2)} to {format_number(b, digits=2)}"
        for a, b in zip(lows, highs, strict=True)
    ]
    return Column(heading, texts, _sort_keys(lows), "number")


def _sort_keys(values: np.ndarray) -> list[float | str]:
    return [float(value) if np.isfinite(value) else LAST for value in values]


def shown_edges(edges: pd.DataFrame, n_rows: int, order: Sequence[str]) -> pd.DataFrame:
    """Return at most about `n_rows` edges, the same number of the strongest for each group and method."""
    edges = edges.reset_index(drop=True)  # tables put together from groups often repeat their index
    methods = edges["method"].astype(str) if "method" in edges else pd.Series("", index=edges.index)
    parts = [
        part
        for _, rows in by_group(edges, order)
        for _, part in rows.groupby(methods.loc[rows.index], sort=False)
    ]
    each = max(5, n_rows // max(len(parts), 1))
    return pd.concat([top_edges(part, each) for part in parts]) if parts else edges


def found_by(edges: pd.DataFrame, shown: pd.DataFrame) -> list[str]:
    """Return for each shown edge which methods list it in its group."""
    keys = [column for column in ("group", "source", "target") if column in edges]
    wanted = shown[keys].drop_duplicates()
    methods = edges.merge(wanted, on=keys).groupby(keys, observed=True)["method"].unique()
    named = [tuple(row) for row in shown[keys].itertuples(index=False, name=None)]
    several, n_methods = edges["method"].nunique() > 1, edges["method"].nunique()
    every = "both" if n_methods == 2 else "all"
    found = [[str(method) for method in methods.loc[name]] for name in named]
    return [every if several and len(names) == n_methods else " + ".join(names) for names in found]


def edge_columns(edges: pd.DataFrame, n_rows: int, order: Sequence[str]) -> list[Column]:
    """Return the table of the strongest edges per group and method."""
    shown = shown_edges(edges, n_rows, order)
    columns = [
        gene_column(shown, "source", "Regulator"),
        gene_column(shown, "target", "Target"),
    ]
    if "group" in shown:
        columns.append(text_column(shown, "group", "Group"))
    if "method" in shown:
        columns.append(text_column(shown, "method", "Method"))
    columns.append(number_column(shown, "weight", "Weight"))
    if "sign" in shown:
        names = {1: "positive", -1: "negative"}
        signs = np.nan_to_num(np.sign(shown["sign"].to_numpy(dtype=np.float64, na_value=np.nan)))
        words = [names.get(int(sign), "unknown") for sign in signs]
        columns.append(Column("Sign", words, list(words)))
    if "support" in shown:
        columns.append(number_column(shown, "support", "Cells"))
    if "method" in shown:
        listed = found_by(edges, shown)
        columns.append(Column("Listed by", listed, list(listed)))
    if "agreement" in shown:
        columns.append(number_column(shown, "agreement", "Other method, percentile", _percentile))
    return columns


def _percentile(value: float) -> str:
    return MISSING if np.isnan(value) else f"{value:.0f}"


def agreement_columns(agreement: pd.DataFrame) -> list[Column]:
    """Return the table of how far attention and co-expression agree, one row per group."""
    columns = []
    if "group" in agreement:
        columns.append(text_column(agreement, "group", "Group"))
    for column, heading, write in (
        ("n_pairs", "Pairs compared", format_number),
        ("spearman", "Rank correlation", lambda value: format_number(value, digits=2)),
        ("top_k", "Top edges compared", format_number),
        ("overlap", "In both", format_share),
        ("overlap_expected", "By chance", format_share),
    ):
        if column in agreement:
            columns.append(number_column(agreement, column, heading, write))
    return columns


def effect_columns(effects: pd.DataFrame, n_rows: int) -> list[Column]:
    """Return the table of perturbations, the least likely under the null first."""
    keys = [column for column in ("q_value", "p_value") if column in effects]
    shown = effects.sort_values([*keys, "shift"], ascending=[True] * len(keys) + [False]).head(n_rows)
    columns = [gene_column(shown, "gene", "Gene")]
    if "kind" in shown and effects["kind"].nunique() > 1:  # a single kind is named in the caption
        columns.append(text_column(shown, "kind", "Perturbation"))
    if "group" in shown:
        columns.append(text_column(shown, "group", "Group"))
    columns.append(number_column(shown, "shift", "Shift"))
    if {"ci_low", "ci_high"} <= set(shown):
        columns.append(interval_column(shown, "ci_low", "ci_high", "95 % interval"))
    if {"null_low", "null_high"} <= set(shown):
        columns.append(interval_column(shown, "null_low", "null_high", "Matched genes"))
    columns += [
        number_column(shown, name, heading, lambda value: format_number(value, digits=2))
        for name, heading in (("n_cells", "Cells"), ("p_value", "p"), ("q_value", "q"))
        if name in shown
    ]
    return columns
