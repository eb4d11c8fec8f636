"""The report page: everything a run found, in one HTML file that loads nothing from anywhere.

The page is written for the lab scientist first: words, then pictures, then tables, then how it was done. All
text is escaped, since labels come from files of others, and a content security policy forbids any request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geneformer_grn._runtime import atomic_path, logger, package_version
from geneformer_grn.report.content import CellsSection, InputSection, ReportContent
from geneformer_grn.report.drawing import group_colours, inline_svg, label_genes, require_columns
from geneformer_grn.report.figures import effects_figure, propagation_figure, umap_figure
from geneformer_grn.report.network_figure import hubs, network_figure
from geneformer_grn.report.tables import (
    agreement_columns,
    by_group,
    edge_columns,
    effect_columns,
    format_number,
    format_share,
    format_value,
)
from geneformer_grn.report.words import agreement_sentence, effects_sentence, listed

__all__ = ["CellsSection", "InputSection", "ReportContent", "render_report", "write_report"]

MAX_PANELS = 12  # groups drawn per section; the tables hold all
DRAWN_EDGES = 30
EDGE_ROWS = 300
EFFECT_ROWS = 200
PROPAGATED_PANELS = 6


@dataclass(frozen=True)
class _Panel:
    """One picture of a section: its heading, its SVG and the sentence under it."""

    heading: str
    svg: str
    caption: str = ""


def render_report(content: ReportContent) -> str:
    """Return the page as HTML; the same content gives the same text.

    Parameters
    ----------
    content
        What to show.

    Raises
    ------
    ValueError
        A table that is not empty lacks a required column, or the UMAP and the groups differ in length.
    """
    for table, columns, what in (
        (content.edges, ("source", "target", "weight"), "the report's table of edges"),
        (content.effects, ("gene", "shift"), "the report's table of effects"),
        (content.propagated, ("source", "gene", "hop", "effect"), "the report's table of propagated effects"),
    ):
        if not table.empty:
            require_columns(table, columns, what)
    cells = content.cells
    colours = group_colours(cells.groups) if cells is not None else {}
    return _template().render(
        content=content,
        version=package_version(),
        cells=None if cells is None or len(cells.groups) == 0 else _cells_view(cells, colours),
        network=_network_view(content, list(colours)),
        perturbation=_perturbation_view(content, list(colours)),
        downstream=_downstream_panels(content),
        provenance=_provenance_tables(content.provenance),
        max_panels=MAX_PANELS,
    )


def write_report(content: ReportContent, path: Path | str) -> None:
    """Write the page to `path`; an earlier one is replaced only when the new one is complete.

    Raises
    ------
    ValueError
        As `render_report`.
    PermissionError, NotADirectoryError
        The folder cannot be created or written.
    """
    text = render_report(content)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    logger.info("wrote %s", path)


@cache
def _template() -> Any:
    """Return the compiled template, with what it uses to format numbers."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=format_number, share=format_share, listed=listed)
    return environment.get_template("report.html.j2")


def _cells_view(cells: CellsSection, colours: Mapping[str, str]) -> dict[str, Any]:
    """Return the picture of the cells and its legend."""
    groups = np.asarray(cells.groups, dtype=str)
    names, counts = np.unique(groups, return_counts=True)
    sizes = dict(zip(names.tolist(), counts.tolist(), strict=True))
    description = f"UMAP of {len(groups):,} cells coloured by {len(names)} groups: {listed(list(colours))}."
    return {
        "svg": inline_svg(umap_figure(cells.umap, groups, colours=colours), "umap", description),
        "legend": [
            (number, name, colour, sizes[name], sizes[name] / len(groups))
            for number, (name, colour) in enumerate(colours.items(), start=1)
        ],
        "largest": max(sizes.values()) / len(groups),
        "n_cells": len(groups),
    }


def _network_view(content: ReportContent, order: list[str]) -> dict[str, Any] | None:
    """Return the drawn networks, the table of edges and the agreement; None where there are no edges."""
    if content.edges.empty:
        return None
    drawn, method = content.edges, ""
    if "method" in content.edges:
        methods = content.edges["method"].astype(str)
        method = content.network_method if (methods == content.network_method).any() else methods.iloc[0]
        drawn = content.edges[(methods == method).to_numpy()]
    signs = drawn["sign"].fillna(0) if "sign" in drawn else pd.Series(0, index=drawn.index)
    panels = []
    for number, (group, rows) in enumerate(list(by_group(drawn, order))[:MAX_PANELS]):
        leading = [f"{name} ({count})" for name, count in hubs(rows, n_edges=DRAWN_EDGES)]
        caption = f"Regulators with the most targets here: {listed(leading)}."
        figure = network_figure(rows, n_edges=DRAWN_EDGES)
        count = min(len(rows), DRAWN_EDGES)
        alternative = f"Network of the {count} strongest edges in {group}. {caption}"
        panels.append(_Panel(group, inline_svg(figure, f"network-{number}", alternative), caption))
    return {
        "panels": panels,
        "method": method,
        "n_groups": len(list(by_group(drawn, order))),
        "columns": edge_columns(content.edges, EDGE_ROWS, order),
        "signed": bool((signs != 0).any()),
        "unsigned": bool((signs == 0).any()),
        "agreement": None if content.agreement.empty else agreement_columns(content.agreement),
        "agreement_sentence": "" if content.agreement.empty else agreement_sentence(content.agreement),
        "drawn_edges": DRAWN_EDGES,
    }


def _perturbation_view(content: ReportContent, order: list[str]) -> dict[str, Any] | None:
    """Return the rankings, their table and what they mean; None where nothing was perturbed."""
    effects = content.effects
    if effects.empty or effects["shift"].isna().all():
        return None
    limits = ("shift", "ci_low", "ci_high", "null_low", "null_high")
    ends = effects[[column for column in limits if column in effects]].to_numpy(dtype=np.float64)
    low, high = float(np.nanmin(ends)), float(np.nanmax(ends))
    margin = 0.04 * max(high - low, 1e-12)
    panels = []
    for number, (group, rows) in enumerate(list(by_group(effects, order))[:MAX_PANELS]):
        figure = effects_figure(rows, limits=(min(low, 0.0) - margin, high + margin))
        first = label_genes(rows.sort_values("shift", ascending=False).head(5), "gene").tolist()
        alternative = f"Shift per perturbed gene in {group}; largest first: {listed(first)}."
        panels.append(_Panel(group, inline_svg(figure, f"effects-{number}", alternative)))
    return {
        "panels": panels,
        "n_groups": len(list(by_group(effects, order))),
        "columns": effect_columns(effects, EFFECT_ROWS),
        "n_rows": len(effects),
        "kind": str(effects["kind"].iloc[0]) if "kind" in effects and effects["kind"].nunique() == 1 else "",
        "sentence": effects_sentence(effects),
        "has_null": {"null_low", "null_high"} <= set(effects) and bool(effects["null_low"].notna().any()),
    }


def _downstream_panels(content: ReportContent) -> list[_Panel]:
    """Return a picture for each of the perturbations with the strongest downstream effects."""
    table = content.propagated
    if table.empty:
        return []
    table = table.assign(
        label=label_genes(table, "source"), where=table["group"].astype(str) if "group" in table else ""
    )
    strength = table["effect"].abs().groupby([table["label"], table["where"]]).max()
    chosen = strength.sort_values(ascending=False, kind="stable").index[:PROPAGATED_PANELS]
    limit = float(strength.max())
    panels = []
    for number, (label, where) in enumerate(chosen):
        rows = table[((table["label"] == label) & (table["where"] == where)).to_numpy()]
        heading = f"{label} in {where}" if where else str(label)
        alternative = f"Propagated effects of perturbing {heading}, genes by hops."
        svg = inline_svg(propagation_figure(rows, limit=limit), f"downstream-{number}", alternative)
        panels.append(_Panel(heading, svg))
    return panels


def _provenance_tables(provenance: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return (heading, rows) tables: plain values first, then one table for each nested dict."""
    plain = [(str(key), format_value(v)) for key, v in provenance.items() if not isinstance(v, Mapping)]
    tables = [("Run", plain)] if plain else []
    for key, value in provenance.items():
        if isinstance(value, Mapping) and value:
            heading = str(key).replace("_", " ").capitalize()
            tables.append((heading, [(str(name), format_value(item)) for name, item in value.items()]))
    return tables
