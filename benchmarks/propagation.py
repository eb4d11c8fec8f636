"""Knock-outs predicted from unperturbed cells, against what truly follows in simulated networks.

Every method is handed the same cells, their types and who regulates; only the rows called ``true_*`` know
more of the network, and ``mean_effect`` and ``linear_on_components`` know the other knock-outs' true
effects. The control is the marginal covariance within cell types: what co-expression alone says. Predictions
and truth are changes of noise-free levels, averaged over the cell types; the knocked-out gene does not count.
Knock-outs that move no other gene have no r.

``summary``: genes -> depth -> card, over all seeds (see `geneformer_grn.evaluation.propagation.compare`).
``goals``: the same for the method held against them. ``rows``: every method in every simulation, its means
over knock-outs and seconds, or why it refused. ``ratios`` is empty: methods are compared, not speeds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from measuring import device, versions

from geneformer_grn._runtime import plain_json, write_json
from geneformer_grn.evaluation.propagation import compare, counted_genes, measures
from geneformer_grn.evaluation.propagation_baselines import linear_on_components, mean_of_others, no_change
from geneformer_grn.network.inference import ridge_edges
from geneformer_grn.network.linear import elastic_net_edges, lasso_edges
from geneformer_grn.network.ordered_response import counting_noise, ordered_response
from geneformer_grn.network.ordering import centred_within, ordered_edges, scaled_levels
from geneformer_grn.network.propagation import PropagationSettings, propagate
from geneformer_grn.network.refit import refit_signed
from geneformer_grn.network.responses import marginal_response
from geneformer_grn.network.scored import ScoredPairs
from geneformer_grn.network.simulated_truth import Simulation, SimulationSettings, recount, simulate
from geneformer_grn.network.topologies import TopologySettings

CONTROL = "covariance"
OURS = "ordered_averaged"
GOALS = {100: 0.80, 400: 0.55}
RANKS_ONLY = frozenset({"walk_ridge"})
LINEAR = PropagationSettings(method="linear")
THREE = PropagationSettings(method="iterated", n_hops=3)


@dataclass(frozen=True, eq=False)
class Cells:
    """What methods are handed: levels and their logarithm, less the means of cell types or not."""

    genes: np.ndarray
    regulators: list[str]
    levels: np.ndarray
    within: np.ndarray
    log_within: np.ndarray
    log_pooled: np.ndarray
    labels: np.ndarray
    noise: np.ndarray | None
    truth: pd.DataFrame
    knocked_out: list[str]

    @property
    def mean(self) -> np.ndarray:
        """Mean levels, ``(g,)``."""
        return self.levels.mean(axis=0)

    @property
    def mean_log(self) -> np.ndarray:
        """Mean of log(1 + level), ``(g,)``."""
        return np.log1p(self.levels).mean(axis=0)

    @property
    def pairs(self) -> dict[str, Any]:
        """Who may regulate whom."""
        return {"regulators": self.regulators, "targets": self.genes.tolist()}


def cells_of(simulation: Simulation, counts: Any, *, clean: bool) -> Cells:
    """Return the cells of one depth."""
    matrix = counts.X if clean else scaled_levels(counts.X).toarray()
    levels = np.asarray(matrix, dtype=np.float64)
    labels = counts.obs["cell_type"].to_numpy(str)
    return Cells(
        genes=np.array(counts.var_names, dtype=object),
        regulators=counts.var_names[counts.var["is_regulator"]].tolist(),
        levels=levels,
        within=centred_within(levels, labels),
        log_within=centred_within(np.log1p(levels), labels),
        log_pooled=np.log1p(levels),
        labels=labels,
        noise=None if clean else counting_noise(counts.X),
        truth=simulation.truth,
        knocked_out=simulation.knockouts.effects["gene"].unique().tolist(),
    )


def along(
    cells: Cells, edges: pd.DataFrame, settings: PropagationSettings, expression: np.ndarray, *, log: bool
) -> np.ndarray:
    """Refit edges to expression, propagate every knock-out; return ``(k, g)`` changes of mean levels."""
    mean = cells.mean_log if log else cells.mean
    signed = edges if settings.method == "walk" else refit_signed(edges, expression, cells.genes)
    start = dict(zip(cells.genes, -mean, strict=True))
    sources = set(signed["source"])
    changes = {gene: start[gene] for gene in cells.knocked_out if gene in sources and start[gene] != 0}
    effects = propagate(signed, changes, settings=settings, lowest=start)
    return as_levels(cells, effects, log=log)


def as_levels(cells: Cells, effects: pd.DataFrame, *, log: bool) -> np.ndarray:
    """Return ``(k, g)`` changes of mean levels; a gene without rows does not change."""
    wide = effects.groupby(["source", "gene"])["effect"].sum().unstack(fill_value=0.0)
    changes = (
        wide.reindex(index=cells.knocked_out, columns=cells.genes, fill_value=0.0).fillna(0.0).to_numpy()
    )
    if log:
        return np.expm1(np.minimum(cells.mean_log + changes, 50.0)) - np.expm1(cells.mean_log)
    return changes


def kept(scored: ScoredPairs) -> pd.DataFrame:
    """Return the pairs with a weight, unselected ones left out."""
    rows, columns = np.nonzero(np.nan_to_num(scored.weights))
    return pd.DataFrame(
        {
            "source": scored.regulators[rows], "target": scored.targets[columns],
            "weight": scored.weights[rows, columns],
        }
    )  # fmt: skip


def true_order(cells: Cells) -> list[str]:
    """Return the regulators in an order in which every true edge leads downwards."""
    inner = cells.truth[cells.truth["target"].isin(cells.regulators)]
    parents = inner.groupby("target")["source"].agg(set).to_dict()
    order: list[str] = []
    while len(order) < len(cells.regulators):
        ready = [g for g in cells.regulators if g not in order and parents.get(g, set()) <= set(order)]
        order += ready or [g for g in cells.regulators if g not in order]
    return order


def methods(cells: Cells) -> dict[str, Callable[[], np.ndarray]]:
    """Return what predicts ``(k, g)`` changes of levels from unperturbed cells."""
    change = dict(zip(cells.genes, -cells.mean, strict=True))
    changes = {gene: change[gene] for gene in cells.knocked_out}
    within, log = cells.within, cells.log_within

    def ridge(expression: np.ndarray) -> pd.DataFrame:
        return kept(ridge_edges(expression, cells.genes, **cells.pairs))

    def ordered(order: list[str] | None = None) -> pd.DataFrame:
        return kept(ordered_edges(cells.levels, cells.genes, **cells.pairs, labels=cells.labels, order=order))

    def covariance(expression: np.ndarray) -> np.ndarray:
        return as_levels(cells, marginal_response(expression, cells.genes, changes), log=False)

    def lasso() -> pd.DataFrame:
        return kept(lasso_edges(within, cells.genes, **cells.pairs))

    def elastic_net() -> pd.DataFrame:
        return kept(elastic_net_edges(within, cells.genes, **cells.pairs))

    def averaged(noise: np.ndarray | None) -> np.ndarray:
        effects = ordered_response(
            cells.levels, cells.genes, changes, regulators=cells.regulators, labels=cells.labels, noise=noise
        )
        return as_levels(cells, effects, log=False)

    truth = cells.truth.assign(weight=1.0)
    return {
        "covariance": lambda: covariance(within),
        "covariance_all_types": lambda: covariance(cells.levels),
        "ordered": lambda: along(cells, ordered(), LINEAR, within, log=False),
        "ordered_averaged": lambda: averaged(cells.noise),
        "ordered_averaged_as_counted": lambda: averaged(None),
        "ordered_three_steps": lambda: along(cells, ordered(), THREE, within, log=False),
        "ordered_log": lambda: along(cells, ordered(), LINEAR, log, log=True),
        "ridge_three_steps": lambda: along(cells, ridge(within), THREE, within, log=False),
        "ridge_three_steps_log": lambda: along(cells, ridge(log), THREE, log, log=True),
        "ridge_three_steps_log_all_types": lambda: along(
            cells, ridge(cells.log_pooled), THREE, cells.log_pooled, log=True
        ),
        "ridge_linear": lambda: along(cells, ridge(within), LINEAR, within, log=False),
        "lasso_three_steps": lambda: along(cells, lasso(), THREE, within, log=False),
        "elastic_net_three_steps": lambda: along(cells, elastic_net(), THREE, within, log=False),
        "walk_ridge": lambda: along(
            cells, ridge(within), PropagationSettings(method="walk"), within, log=False
        ),
        "true_order": lambda: along(cells, ordered(true_order(cells)), LINEAR, within, log=False),
        "true_network": lambda: along(cells, truth, LINEAR, within, log=False),
        "true_network_log": lambda: along(cells, truth, LINEAR, log, log=True),
    }


def one_depth(
    simulation: Simulation, cells: Cells, top: int
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, float], dict[str, str]]:
    """Return per method its values for every knock-out and its seconds; methods that refuse, with why."""
    effects = simulation.knockouts.effects
    wide = {
        column: effects.groupby(["gene", "affected"])[column].mean().unstack()
        .reindex(index=cells.knocked_out, columns=cells.genes).to_numpy()
        for column in ("effect", "control")
    }  # fmt: skip
    measured = wide["effect"]
    perturbed = np.array([cells.genes.tolist().index(gene) for gene in cells.knocked_out])
    where = counted_genes(measured.shape, perturbed)
    # depth and outlier genes change the units: relative changes do not depend on them
    unit = np.divide(wide["control"][0], cells.mean, out=np.zeros(len(cells.genes)), where=cells.mean > 0)
    predicted = {
        "no_change": no_change(measured), "mean_effect": mean_of_others(measured),
        "linear_on_components": linear_on_components(measured, perturbed),
    }  # fmt: skip
    seconds, refused = {}, {}
    for name, method in methods(cells).items():
        begun = time.perf_counter()
        try:
            predicted[name] = method() * unit
        except ValueError as error:
            refused[name] = str(error)
        seconds[name] = time.perf_counter() - begun
    values = {
        name: measures(array, measured, where, top=top, ranks_only=name in RANKS_ONLY)
        for name, array in predicted.items()
    }
    return values, seconds, refused


def pooled(parts: list[dict[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
    """Return values of several simulations as one, of the methods that answered in all of them."""
    names = [name for name in parts[0]["values"] if all(name in part["values"] for part in parts)]
    return {
        name: {key: np.concatenate([part["values"][name][key] for part in parts]) for key in measured}
        for name in names
        for measured in [parts[0]["values"][name]]
    }


def simulated(asked: argparse.Namespace, n_genes: int, seed: int) -> list[dict[str, Any]]:
    """Return what every method does in one simulation, a part a depth; finished ones are read again."""
    kept = None if asked.parts is None else asked.parts / f"{n_genes}_genes_seed_{seed}.json"
    conditions = {"cells": asked.cells, "umi": asked.umi, "top": asked.top}
    if kept is not None and kept.is_file():
        found = json.loads(kept.read_text(encoding="utf-8"))
        if found["conditions"] != conditions:
            raise SystemExit(f"{kept} was measured under {found['conditions']}, asked are {conditions}")
        parts = found["parts"]
    else:
        topology = TopologySettings(n_genes=n_genes)
        settings = SimulationSettings(
            topology=topology, n_cells=asked.cells, n_knockouts=topology.regulators, perturbed_cells=1,
            names="synthetic",
        )  # fmt: skip
        simulation = simulate(settings, seed=seed)
        parts = []
        for depth, counts in recount(simulation, [None, *asked.umi]).items():
            cells = cells_of(simulation, counts, clean=depth == "clean")
            values, seconds, refused = one_depth(simulation, cells, asked.top)
            about = {"genes": n_genes, "depth": depth, "seed": seed}
            parts.append({**about, "values": values, "seconds": seconds, "refused": refused})
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_json(kept, {"conditions": conditions, "parts": plain_json(parts)})
    for part in parts:
        part["values"] = {
            name: {key: np.array(array, dtype=np.float64) for key, array in of_method.items()}
            for name, of_method in part["values"].items()
        }
    return parts


def rows_of(part: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row for every method of a part: means over knock-outs and seconds, or why it refused."""
    about = {key: part[key] for key in ("genes", "depth", "seed")}
    rows = []
    for name, of_method in part["values"].items():
        means = {key: float(np.nanmean(array)) for key, array in of_method.items()}
        rows.append({**about, "method": name, **means, "seconds": part["seconds"].get(name)})
    return rows + [{**about, "method": name, "refused": why} for name, why in part["refused"].items()]


def goal_of(n_genes: int, card: dict[str, Any]) -> dict[str, Any]:
    """Return the method held against the goals: its r, and by how much it beats the control, paired."""
    return {
        "goal": GOALS[n_genes],
        "r": card["methods"][OURS]["r"],
        "more_than_covariance": card["against_control"][OURS]["r"],
    }


def main() -> None:
    """Write how near predicted knock-outs come to true ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="one small simulation")
    parser.add_argument("--genes", type=int, nargs="+", default=list(GOALS))
    parser.add_argument("--cells", type=int, default=2_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--umi", type=float, nargs="+", default=[5_000, 1_000])
    parser.add_argument("--top", type=int, default=20)
    parser.add_argument("--parts", type=Path, help="folder that keeps each simulation, to go on after a stop")
    asked = parser.parse_args()
    if asked.quick:
        asked.genes, asked.cells, asked.seeds, asked.umi = asked.genes[:1], min(asked.cells, 600), 1, [5_000]
    result: dict[str, Any] = {
        "device": device(), "versions": versions("scipy", "scikit-learn"),
        "conditions": {key: value for key, value in vars(asked).items() if key not in {"out", "parts"}}
        | {"goals": GOALS},
        "summary": {}, "goals": {}, "ratios": {}, "rows": [],
    }  # fmt: skip
    for n_genes in asked.genes:
        parts: dict[str, list[dict[str, Any]]] = {}
        for seed in range(asked.seeds):
            for part in simulated(asked, n_genes, seed):
                parts.setdefault(part["depth"], []).append(part)
                result["rows"] += rows_of(part)
        cards = {depth: compare(pooled(of_depth), control=CONTROL) for depth, of_depth in parts.items()}
        result["summary"][str(n_genes)] = cards
        if n_genes in GOALS:
            result["goals"][str(n_genes)] = {depth: goal_of(n_genes, card) for depth, card in cards.items()}
    write_json(asked.out, result)


if __name__ == "__main__":
    main()
