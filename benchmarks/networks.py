"""Every way to get a gene network, against every truth there is: one table, each method beside its baselines.

``rows``: a method in a case (cells and a truth), with intervals over regulators from 20 regulators on.
``comparisons``: paired differences within a case. ``summary`` and ``goals``: what is asked of the combination
and of edges out of the model, over the cases. Cases that the JSON already holds are not run again. Settings
and sizes were settled on simulated networks of other seeds; README.md says what the columns mean.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import network_methods
import numpy as np
import pandas as pd
import torch
from measuring import device, versions
from network_cases import SELECTED, UNTRAINED, Case, blood, published, shared_data, simulated
from network_summary import goals_of, summary_of
from threadpoolctl import threadpool_limits

from geneformer_grn._runtime import write_json
from geneformer_grn.evaluation.networks import (
    FEWEST_REGULATORS,
    Pairs,
    describe_pairs,
    judged_pairs,
    resampled,
    score_strengths,
)
from geneformer_grn.evaluation.residual import Covariates, by_covariates, residual
from geneformer_grn.metrics import average_precision
from geneformer_grn.network.combination import aggregate_ranks, best_source, fit_combination
from geneformer_grn.network.folds import FOLDS
from geneformer_grn.network.inference import correlation_edges
from geneformer_grn.network.known_pairs import known_pairs
from geneformer_grn.network.pair_features import gene_traits
from geneformer_grn.network.scored import ScoredPairs
from geneformer_grn.network.truth import Truth, canonical_genes

SIZES: dict[str, dict[str, Any]] = {
    "full": {
        "genes": 400, "cells": 2_000, "depths": ("clean", "5k", "1k", "100"), "seeds": 3, "resamples": 500,
        "targets": 600, "support": 50, "model_cells": 100,
        "model_methods": ("attention", "attention_rollout", "embedding", "contextual", "gene_shifts",
                          "influence"),
    },
    "quick": {
        "genes": 120, "cells": 300, "depths": ("clean", "1k"), "seeds": 1, "resamples": 100,
        "targets": 100, "support": 300, "model_cells": 30, "model_methods": ("attention", "embedding"),
        "truths": ("TRRUST", "DoRothEA A-C"),
    },
}  # fmt: skip
PARTS = ("simulated", "published", "blood", "speed")
GENE_LEVEL = ("target mean", "target variance", "target detection")
DEGREE = "target degree"


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="small, within 3 minutes on 2 cores")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    asked = parser.parse_args()
    sizes = SIZES["quick" if asked.quick else "full"]
    result = opened(asked.out, {"quick": asked.quick, "threads": 1, **sizes})
    torch.set_num_threads(1)
    with threadpool_limits(1):  # small products in several threads wait for each other on a busy machine
        run(asked.only, sizes, result, asked.out, quick=asked.quick)


def run(parts: list[str], sizes: dict[str, Any], result: dict[str, Any], out: Path, *, quick: bool) -> None:
    """Run what is missing, writing after each case and truth."""
    done = {(row["case"], row["depth"], row["seed"], row["truth"]) for row in result["rows"]}
    for case in cases(parts, sizes, done):
        scored, costs = run_sources(case)
        for name, truth in case.truths.items():
            if (case.name, case.depth, case.seed, name) in done:
                continue
            rows, compared = judge(case, truth, name, scored, costs, n=sizes["resamples"])
            result["rows"] += rows
            result["comparisons"] += compared
            if case.model_based:  # an earlier call may have had another model
                result["versions"] |= versions()
            finish(result, out)
    if "speed" in parts and not result["ratios"]:
        result["ratios"] = speed(quick=quick)
    finish(result, out)


def opened(out: Path, conditions: dict[str, Any]) -> dict[str, Any]:
    """Return the results so far, or empty ones."""
    conditions = json.loads(json.dumps(conditions))
    if out.is_file():
        result = json.loads(out.read_text(encoding="utf-8"))
        if result["conditions"] != conditions:
            raise SystemExit(f"{out.name} holds results of other conditions; give another file")
        return dict(result)
    return {
        "benchmark": "networks", "device": device(), "versions": versions("scikit-learn", "numpy", "torch"),
        "conditions": conditions, "notes": notes(), "summary": {}, "goals": {}, "ratios": {}, "rows": [],
        "comparisons": [],
    }  # fmt: skip


def notes() -> list[str]:
    return [
        "genie3 has 10 trees and grnboost at most 50, on at most 1,000 cells, graph_autoencoder 100 epochs; "
        "these three and graphical_lasso run on the first simulated network and the published sets only; "
        "methods with a limit of genes are left out above it",
        "gene_shifts and influence take each regulator out of 5 cells",
        "out-of-fold scores (combined, best_single, target degree, attention_selected) of a regulator never "
        "see its own edges; the residual of such a score is optimistic all the same, since the fits behind "
        "it saw edges of regulators in the residual's own test folds",
        "seconds and memory are of one run on a shared machine",
    ]


def finish(result: dict[str, Any], out: Path) -> None:
    result["summary"] = summary_of(result["rows"], result["comparisons"])
    result["goals"] = goals_of(result["rows"], result["comparisons"])
    write_json(out, result)


def cases(parts: list[str], sizes: Mapping[str, Any], done: set[tuple[Any, ...]]) -> Iterator[Case]:
    """Yield the cases that are not done."""
    if "simulated" in parts:
        for seed in range(sizes["seeds"]):
            missing = [d for d in sizes["depths"] if ("simulated", d, seed, "simulated") not in done]
            if missing:
                yield from simulated(seed, {**sizes, "depths": missing})
    data = shared_data()
    if not data.is_dir():
        return
    finished = {(name, truth) for name, _, _, truth in done}
    if "published" in parts:
        for case in published(data):
            if any((case.name, truth) not in finished for truth in case.truths):
                yield case
    if "blood" in parts:
        for case in blood(data, sizes):
            if any((case.name, truth) not in finished for truth in case.truths):
                yield case


def run_sources(case: Case) -> tuple[dict[str, ScoredPairs], dict[str, dict[str, float]]]:
    """Score the case by every source, timed."""
    scored, costs = {}, {}
    for name, source in case.sources.items():
        scored[name], costs[name] = measured(source)
    return scored, costs


def measured(source: Callable[[], ScoredPairs]) -> tuple[ScoredPairs, dict[str, float]]:
    """Return what a source says, its seconds, and by how many megabytes memory rose at most."""
    before = _memory("VmRSS", reset=True)
    begun, cpu = time.perf_counter(), time.process_time()
    found = source()
    cost = {"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - cpu}
    return found, cost | {"peak_mb": max(_memory("VmHWM") - before, 0.0)}


def _memory(field: str, *, reset: bool = False) -> float:
    """Return megabytes of this process; NaN where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return float("nan")
    if reset and os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def judge(
    case: Case,
    truth: Truth,
    name: str,
    scored: dict[str, ScoredPairs],
    costs: dict[str, dict[str, float]],
    *,
    n: int,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows and the paired comparisons of one truth."""
    own, costs = dict(scored), dict(costs)
    for method, source in case.by_truth.items():
        own[method], costs[method] = measured(lambda source=source: source(truth))
    pairs = judged_pairs(case.regulators, case.targets, truth)
    traits = gene_traits(case.expression, case.genes)
    baselines = gene_level(case, truth, traits)
    trained = {method: each for method, each in own.items() if not method.startswith(UNTRAINED)}
    chosen: dict[str, Any] = {}
    try:
        combined, costs["combined"] = measured(
            lambda: _kept(chosen, "combined", fit_combination(trained, truth, traits=traits))
        )
        best = best_source(trained | baselines, truth)
        chosen["best_single"] = best.chosen
        own |= {"combined": combined, "best_single": best.scores}
        if case.model_based:
            free = {method: each for method, each in trained.items() if method not in case.model_based}
            own["combined_without_model"] = fit_combination(free, truth, traits=traits).scores
    except ValueError as error:
        chosen["refused"] = str(error)
    own["rank_aggregate"], costs["rank_aggregate"] = measured(
        lambda: aggregate_ranks({m: each for m, each in trained.items() if m != SELECTED})
    )
    strengths = {method: laid_out(each, pairs) for method, each in (own | baselines).items()}
    strength = laid_out(_correlation(case), pairs)
    covariates = Covariates(
        correlation=np.where(strength < 0, np.nan, strength),
        mean=_of_targets(traits.mean, case, pairs), variance=_of_targets(traits.variance, case, pairs),
        detection=_of_targets(traits.detection, case, pairs),
    )  # fmt: skip
    without = by_covariates(pairs, covariates)
    facts = {"case": case.name, "depth": case.depth, "seed": case.seed, "truth": name}
    facts |= {key: value for key, value in describe_pairs(pairs, {}).items() if key != "truth"}
    facts["counted"] = not truth.circular and len(pairs.regulators) >= FEWEST_REGULATORS
    rows = []
    for method, strength in strengths.items():
        row = {**facts, "method": method, "kind": kind_of(method, case)} | score_strengths(
            strength, pairs, n=n
        )
        row |= {"residual": residual(strength, pairs, covariates, n=n, without=without)} | costs.get(
            method, {}
        )
        row |= {"chosen": list(chosen[method])} if method in chosen else {}
        row |= calibrated(strength, pairs) if method.startswith("combined") else {}
        rows.append(row)
        print(
            {key: row[key] for key in ("case", "depth", "seed", "truth", "method", "auprc_ratio")}, flush=True
        )
    return rows, comparisons(strengths, pairs, facts, n=n)


def _kept(chosen: dict[str, Any], name: str, found: Any) -> ScoredPairs:
    chosen[name] = found.chosen
    return found.scores


def _correlation(case: Case) -> ScoredPairs:
    return correlation_edges(case.expression, case.genes, regulators=case.regulators, targets=case.targets)


def kind_of(method: str, case: Case) -> str:
    if method in (*GENE_LEVEL, DEGREE):
        return "gene-level"
    if method.startswith(UNTRAINED):
        return "untrained"
    if method in case.model_based:
        return "model"
    return "single" if method in case.sources else "combination"


def gene_level(case: Case, truth: Truth, traits: Any) -> dict[str, ScoredPairs]:
    """Return rankings that know the target only: its expression, and how many other regulators it has."""
    like = _correlation(case)
    place = pd.Index(case.genes).get_indexer(like.targets)
    found = {}
    for name, values in zip(GENE_LEVEL, (traits.mean, traits.variance, traits.detection), strict=True):
        found[name] = _by_target(like, np.broadcast_to(values[place], like.weights.shape), name)
    try:
        known = known_pairs(like, truth)
    except ValueError:
        return found
    degree = np.zeros(like.weights.shape)
    for fold in range(-1, FOLDS):
        others = (known.fold >= 0) & (known.fold != fold)
        degree[known.fold == fold] = (known.known & known.judged)[others].sum(axis=0)
    return found | {DEGREE: _by_target(like, degree, DEGREE)}


def _by_target(like: ScoredPairs, values: np.ndarray, name: str) -> ScoredPairs:
    return ScoredPairs(
        regulators=like.regulators, targets=like.targets, weights=values.astype(np.float32),
        support=like.support, method=name, signed=False,
    )  # fmt: skip


def _of_targets(values: np.ndarray, case: Case, pairs: Pairs) -> np.ndarray:
    return values[pd.Index(canonical_genes(case.genes)).get_indexer(pairs.targets)]


def laid_out(scored: ScoredPairs, pairs: Pairs) -> np.ndarray:
    """Return ``(R, T)`` strengths of the judged pairs, -1 where there is no score."""
    row = pd.Index(canonical_genes(scored.regulators)).get_indexer(pairs.regulators)
    column = pd.Index(canonical_genes(scored.targets)).get_indexer(pairs.targets)
    return np.nan_to_num(np.abs(scored.weights[np.ix_(row, column)].astype(np.float64)), nan=-1.0)


def calibrated(probability: np.ndarray, pairs: Pairs) -> dict[str, float]:
    """Return how far probabilities are from shares, over ten bins of equal numbers, and their mean."""
    labels, said = pairs.known[pairs.judged], probability[pairs.judged]
    bins = np.array_split(np.argsort(said, kind="stable"), 10)
    error = sum(len(each) * abs(said[each].mean() - labels[each].mean()) for each in bins) / len(said)
    return {"calibration_error": float(error), "mean_probability": float(said.mean())}


def comparisons(
    strengths: dict[str, np.ndarray], pairs: Pairs, facts: dict[str, Any], *, n: int
) -> list[dict[str, Any]]:
    """Return paired differences of AUPRC ratio: combinations to what they have to beat, models to twins."""
    asked = [("combined", other) for other in ("best_single", *GENE_LEVEL, DEGREE, "combined_without_model")]
    asked += [("rank_aggregate", "best_single")]
    asked += [
        (method.removeprefix(UNTRAINED), method) for method in strengths if method.startswith(UNTRAINED)
    ]
    labels, drawn, found = pairs.known[pairs.judged], {}, []
    for method, other in asked:
        if method not in strengths or other not in strengths:
            continue
        areas = [average_precision(labels, strengths[each][pairs.judged]) for each in (method, other)]
        one = {key: facts[key] for key in ("case", "depth", "seed", "truth", "counted", "n_regulators")}
        one |= {"method": method, "other": other, "difference": (areas[0] - areas[1]) / pairs.density}
        if len(pairs.regulators) >= FEWEST_REGULATORS:
            for each in (method, other):
                if each not in drawn:
                    drawn[each] = resampled(strengths[each], pairs, n=n)["auprc_ratio"]
            difference = drawn[method] - drawn[other]
            low, high = np.nanquantile(difference, [0.025, 0.975])
            one |= {"low": float(low), "high": float(high), "sd": float(np.nanstd(difference))}
        found.append(one)
    return found


def speed(*, quick: bool) -> dict[str, float]:
    """Return how fast regressions are beside scikit-learn's loop over targets, in the same run."""
    sizes = {"cells": 500, "regulators": 60, "targets": 200, "repetitions": 1}
    with network_methods.one_core():
        rows, differences = network_methods.regressions(
            sizes if quick else {**network_methods.SIZES["quick"], "repetitions": 1}, "cpu"
        )
    keys = ("ridge_vs_sklearn", "elastic_net_vs_sklearn")
    too_far = {key: differences[key] for key in keys if differences[key] > network_methods.EQUAL}
    if too_far:
        raise SystemExit(f"coefficients differ, so that speeds say nothing: {too_far}")
    ratios, _ = network_methods.ratios_of(rows)
    return {key: ratios[key] for key in keys}


if __name__ == "__main__":
    main()
