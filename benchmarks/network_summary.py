"""What the table of networks.py says on the whole: pooled differences, and the goals."""

from __future__ import annotations

from typing import Any

import numpy as np

Rows = list[dict[str, Any]]
SCORES = ("auprc_ratio", "epr", "auroc")


def summary_of(rows: Rows, comparisons: Rows) -> dict[str, Any]:
    """Return mean scores per case, depth, truth and method, and the pooled paired differences."""
    table: dict[str, dict[str, Any]] = {}
    for row in rows:
        key = " | ".join(dict.fromkeys([row["case"], row["depth"], row["truth"]]))
        of_method = table.setdefault(key, {}).setdefault(row["method"], {"n": 0})
        of_method["n"] += 1
        gain = row["residual"].get("auprc_gain")
        for name, value in [*((name, row[name]) for name in SCORES), ("residual_auprc_gain", gain)]:
            if value is not None:
                of_method.setdefault(name, []).append(value)
    means = {
        key: {
            method: {name: float(np.mean(value)) for name, value in found.items()}
            for method, found in methods.items()
        }
        for key, methods in table.items()
    }
    asked = sorted({(one["method"], one["other"]) for one in comparisons if one["counted"]})
    differences = {f"{method} - {other}": pooled(comparisons, method, other) for method, other in asked}
    return {"means": means, "pooled_auprc_ratio_differences": differences}


def pooled(comparisons: Rows, method: str, other: str, **only: Any) -> dict[str, Any]:
    """Return the mean paired difference over the cases that count, with a 95 % interval.

    Cases of the same regulators (one network at several depths, one set of cells with several truths) are
    taken to err together, so the interval is rather too wide than too narrow.
    """
    found = [
        one
        for one in comparisons
        if one["method"] == method and one["other"] == other and one["counted"]
        and all(one[key] == value for key, value in only.items())
    ]  # fmt: skip
    if not found:
        return {"n": 0}
    errors: dict[tuple[str, int], float] = {}
    for one in found:
        group = (one["case"], one["seed"])
        errors[group] = errors.get(group, 0.0) + one["sd"]
    sd = float(np.sqrt(sum(value**2 for value in errors.values())) / len(found))
    mean = float(np.mean([one["difference"] for one in found]))
    wins = sum(one["difference"] > 0 for one in found)
    return {
        "n": len(found),
        "wins": wins,
        "difference": mean,
        "low": mean - 1.96 * sd,
        "high": mean + 1.96 * sd,
    }


def goals_of(rows: Rows, comparisons: Rows) -> dict[str, Any]:
    """Return each goal with what was measured and whether it is met; None where nothing was measured."""
    best = pooled(comparisons, "combined", "best_single")
    goals: dict[str, Any] = {
        "combined_beats_best_single": best | {"met": best["low"] > 0 if best["n"] else None}
    }
    shares = []
    for seed in sorted(
        {row["seed"] for row in rows if row["case"] == "simulated" and row["depth"] == "clean"}
    ):
        of_seed = [r for r in rows if (r["case"], r["depth"], r["seed"]) == ("simulated", "clean", seed)]
        others = [row["auprc_ratio"] for row in of_seed if row["kind"] in ("single", "gene-level")]
        own = [row["auprc_ratio"] for row in of_seed if row["method"] == "combined"]
        shares += [own[0] / max(others)] if own else []
    goals["clean_over_best_in_hindsight"] = {
        "goal": 1.1, "ratios": shares, "met": bool(np.mean(shares) >= 1.1) if shares else None,
    }  # fmt: skip
    gene_level = {
        other: pooled(comparisons, "combined", other, depth="100")
        for other in ("target mean", "target variance", "target detection", "target degree")
    }
    measured = [found for found in gene_level.values() if found["n"]]
    goals["beats_gene_level_at_100_umi"] = {
        "differences": gene_level, "met": all(found["low"] > 0 for found in measured) if measured else None,
    }  # fmt: skip
    goals["model_edges_add_to_the_residual"] = model_edges(rows)
    return goals


def model_edges(rows: Rows) -> dict[str, Any]:
    """Return what edges out of the model add to the covariates on real cells, beside the untrained twin's."""
    found = []
    for row in rows:
        if row["kind"] != "model" or not row["counted"] or not row["residual"]:
            continue
        same = [
            other["residual"].get("auprc_gain")
            for other in rows
            if other["method"] == f"untrained_{row['method']}"
            and all(other[key] == row[key] for key in ("case", "seed", "truth"))
        ]
        keys = ("auprc_gain", "auprc_gain_low", "auprc_gain_high", "log_loss_gain")
        found.append(
            {"case": row["case"], "truth": row["truth"], "method": row["method"]}
            | {key: row["residual"].get(key) for key in keys}
            | {"untrained_auprc_gain": same[0] if same else None}
        )
    adds = [
        one for one in found
        if (one["auprc_gain_low"] or 0) > 0 and one["auprc_gain"] > (one["untrained_auprc_gain"] or 0)
    ]  # fmt: skip
    return {"rows": found, "n_that_add": len(adds), "met": bool(adds) if found else None}
