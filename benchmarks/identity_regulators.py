"""Where known regulators of cell identity rank in the networks of real blood cells.

SPI1 and CEBPB make monocytes, PAX5 and EBF1 B cells, GATA3 and TCF7 T cells. Every regulator that a cell type
expresses is ranked in that type's network, by every method and in three ways: how many of the strongest pairs
are its own (``degree``), how strong its 50 strongest pairs are (``strength``), and how much higher its
strength ranks here than on average in the other types (``specificity``). For methods from counts, degree and
strength are also taken in the network of all cells together, where types differ. Beside them two ways that
need no network: the regulator's own mean expression, and how much higher it is than in all other cells.

Ranks are as measured, for six genes chosen before anything was run: an illustration, no test.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from measuring import device, versions

from geneformer_grn._runtime import logger, write_json
from geneformer_grn.cells.counts import log_normalised
from geneformer_grn.cells.ranking import rank_cells
from geneformer_grn.extraction.methods import METHODS as FROM_MODEL
from geneformer_grn.network.cross_products import Expression, mean_and_sd
from geneformer_grn.network.methods import MODEL_FREE
from geneformer_grn.network.scored import ScoredPairs
from geneformer_grn.workflows.cells import OpenSettings, open_cells
from geneformer_grn.workflows.network import combined, group_rows
from geneformer_grn.workflows.network_scorers import NetworkCells, scorers
from geneformer_grn.workflows.network_settings import NetworkSettings
from geneformer_grn.workflows.regulators import choose_genes, detected

IDENTITY = {
    "CD14+ Monocytes": ("SPI1", "CEBPB"),
    "B cells": ("PAX5", "EBF1"),
    "CD4 T cells": ("GATA3", "TCF7"),
}
METHODS = ("correlation", "spearman", "partial_correlation", "ridge", "attention", "attention_rank_corrected",
           "contextual", "embedding")  # fmt: skip
TOP = 5000
STRONGEST = 50
EVERYONE = "all cells"


def out_strength(pairs: ScoredPairs) -> pd.DataFrame:
    """Return regulator -> degree among the strongest pairs, and mean strength of its own strongest."""
    strength = np.where(pairs.scored, np.abs(pairs.weights), -np.inf)
    cut = np.partition(strength.ravel(), -min(TOP, strength.size))[-min(TOP, strength.size)]
    own = -np.sort(-strength, axis=1)[:, :STRONGEST]
    own = np.where(np.isfinite(own), own, 0.0)
    return pd.DataFrame(
        {"degree": (strength >= cut).sum(axis=1), "strength": own.mean(axis=1)}, index=pairs.regulators
    )


def ranks(values: pd.Series) -> pd.Series:
    """Return ranks from 1, the largest; ties share their mean rank."""
    return values.rank(ascending=False, method="average")


def with_specificity(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return group -> ranks by degree, strength and specificity.

    Specificity is the percentile of the strength in the group less its mean percentile in the others, where
    a regulator that another group does not express has percentile 0.
    """
    everyone = tables.get(EVERYONE)
    types = {group: table for group, table in tables.items() if group != EVERYONE}
    percentile = pd.DataFrame({group: table["strength"].rank(pct=True) for group, table in types.items()})
    percentile = percentile.fillna(0.0)
    found = {}
    for group, table in types.items():
        others = percentile.drop(columns=group).mean(axis=1)
        specific = (percentile[group] - others)[table.index]
        ways = {"degree": table["degree"], "strength": table["strength"], "specificity": specific}
        if everyone is not None:
            ways |= {
                f"{way}, all cells": everyone[way].reindex(table.index) for way in ("degree", "strength")
            }
        found[group] = pd.DataFrame({way: ranks(values) for way, values in ways.items()})
    return found


def own_expression(inside: Expression, outside: Expression, genes: np.ndarray) -> pd.DataFrame:
    """Return ranks by a regulator's own mean, and by how much it is above the other cells' (Welch's t)."""
    (mean, sd), (other, other_sd) = mean_and_sd(inside), mean_and_sd(outside)
    error = np.sqrt(sd**2 / inside.shape[0] + other_sd**2 / outside.shape[0])
    t = np.divide(mean - other, error, out=np.zeros(len(mean)), where=error > 0)
    table = pd.DataFrame({"mean expression": mean, "differential expression": t}, index=genes)
    return table.apply(ranks)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the rows and what shaped them."""
    methods = tuple(arguments.methods)
    settings = NetworkSettings(
        methods=methods, max_targets=300 if arguments.quick else 2000, seed=arguments.seed
    )
    opened = open_cells(
        arguments.cells, OpenSettings(groups=arguments.groups), with_model=settings.needs_model
    )
    cells = NetworkCells(
        expression=log_normalised(opened.counts), counts=opened.counts, vocabulary=opened.vocabulary,
        encoder=opened.encoder,
        ranked=rank_cells(opened.counts, opened.vocabulary) if opened.encoder is not None else None,
    )  # fmt: skip
    groups, _ = group_rows(opened.labels, len(opened.counts), 100)
    missing = sorted(set(IDENTITY) - set(groups))
    if missing:
        raise ValueError(f"no group {', '.join(missing)} of 100 cells; the cells have {', '.join(groups)}")
    regulators, targets = choose_genes(
        opened.counts, cells.expression, opened.vocabulary, regulators="auto", groups=groups,
        max_targets=settings.max_targets, min_support=settings.min_support,
    )  # fmt: skip
    score = scorers(cells, settings, methods)
    draw = np.random.default_rng(arguments.seed)
    tables: dict[str, dict[str, pd.DataFrame]] = {}
    expression, seconds = {}, dict.fromkeys(methods, 0.0)
    for group, rows in {**groups, EVERYONE: np.arange(len(opened.counts))}.items():
        enough = detected(cells.expression, opened.counts, rows, settings.min_support)
        present = [np.array([gene for gene in part if gene in enough]) for part in (regulators, targets)]
        scored: dict[str, ScoredPairs] = {}
        used = methods if group != EVERYONE else [method for method in methods if method in MODEL_FREE]
        few = rows
        if arguments.model_cells is not None and len(rows) > arguments.model_cells:
            few = np.sort(draw.choice(rows, arguments.model_cells, replace=False))
        for method in used:
            begun = time.perf_counter()
            scored |= score[method](few if method in FROM_MODEL else rows, *present)
            seconds[method] += time.perf_counter() - begun
        if len(used) > 1 and len(used) == len(methods):
            scored["combined"] = combined(scored, cells, rows, truth=None, seed=arguments.seed)
        for method, pairs in scored.items():
            tables.setdefault(method, {})[group] = out_strength(pairs)
        if group == EVERYONE:
            continue
        own = pd.Index(cells.gene_ids).get_indexer(opened.vocabulary.ensembl_ids[present[0]])
        others = np.setdiff1d(np.arange(len(opened.counts)), rows)
        inside, outside = cells.expression[rows][:, own], cells.expression[others][:, own]
        expression[group] = own_expression(inside, outside, opened.vocabulary.ensembl_ids[present[0]])
        logger.warning("%s: %d cells, %d regulators × %d targets", group, len(rows), *map(len, present))
    ranked = {method: with_specificity(by_group) for method, by_group in tables.items()}
    return {
        "methods": list(methods),
        "groups": {group: len(rows) for group, rows in groups.items()},
        "rows": list(rows_of(ranked, expression, cells, groups)),
        "seconds": seconds,
    }


def rows_of(
    ranked: dict[str, dict[str, pd.DataFrame]],
    expression: dict[str, pd.DataFrame],
    cells: NetworkCells,
    groups: dict[str, np.ndarray],
) -> list[dict[str, Any]]:
    """Return a row per gene, method and way of ranking: ``rank`` of ``n_regulators``."""
    id_of = dict(zip(cells.vocabulary.symbols, cells.vocabulary.ensembl_ids, strict=True))
    rows = []
    for group, symbols in IDENTITY.items():
        for symbol in symbols:
            gene = id_of[symbol]
            column = np.flatnonzero(cells.gene_ids == gene)
            holding = int(cells.expression[groups[group]][:, column].getnnz())
            tables = {method: by_group[group] for method, by_group in ranked.items()}
            tables["none"] = expression[group]
            for method, table in tables.items():
                for way in table.columns:
                    rank = float(table[way][gene]) if gene in table.index else None
                    rows.append(
                        {"gene": symbol, "group": group, "n_cells_with_gene": holding, "method": method,
                         "by": way, "rank": rank, "n_regulators": len(table)}
                    )  # fmt: skip
    return rows


def markdown(result: dict[str, Any]) -> str:
    """Return the ranks as a table: a line per method and way, a column per gene."""
    frame = pd.DataFrame(result["rows"])
    frame["line"] = frame["method"].where(frame["method"] != "none", "no network") + ", " + frame["by"]
    genes = list(dict.fromkeys(frame["gene"]))
    heads = frame.drop_duplicates("gene").set_index("gene")
    lines = [
        "| ranked by | "
        + " | ".join(f"{gene} ({heads.loc[gene, 'group']})" for gene in genes)
        + " | median |",
        "|---" * (len(genes) + 2) + "|",
        "| regulators ranked | "
        + " | ".join(str(heads.loc[gene, "n_regulators"]) for gene in genes)
        + " | |",
    ]
    for line in dict.fromkeys(frame["line"]):
        part = frame[frame["line"] == line].set_index("gene")["rank"]
        shown = ["–" if pd.isna(part[gene]) else f"{part[gene]:.0f}" for gene in genes]
        lines.append(f"| {line} | {' | '.join(shown)} | {part.median():.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="RESULTS.json")
    parser.add_argument("--quick", action="store_true", help="300 targets instead of 2,000")
    parser.add_argument("--cells", type=Path, required=True, help="the 2,700 blood cells of 10x, labelled")
    parser.add_argument("--groups", default="cell_type")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--model-cells", type=int, help="most cells of a type that the model reads")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    result = measure(arguments)
    result = {
        "device": device(),
        "versions": versions(),
        "conditions": {
            "cells": arguments.cells.name, "groups": result.pop("groups"),
            "methods": result.pop("methods"), "model": "mini",
            "model_cells": arguments.model_cells, "top": TOP,
            "strongest": STRONGEST, "max_targets": 300 if arguments.quick else 2000, "seed": arguments.seed,
            "load_average_before": load,
        },
        **result,
        "ratios": {},
    }  # fmt: skip
    write_json(arguments.out, result)
    print(markdown(result))


if __name__ == "__main__":
    main()
