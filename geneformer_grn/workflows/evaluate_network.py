"""``evaluate network``: the score card of any edge table, beside correlation and gene-level baselines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geneformer_grn._runtime import library_versions, logger, write_json
from geneformer_grn.cells.counts import log_normalised
from geneformer_grn.evaluation.networks import (
    Pairs,
    compare,
    describe_pairs,
    judged_pairs,
    lay_out,
    score_signs,
    score_strengths,
)
from geneformer_grn.evaluation.null_networks import against_random_networks, random_networks
from geneformer_grn.evaluation.residual import Covariates, gene_level_scores, residual, target_degree
from geneformer_grn.network.edges import Universe, read_universe
from geneformer_grn.network.formats import read_network
from geneformer_grn.network.inference import Expression, correlation_edges, mean_and_sd
from geneformer_grn.network.truth import Truth, canonical_genes, read_truth
from geneformer_grn.workflows.cells import OpenSettings, open_cells


@dataclass(frozen=True, kw_only=True)
class NetworkCardSettings:
    """How an edge table is scored.

    Parameters
    ----------
    confidence
        Keep only truth edges of these classes.
    circular
        Why the truth is not independent of expression, if so.
    n_null
        Random networks of the same degrees; 0: none.
    seed
        Of bootstrap, folds and random networks.
    """

    confidence: tuple[str, ...] | None = None
    circular: str = ""
    n_null: int = 100
    seed: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class KnownExpression:
    """Cells whose expression the baselines are computed from.

    Parameters
    ----------
    matrix
        ``(n, g)`` log-normalised expression.
    genes
        ``(g,)`` canonical names.
    labels
        ``(n,)`` group of each cell, or None.
    """

    matrix: Expression
    genes: np.ndarray
    labels: np.ndarray | None = None

    def of_group(self, group: str) -> Expression:
        """Return the cells of a group, or all of them where groups are not known."""
        if self.labels is None or group in {"", "all"}:
            return self.matrix
        rows = np.flatnonzero(self.labels == group)
        if not len(rows):
            raise ValueError(
                f"no cell is in group {group!r} of the edge table; the cells have "
                f"{', '.join(map(repr, sorted(set(self.labels))[:10]))}"
            )
        return self.matrix[rows]


def evaluate_network_file(
    edges: Path | str,
    truth: Path | str,
    settings: NetworkCardSettings | None = None,
    *,
    cells: tuple[Path | str, OpenSettings] | None = None,
    out: Path | str | None = None,
) -> dict[str, Any]:
    """Score an edge table, ours or anyone's, against known edges.

    Parameters
    ----------
    edges
        Edge table; the universe is read from beside it, and is the genes of the table where there is none.
    truth
        Known edges, see `geneformer_grn.network.truth.read_truth`.
    settings
        See `NetworkCardSettings`.
    cells
        A file of cells, and how it is opened: adds baselines (correlation, mean, variance, detection; the
        target's degree in the truth needs none) and what the edges add to them.
    out
        JSON file to write the card to.

    Returns
    -------
    dict
        ``kind`` "network", ``file``, ``comparison``, ``rows`` (one per group and method, see
        `network_card`), ``baselines``, ``conditions``, ``versions``.

    Raises
    ------
    FileNotFoundError, ValueError
        A file cannot be used, or the edges and the truth have no gene in common.
    """
    settings = settings or NetworkCardSettings()
    table, universe = read_network(edges), read_universe(edges)
    known = read_truth(truth, confidence=settings.confidence, circular=settings.circular)
    if universe is None:
        logger.warning("%s has no universe beside it: its own genes are taken for it", Path(edges).name)
    expression = None if cells is None else _expression(*cells, universe)
    card = network_card(table, known, universe=universe, expression=expression, settings=settings)
    results = {"kind": "network", "file": Path(edges).name, **card, "versions": library_versions()}
    if out is not None:
        write_json(out, results)
        logger.info("wrote %s", out)
    return results


def network_card(
    edges: pd.DataFrame,
    truth: Truth,
    *,
    universe: Universe | None = None,
    expression: KnownExpression | None = None,
    settings: NetworkCardSettings | None = None,
) -> dict[str, Any]:
    """Score every group and method of an edge table.

    Parameters
    ----------
    edges
        Checked edge table.
    truth
        Known edges.
    universe
        What was scored; None: the table's genes.
    expression
        For baselines and the residual.
    settings
        See `NetworkCardSettings`.

    Returns
    -------
    dict
        ``comparison`` (sizes and density); ``rows``: ``group``, ``method``, ``n_edges`` and the scores of
        `score_strengths` and `score_signs`, ``random_networks``, with expression also ``residual`` and
        ``against_correlation``; ``baselines``: the same scores per group; ``conditions``.
    """
    settings = settings or NetworkCardSettings()
    regulators = universe.regulators if universe else tuple(edges["source"].unique())
    targets = universe.targets if universe else tuple(edges["target"].unique())
    pairs = judged_pairs(regulators, targets, truth)
    networks = random_networks(pairs, n=settings.n_null, seed=settings.seed)
    rows, baselines, degree = [], [], target_degree(pairs, seed=settings.seed)
    for group, tables in _by_group(edges):
        covariates = (
            None if expression is None else covariates_of(expression.of_group(group), expression, pairs)
        )
        scored = {} if covariates is None else gene_level_scores(covariates, pairs)
        scored |= degree
        for name, strength in scored.items():
            found = score_strengths(strength, pairs, seed=settings.seed)
            baselines.append({"group": group, "method": name, **found})
        for method, table in tables:
            rows.append({"group": group, "method": method, "n_edges": len(table)})
            rows[-1] |= _scores(table, pairs, networks, covariates=covariates, seed=settings.seed)
    return {
        "comparison": describe_pairs(pairs, {"regulators": len(regulators), "targets": len(targets)}),
        "rows": rows,
        "baselines": baselines,
        "conditions": {
            "confidence": settings.confidence, "n_null": settings.n_null, "seed": settings.seed,
            "universe": "stored with the edges" if universe else "the genes of the table",
        },
    }  # fmt: skip


def covariates_of(matrix: Expression, expression: KnownExpression, pairs: Pairs) -> Covariates:
    """Return what correlation and the targets' own expression say of the pairs; unknown genes are silent."""
    shape = pairs.known.shape
    place = pd.Index(expression.genes)
    row, column = place.get_indexer(pairs.regulators), place.get_indexer(pairs.targets)
    mean, sd = mean_and_sd(matrix)
    detection = np.asarray((matrix > 0).mean(axis=0)).ravel()
    correlation = np.full(shape, np.nan)
    if (row >= 0).any() and (column >= 0).any():
        scored = correlation_edges(
            matrix, expression.genes,
            regulators=list(pairs.regulators[row >= 0]), targets=list(pairs.targets[column >= 0]),
        )  # fmt: skip
        correlation[np.ix_(row >= 0, column >= 0)] = np.abs(scored.weights)
    of_target = [np.where(column >= 0, values[column], 0.0) for values in (mean, sd**2, detection)]
    return Covariates(
        correlation=correlation, mean=of_target[0], variance=of_target[1], detection=of_target[2]
    )


def _scores(
    table: pd.DataFrame, pairs: Pairs, networks: np.ndarray, *, covariates: Covariates | None, seed: int
) -> dict[str, Any]:
    """Return all scores of the edges of one group and method."""
    strength, sign = lay_out(table, pairs)
    found = score_strengths(strength, pairs, seed=seed) | score_signs(strength, sign, pairs)
    found["n_judged"] = int((strength >= 0).sum())
    if len(networks):
        found["random_networks"] = against_random_networks(strength, pairs, networks)
    if covariates is not None:
        correlation = gene_level_scores(covariates, pairs)["|r|"]
        found["against_correlation"] = compare(strength, correlation, pairs, seed=seed)
        found["residual"] = residual(strength, pairs, covariates, seed=seed)
    return found


def _by_group(edges: pd.DataFrame) -> Iterator[tuple[str, list[tuple[str, pd.DataFrame]]]]:
    """Yield each group with its tables by method, in the order of the table."""
    named = edges.assign(
        group=edges.get("group", pd.Series("", index=edges.index)),
        method=edges.get("method", pd.Series("", index=edges.index)),
    )
    for group, part in named.groupby("group", sort=False):
        yield str(group), [(str(method), table) for method, table in part.groupby("method", sort=False)]


def _expression(cells: Path | str, opening: OpenSettings, universe: Universe | None) -> KnownExpression:
    groups = opening.groups or (universe.groups_column if universe else None)
    opened = open_cells(cells, OpenSettings(**{**vars(opening), "groups": groups}), with_model=False)
    return KnownExpression(
        matrix=log_normalised(opened.counts),
        genes=canonical_genes(opened.vocabulary.ensembl_ids[opened.counts.column_tokens]),
        labels=opened.labels,
    )


def card_table(card: dict[str, Any]) -> str:
    """Return the card as Markdown: the comparison, then a line per method and per baseline."""
    sizes = card["comparison"]
    note = f" Circular: {sizes['circular']}." if sizes["circular"] else ""
    lines = [
        f"{sizes['truth']}: {sizes['n_true']:,} known edges among {sizes['n_regulators']:,} regulators × "
        f"{sizes['n_targets']:,} targets ({100 * sizes['density']:.2f} %).{note}",
        "",
        "| group | method | AUPRC ratio | EPR | AUROC | sign | beyond the covariates (AUPRC) |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in [*card["rows"], *card["baselines"]]:
        shown = [_with_interval(row, name) for name in ("auprc_ratio", "epr", "auroc")]
        sign = row.get("sign_accuracy", float("nan"))
        gain = row.get("residual") or {}
        beyond = _with_interval(gain, "auprc_gain", digits=4) if gain else "–"
        lines.append(
            f"| {row['group'] or 'all'} | {row['method'] or '–'} | {' | '.join(shown)} | "
            f"{'–' if np.isnan(sign) else f'{100 * sign:.0f} %'} | {beyond} |"
        )
    return "\n".join(lines)


def _with_interval(row: dict[str, Any], name: str, digits: int = 2) -> str:
    value = f"{row[name]:.{digits}f}"
    if f"{name}_low" not in row:
        return value
    return f"{value} ({row[f'{name}_low']:.{digits}f} to {row[f'{name}_high']:.{digits}f})"
