"""Held-out loss as a function of parameters and tokens, with what the runs do and do not identify.

``L(N, D) = E + A / N**a + B / D**b`` by approach 3 of Hoffmann et al. 2022: Huber loss on log L, L-BFGS from
a grid of starts. Tokens seen again count for less (Muennighoff et al. 2023, with the constant they found:
runs of this size cannot fit their own). Intervals are over resampled runs and held-out cells and, where a
size was run with several seeds, over the noise between seeds. A law that the runs do not pin down is called
so instead of being extrapolated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize, nnls
from scipy.special import logsumexp

from geneformer_grn._runtime import write_json
from geneformer_grn.training.config import read_config
from geneformer_grn.training.cost import n_parameters

CONFIGS = Path(__file__).parents[1] / "pretrain" / "configs"
REPEATS_WORTH = 15.39  # R_D* of Muennighoff et al.: after so many repeats the rest is worth nothing
HUBER = 1e-3
LARGEST_EXPONENT = 3.0
NO_EXPONENT = 0.01  # an interval that reaches down to here includes no effect at all
NO_FLOOR = 0.01  # share of the lowest loss; an interval of E that reaches down to here includes no floor
MISFIT = 0.05  # nats, root mean square
WIDEST = 0.3  # nats; a wider predictive interval is no prediction
COVERAGE = 0.9
ASKED = (("v1-10m", 30e6), ("v1-10m", 100e6), ("v2-104m", 30e6), ("v2-104m", 100e6))  # shape, cells
EXPONENTS = np.array([0.05, 0.2, 0.4, 0.8, 1.5])


@dataclass(frozen=True, eq=False)
class Law:
    """A fitted curve.

    Parameters
    ----------
    theta
        ``(5,)`` log A', log B', log E, a, b, with N and D in units of `units`.
    units
        (N, D) that count as 1 inside the fit, so that A' and a hardly depend on each other.
    objective
        Sum of the Huber losses of log L.
    """

    theta: np.ndarray
    units: tuple[float, float]
    objective: float

    def loss(self, n: np.ndarray | float, d: np.ndarray | float) -> np.ndarray:
        """Return nats per hidden gene at `n` parameters and `d` effective tokens."""
        n, d = np.broadcast_arrays(np.atleast_1d(n), np.atleast_1d(d))
        return np.exp(_log_loss(self.theta, np.log(n / self.units[0]), np.log(d / self.units[1]))[0])

    def constants(self) -> dict[str, float]:
        """Return E, A, a, B, b in parameters and tokens."""
        log_a, log_b, log_e, a, b = self.theta
        big_a, big_b = log_a + a * np.log(self.units[0]), log_b + b * np.log(self.units[1])
        values = {"E": np.exp(log_e), "A": np.exp(big_a), "a": a, "B": np.exp(big_b), "b": b}
        return {key: float(value) for key, value in values.items()}


def effective_tokens(tokens: np.ndarray | float, unique: float) -> np.ndarray:
    """Return how many unique tokens `tokens` are worth, of which only `unique` are different."""
    tokens = np.asarray(tokens, dtype=float)
    repeats = np.maximum(tokens / unique - 1.0, 0.0)
    worth = unique * (1.0 + REPEATS_WORTH * -np.expm1(-repeats / REPEATS_WORTH))
    return np.where(tokens <= unique, tokens, worth)


def fit_law(n: np.ndarray, d: np.ndarray, loss: np.ndarray, *, starts: np.ndarray | None = None) -> Law:
    """Fit one law to runs.

    Parameters
    ----------
    n, d, loss
        ``(runs,)`` parameters, effective tokens, nats per hidden gene.
    starts
        ``(k, 5)`` where to begin, in the units of an earlier fit of the same runs; None: a grid of exponents,
        the other constants of each by non-negative least squares.
    """
    units = (float(np.exp(np.log(n).mean())), float(np.exp(np.log(d).mean())))
    x, y, target = np.log(n / units[0]), np.log(d / units[1]), np.log(loss)
    grid = starts is None
    if starts is None:
        starts = np.array([_linear_start(x, y, loss, a, b) for a in EXPONENTS for b in EXPONENTS])
    bounds = [(-15.0, 10.0)] * 3 + [(0.0, LARGEST_EXPONENT)] * 2
    found = [
        minimize(_objective, start, (x, y, target), method="L-BFGS-B", jac=True, bounds=bounds,
                 options={"maxiter": 500 if grid else 150, "ftol": 1e-12, "gtol": 1e-9})
        for start in starts
    ]  # fmt: skip
    best = min(found, key=lambda result: result.fun)
    return Law(best.x, units, float(best.fun))


def _linear_start(x: np.ndarray, y: np.ndarray, loss: np.ndarray, a: float, b: float) -> np.ndarray:
    factors, _ = nnls(np.column_stack([np.exp(-a * x), np.exp(-b * y), np.ones_like(x)]), loss)
    return np.array([*np.log(np.maximum(factors, 1e-3)), a, b])


def _log_loss(theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    log_a, log_b, log_e, a, b = theta
    parts = np.stack([log_a - a * x, log_b - b * y, np.full_like(x, log_e)])
    total = logsumexp(parts, axis=0)
    return total, np.exp(parts - total)


def _objective(
    theta: np.ndarray, x: np.ndarray, y: np.ndarray, target: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return the summed Huber loss over its width, and its gradient: values of order one suit L-BFGS."""
    predicted, shares = _log_loss(theta, x, y)
    off = predicted - target
    small = np.abs(off) <= HUBER
    value = np.where(small, 0.5 * off**2, HUBER * (np.abs(off) - 0.5 * HUBER)).sum() / HUBER
    slope = np.where(small, off, HUBER * np.sign(off)) / HUBER
    gradient = [*(shares @ slope), -(shares[0] * x) @ slope, -(shares[1] * y) @ slope]
    return float(value), np.array(gradient)


def fit_study(result: dict[str, Any], *, draws: int = 200, seed: int = 0) -> dict[str, Any]:
    """Return the fits of a study's rows: of each kind of held-out cells, by either count of parameters."""
    rows, unique = result["rows"], result["conditions"]["corpus_tokens"]
    mean_length = unique / result["conditions"]["corpus_cells"]
    found: dict[str, Any] = {
        "rule": "not identified: fewer than 3 sizes or token budgets, an exponent whose "
        f"{COVERAGE:.0%} interval reaches {NO_EXPONENT:g} or {LARGEST_EXPONENT:g}, an E whose interval "
        f"reaches {NO_FLOOR:.0%} of the lowest loss, or a law that misses the runs by more than {MISFIT:g} "
        f"nats (root mean square); no prediction: not identified, or an interval wider than {WIDEST:g} nats",
        "coverage": COVERAGE, "draws": draws, "repeats_worth": REPEATS_WORTH, "kinds": {},
    }  # fmt: skip
    for kind, held_out in result["held_out"].items():
        blocks = np.array([row["held_out"][kind]["block_loss"] for row in rows])
        masked = np.array(held_out["block_masked"], dtype=float)
        found["kinds"][kind] = {
            measure: _fit_kind(rows, blocks, masked, measure=measure, unique=unique, mean_length=mean_length,
                               shape=result["conditions"]["shape"], draws=draws, seed=seed)
            for measure in ("non_embedding_parameters", "parameters")
        }  # fmt: skip
    return found


def _fit_kind(
    rows: Sequence[dict[str, Any]], blocks: np.ndarray, masked: np.ndarray, *, measure: str, unique: float,
    mean_length: float, shape: dict[str, int], draws: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    n = np.array([row[measure] for row in rows], dtype=float)
    d = effective_tokens([row["tokens"] for row in rows], unique)
    budget = np.array([row["budget"] for row in rows])
    loss = blocks.sum(axis=1) / masked.sum()
    reasons = [
        f"{len(np.unique(values))} different {what}"
        for values, what in ((n, "sizes"), (budget, "token budgets"))
        if len(np.unique(values)) < 3
    ]
    if reasons:
        return {"identified": False, "reasons": reasons, "runs": len(rows)}
    law = fit_law(n, d, loss)
    noise = seed_noise(rows, loss)
    laws = _bootstrap(rows, (n, d, blocks, masked), law, noise=noise, draws=draws, seed=seed)
    values = [each.constants() for each in laws]
    constants = {
        key: {"value": value, **_interval([each[key] for each in values])}
        for key, value in law.constants().items()
    }
    for key in ("a", "b"):
        low, high = constants[key]["low"], constants[key]["high"]
        if low <= NO_EXPONENT or high >= 0.99 * LARGEST_EXPONENT:
            reasons.append(f"the interval of {key} ({low:.2f} to {high:.2f}) reaches its bound")
    if constants["E"]["low"] <= NO_FLOOR * loss.min():
        reasons.append("the interval of E reaches 0: no floor is in sight")
    misses = float(np.sqrt(np.mean((law.loss(n, d) - loss) ** 2)))
    if misses > MISFIT:
        reasons.append(f"the law misses the runs by {misses:.3f} nats (root mean square)")
    predictions = [
        _predict(law, laws, name, cells, measure=measure, mean_length=mean_length, shape=shape, seen=(n, d))
        for name, cells in ASKED
    ]
    for each in predictions:
        each["identified"] = not reasons and each["high"] - each["low"] <= WIDEST
    longer = budget > budget.min()
    enough = len(np.unique(budget)) > 3  # three are left without the shortest
    return {
        "identified": not reasons, "reasons": reasons, "runs": len(rows), "constants": constants,
        "rms_nats": misses, "seed_sd_log": noise,
        "without_shortest": fit_law(n[longer], d[longer], loss[longer]).constants() if enough else None,
        "predictions": predictions,
    }  # fmt: skip


def seed_noise(rows: Sequence[dict[str, Any]], loss: np.ndarray) -> float | None:
    """Return the standard deviation of log loss over seeds of one size and budget; None: one seed each."""
    groups: dict[tuple[str, int], list[float]] = {}
    for row, value in zip(rows, np.log(loss), strict=True):
        groups.setdefault((row["name"], row["budget"]), []).append(value)
    repeated = [np.array(values) for values in groups.values() if len(values) > 1]
    if not repeated:
        return None
    squares = sum(float(((values - values.mean()) ** 2).sum()) for values in repeated)
    return float(np.sqrt(squares / sum(len(values) - 1 for values in repeated)))


def _bootstrap(
    rows: Sequence[dict[str, Any]], data: tuple[np.ndarray, ...], law: Law, *, noise: float | None,
    draws: int, seed: int,
) -> list[Law]:  # fmt: skip
    """Refit on drawn runs, drawn blocks of held-out cells (the same for all runs), and other seeds."""
    n, d, blocks, masked = data
    generator = np.random.default_rng(seed)
    trunks = {key: at for at, key in enumerate(sorted({(row["name"], row["seed"]) for row in rows}))}
    trunk = np.array([trunks[row["name"], row["seed"]] for row in rows])
    near = law.theta + np.array([[0, 0, 0, 0, 0], [0, 0, -1, 0.3, 0.3], [0.5, 0.5, 0, -0.2, -0.2]])
    near[:, 3:] = np.clip(near[:, 3:], 0.02, LARGEST_EXPONENT)
    found: list[Law] = []
    while len(found) < draws:
        taken = generator.integers(len(n), size=len(n))
        if min(len(np.unique(n[taken])), len(np.unique(np.round(np.log(d[taken]), 1)))) < 3:
            continue  # such a draw could not be fitted by anybody
        block = generator.integers(len(masked), size=len(masked))
        loss = blocks[:, block].sum(axis=1) / masked[block].sum()
        if noise is not None:  # all lengths of a trunk share its start
            loss = loss * np.exp(generator.normal(0.0, noise, len(trunks)))[trunk]
        found.append(fit_law(n[taken], d[taken], loss[taken], starts=near))
    return found


def _interval(values: Sequence[float]) -> dict[str, float]:
    low, high = np.quantile(values, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return {"low": float(low), "high": float(high)}


def _predict(
    law: Law, laws: Sequence[Law], name: str, cells: float, *, measure: str, mean_length: float,
    shape: dict[str, int], seen: tuple[np.ndarray, np.ndarray],
) -> dict[str, Any]:  # fmt: skip
    """Return the loss of a recipe's shape after one pass over so many cells, none of them seen before."""
    model = read_config(CONFIGS / f"{name}.toml").model
    size = float(n_parameters(model, shape["vocabulary"], shape["positions"]))
    if measure == "non_embedding_parameters":
        size = float(non_embedding(model, shape))
    tokens = cells * mean_length
    return {
        "shape": name, "cells": cells, measure: size, "tokens": tokens,
        "loss": float(law.loss(size, tokens)[0]),
        **_interval([float(each.loss(size, tokens)[0]) for each in laws]),
        "times_largest_size": size / float(seen[0].max()), "times_most_tokens": tokens / float(seen[1].max()),
    }  # fmt: skip


def non_embedding(model: Any, shape: dict[str, int]) -> int:
    """Return the weights that are neither embeddings (tied decoder, positions, types) nor the output bias."""
    tables = (shape["vocabulary"] + shape["positions"] + 2) * model.hidden_size + shape["vocabulary"]
    return n_parameters(model, shape["vocabulary"], shape["positions"]) - tables


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Fit the scaling law again; the JSON's `fit` is replaced.")
    parser.add_argument("results", type=Path, metavar="RESULTS.json")
    parser.add_argument("--draws", type=int, default=200, help="of the bootstrap")
    options = parser.parse_args(arguments)
    result = json.loads(options.results.read_text(encoding="utf-8"))
    write_json(options.results, result | {"fit": fit_study(result, draws=options.draws)})


if __name__ == "__main__":
    main()
