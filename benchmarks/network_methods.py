"""How fast networks come from counts: ours beside scikit-learn's loop over targets, and beside numpy.

Ridge and elastic net are fitted for every target on all regulators but itself, by ours in one call and by
scikit-learn one target at a time, at the same penalty; their coefficients are compared before any ratio is
written. Correlation of sparse cells is compared with a dense product. README.md says what the keys mean.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measuring import device, versions
from scipy import sparse
from sklearn.linear_model import ElasticNet, Ridge
from threadpoolctl import threadpool_limits

from geneformer_grn._runtime import choose_device, write_json
from geneformer_grn.network.cross_products import correlation_blocks, cross_correlation
from geneformer_grn.network.inference import ridge_edges
from geneformer_grn.network.linear import elastic_net_edges

RIDGE_PENALTY, PENALTY, L1_RATIO = 0.1, 0.05, 0.5
SIZES = {
    "full": {"cells": 5_000, "regulators": 300, "targets": 2_000, "repetitions": 3},
    "quick": {"cells": 2_000, "regulators": 200, "targets": 2_000, "repetitions": 3},
}
N_GENES, N_CELLS, N_REGULATORS, DENSITY = 20_000, 10_000, 1_500, 0.07
RATIOS = {
    "ridge_vs_sklearn": ("ours_ridge", "sklearn_ridge"),
    "elastic_net_vs_sklearn": ("ours_elastic_net", "sklearn_elastic_net"),
    "elastic_net_vs_sklearn_gram": ("ours_elastic_net", "sklearn_elastic_net_gram"),
    "elastic_net_vs_sklearn_default_tolerance": ("ours_elastic_net", "sklearn_elastic_net_loose"),
}
EQUAL_KEYS = ("ridge_vs_sklearn", "elastic_net_vs_sklearn", "elastic_net_vs_sklearn_gram")
EQUAL = 1e-5
"""Largest difference of a coefficient at which two contestants have solved the same problem."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller, once, within 3 minutes on 2 cores")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto", help="where ours solves elastic nets")
    options = parser.parse_args()
    sizes, load = SIZES["quick" if options.quick else "full"], os.getloadavg()[0]
    with one_core():
        rows, differences = regressions(sizes, options.device)
    ratios, ranges = ratios_of(rows)
    too_far = {name: value for name, value in differences.items() if name in EQUAL_KEYS and value > EQUAL}
    if too_far:
        raise SystemExit(f"coefficients differ, so that speeds say nothing: {too_far}")
    more, difference = correlations(full=not options.quick)
    ratios["correlation_vs_dense"] = seconds_of(more, "dense_float32") / seconds_of(more, "ours_1500")
    differences["correlation_vs_dense"] = difference
    write_json(
        options.out,
        {
            "benchmark": "network_methods",
            "device": {**device(), "elastic_net": choose_device(options.device).type},
            "versions": versions("scikit-learn", "numpy", "torch"),
            "conditions": {
                "quick": options.quick, **sizes, "ridge_penalty": RIDGE_PENALTY, "penalty": PENALTY,
                "l1_ratio": L1_RATIO, "regressions_on_cores": 1, "load_average_before": load,
                "correlated": {"cells": N_CELLS, "genes": N_GENES, "regulators": N_REGULATORS,
                               "density": DENSITY},
            },
            "rows": rows + more,
            "ratios": ratios,
            "ratio_ranges": ranges,
            "largest_difference": differences,
        },
    )  # fmt: skip


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Hold this process to one core: small products in several threads wait for each other on a busy host."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
    with threadpool_limits(1):
        if cores:
            os.sched_setaffinity(0, {max(cores)})
        try:
            yield
        finally:
            if cores:
                os.sched_setaffinity(0, cores)


def regressions(sizes: dict[str, int], where: str) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Time every contestant in turn; return the rows, and the largest difference of a coefficient."""
    cells = log_cells(sizes["cells"], sizes["targets"])
    genes = np.array([f"gene{number}" for number in range(sizes["targets"])], dtype=object)
    names = {"regulators": list(genes[: sizes["regulators"]]), "targets": list(genes)}
    standard = (cells - cells.mean(axis=0)) / cells.std(axis=0)
    # ours is timed for all targets, the loops for some of them: a target costs them the same wherever
    some = np.arange(0, sizes["targets"], 20)
    n_cells, n_regulators = sizes["cells"], sizes["regulators"]

    def loop(model: Any, *, gram: bool = False) -> np.ndarray:
        whole = standard[:, :n_regulators].T @ standard[:, :n_regulators] if gram else None
        weights = np.full((n_regulators, len(some)), np.nan)
        for place, target in enumerate(some.tolist()):
            others = np.flatnonzero(np.arange(n_regulators) != target)
            if gram:
                model.set_params(precompute=whole[np.ix_(others, others)])
            weights[others, place] = model.fit(standard[:, others], standard[:, target]).coef_
        return weights

    net = {"alpha": PENALTY, "l1_ratio": L1_RATIO, "fit_intercept": False, "max_iter": 100_000}
    contestants: dict[str, Callable[[], np.ndarray]] = {
        "ours_ridge": lambda: ridge_edges(cells, genes, **names, penalty=RIDGE_PENALTY).weights[:, some],
        "ours_elastic_net": lambda: elastic_net_edges(
            cells, genes, **names, penalty=PENALTY, l1_ratio=L1_RATIO, device=where
        ).weights[:, some],
        "sklearn_ridge": lambda: loop(Ridge(alpha=RIDGE_PENALTY * n_cells, fit_intercept=False)),
        "sklearn_elastic_net": lambda: loop(ElasticNet(**net, tol=1e-10)),
        "sklearn_elastic_net_gram": lambda: loop(ElasticNet(**net, tol=1e-10), gram=True),
        "sklearn_elastic_net_loose": lambda: loop(ElasticNet(**net)),
    }
    small = log_cells(50, 20)
    elastic_net_edges(small, genes[:20], regulators=genes[:5], targets=genes[:20], penalty=0.1, device=where)
    rows, weights = [], {}
    for repetition in range(sizes["repetitions"]):
        for name, contestant in contestants.items():
            n_targets = len(genes) if name.startswith("ours") else len(some)
            begun, cpu = time.perf_counter(), time.process_time()
            weights[name] = contestant()
            rows.append(row(name, repetition, n_targets, begun, cpu))
    return rows, {
        key: float(np.nanmax(np.abs(weights[ours] - weights[other]))) for key, (ours, other) in RATIOS.items()
    }


def row(name: str, repetition: int, n_targets: int, begun: float, cpu: float) -> dict[str, Any]:
    seconds = time.perf_counter() - begun
    found = {
        "name": name, "repetition": repetition, "targets": n_targets, "seconds": seconds,
        "cpu_seconds": time.process_time() - cpu, "targets_per_s": n_targets / seconds,
    }  # fmt: skip
    print(found)
    return found


def ratios_of(rows: list[dict[str, Any]]) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return targets per second of ours over the other's, within each repetition: median and extremes."""
    speeds: dict[str, list[float]] = {}
    for found in rows:
        speeds.setdefault(found["name"], []).append(found["targets_per_s"])
    paired = {key: np.divide(speeds[ours], speeds[other]).tolist() for key, (ours, other) in RATIOS.items()}
    return (
        {key: statistics.median(values) for key, values in paired.items()},
        {key: [min(values), max(values)] for key, values in paired.items()},
    )


def correlations(*, full: bool) -> tuple[list[dict[str, Any]], float]:
    """Time sparse correlations, and the dense product of standardised cells that gives the same."""
    cells = sparse_cells()
    regulators = np.sort(np.random.default_rng(1).choice(N_GENES, N_REGULATORS, replace=False))
    every = np.arange(N_GENES)
    cross_correlation(cells[:100], regulators[:5], every[:50])  # compiles
    rows = []
    begun, cpu = time.perf_counter(), time.process_time()
    ours, _ = cross_correlation(cells, regulators, every)
    rows.append(row("ours_1500", 0, N_GENES, begun, cpu))
    begun, cpu = time.perf_counter(), time.process_time()
    dense, _ = dense_correlation(cells, regulators)
    rows.append(row("dense_float32", 0, N_GENES, begun, cpu))
    difference = float(np.abs(ours - dense).max())
    del ours, dense
    if full:
        begun, cpu = time.perf_counter(), time.process_time()
        for _, block, _ in correlation_blocks(cells, every, every, rows_per_block=2_000):
            del block
        rows.append(row("ours_all_pairs", 0, N_GENES, begun, cpu))
    return rows, difference


def dense_correlation(cells: sparse.csr_matrix, regulators: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return correlation and shared cells by two dense products in float32."""
    values = cells.toarray()
    present = (values > 0).astype(np.float32)
    support = present[:, regulators].T @ present
    del present
    values -= values.mean(axis=0)
    sd = np.sqrt((values**2).mean(axis=0))
    values /= np.where(sd > 0, sd, 1.0)
    return values[:, regulators].T @ values / len(values), support


def seconds_of(rows: list[dict[str, Any]], name: str) -> float:
    return next(found["seconds"] for found in rows if found["name"] == name)


def log_cells(n_cells: int, n_genes: int) -> np.ndarray:
    """Draw cells of ten programmes and of different depth; genes differ in level; log-normalised counts."""
    rng = np.random.default_rng(0)
    programmes = rng.gamma(0.5, size=(n_cells, 10)) @ rng.lognormal(0.0, 1.0, (10, n_genes))
    depth = rng.lognormal(0.0, 0.4, (n_cells, 1))
    counts = rng.poisson(programmes * depth * rng.lognormal(-1.0, 1.0, n_genes)).astype(np.float64)
    counts[0] += 1.0  # no gene is silent
    return np.log1p(counts / counts.sum(axis=1, keepdims=True) * n_genes)


def sparse_cells() -> sparse.csr_matrix:
    """Draw log-normalised counts of log-normal genes, 1,000 cells again and again."""
    rng = np.random.default_rng(0)
    shares = rng.lognormal(0.0, 2.0, N_GENES)
    shares /= shares.sum()
    depth = 1.0
    while (1 - np.exp(-depth * shares)).mean() < DENSITY:
        depth *= 1.02
    drawn = sparse.csr_matrix(rng.poisson(depth * shares, (1_000, N_GENES)).astype(np.float32))
    drawn.data = np.log1p(drawn.data)
    return sparse.csr_matrix(sparse.vstack([drawn] * (N_CELLS // 1_000), format="csr"))


if __name__ == "__main__":
    main()
