"""What every method of one run is worth against known edges, and whether each beats correlation.

Whole rankings are scored, not only the edges that are kept. Correlation is always among them, computed here
where it was not asked for: a method is worth what it adds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from geneformer_grn._runtime import logger
from geneformer_grn.evaluation.networks import (
    FEWEST_REGULATORS,
    Pairs,
    compare,
    describe_pairs,
    judged_pairs,
    score_signs,
    score_strengths,
)
from geneformer_grn.evaluation.residual import by_covariates, gene_level_scores, residual, target_degree
from geneformer_grn.network.cross_products import Expression
from geneformer_grn.network.scored import ScoredPairs
from geneformer_grn.network.truth import Truth, canonical_genes
from geneformer_grn.workflows.evaluate_network import KnownExpression, card_table, covariates_of

CORRELATION = "correlation"
BEATS, LOSES, SAME, UNKNOWN = "beats", "loses to", "cannot be told from", "not known"


class MethodCards:
    """Score cards of every group and method, gathered as they are scored.

    Parameters
    ----------
    truth
        Known edges.
    regulators, targets
        Ensembl IDs of the universe.
    seed
        Of bootstrap and folds.

    Raises
    ------
    ValueError
        The truth and the universe have nothing in common, which is said before any method runs.
    """

    def __init__(self, truth: Truth, regulators: list[str], targets: list[str], *, seed: int = 0) -> None:
        self.pairs = judged_pairs(regulators, targets, truth)
        self._sizes = {"regulators": len(regulators), "targets": len(targets)}
        self._seed = seed
        self._degree = target_degree(self.pairs, seed=seed)
        self._rows: list[dict[str, Any]] = []
        self._baselines: list[dict[str, Any]] = []
        n_common = len(self.pairs.regulators)
        if n_common < FEWEST_REGULATORS:
            logger.warning(
                "%s knows %d of %d regulators: intervals need %d, so there are none",
                truth.name, n_common, len(regulators), FEWEST_REGULATORS,
            )  # fmt: skip

    def add(
        self, group: str, scored: dict[str, ScoredPairs], expression: Expression, gene_ids: np.ndarray
    ) -> None:
        """Score the methods of one group.

        Parameters
        ----------
        group
            Its name.
        scored
            Method -> scores.
        expression, gene_ids
            ``(n, g)`` log-normalised expression of its cells, and the ``(g,)`` names of the columns.
        """
        known = KnownExpression(matrix=expression, genes=canonical_genes(gene_ids))
        covariates = covariates_of(expression, known, self.pairs)
        baselines = gene_level_scores(covariates, self.pairs) | self._degree
        without = by_covariates(self.pairs, covariates, seed=self._seed)
        correlation = baselines["|r|"]
        for name, strength in baselines.items():
            found = score_strengths(strength, self.pairs, seed=self._seed)
            if name != "|r|":
                self._baselines.append({"group": group, "method": name, **found})
            elif CORRELATION not in scored:
                self._rows.append({"group": group, "method": CORRELATION, **found})
        for method, pairs in scored.items():
            strength, sign = lay_out_scores(pairs, self.pairs)
            row: dict[str, Any] = {"group": group, "method": method, "n_judged": int((strength >= 0).sum())}
            row |= score_strengths(strength, self.pairs, seed=self._seed)
            row |= score_signs(strength, sign, self.pairs)
            if method != CORRELATION:
                row["against_correlation"] = compare(strength, correlation, self.pairs, seed=self._seed)
                row["verdict"] = verdict(row["against_correlation"]["auprc"])
                row["residual"] = residual(strength, self.pairs, covariates, seed=self._seed, without=without)
            self._rows.append(row)

    def card(self) -> dict[str, Any]:
        """Return ``kind``, ``comparison``, ``rows`` (one per group and method), and ``baselines``."""
        return {
            "kind": "network",
            "comparison": describe_pairs(self.pairs, self._sizes),
            "rows": self._rows,
            "baselines": self._baselines,
            "conditions": {"seed": self._seed, "ranked": "all pairs of the universe"},
        }


def lay_out_scores(scored: ScoredPairs, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Return the strength and the sign of every judged pair, as `lay_out` does for an edge table.

    Returns
    -------
    tuple of ndarray
        ``(R, T)`` float64 ``|weight|``, -1 where the pair was not scored; ``(R, T)`` int8, 0 where not known.
    """
    row = pd.Index(canonical_genes(scored.regulators)).get_indexer(pairs.regulators)
    column = pd.Index(canonical_genes(scored.targets)).get_indexer(pairs.targets)
    weight = scored.weights[np.ix_(row, column)].astype(np.float64)
    weight[row < 0] = np.nan
    weight[:, column < 0] = np.nan
    sign = (
        np.sign(np.nan_to_num(weight)).astype(np.int8) if scored.signed else np.zeros(weight.shape, np.int8)
    )
    return np.where(np.isnan(weight), -1.0, np.abs(weight)), sign


def verdict(difference: dict[str, float]) -> str:
    """Say whether a method beats correlation, by the paired interval of the difference in AUPRC."""
    if "low" not in difference:
        return UNKNOWN
    return BEATS if difference["low"] > 0 else LOSES if difference["high"] < 0 else SAME


def methods_card(card: dict[str, Any]) -> str:
    """Return the card as text: the table of scores, then what each method is beside correlation."""
    lines = [card_table(card), "", "Beside correlation (difference in AUPRC, 95 % interval over regulators):"]
    lines += [
        f"- {row['group']}, {row['method']}: {_sentence(row)}" for row in card["rows"] if "verdict" in row
    ]
    if len(lines) == 3:
        lines[-1] = "Only correlation was scored."
    if card["comparison"]["circular"]:
        lines.append("This truth is circular: to beat correlation on it is no evidence.")
    return "\n".join(lines)


def card_frame(card: dict[str, Any]) -> pd.DataFrame:
    """Return the card as a table, a row per group and method: scores, intervals, verdict and residual."""
    rows = []
    for row in card["rows"]:
        plain = {name: value for name, value in row.items() if not isinstance(value, dict)}
        plain["verdict"] = row.get("verdict", "")
        for name, value in row.get("against_correlation", {}).get("auprc", {}).items():
            plain["auprc_difference" if name == "difference" else f"auprc_difference_{name}"] = value
        residual_found = row.get("residual") or {}
        plain |= {name: value for name, value in residual_found.items() if name.startswith("auprc_gain")}
        rows.append(plain)
    return pd.DataFrame(rows)


def _sentence(row: dict[str, Any]) -> str:
    found, gain = row["against_correlation"]["auprc"], row["residual"]
    shown = f"{found['difference']:+.4f}"
    if "low" in found:
        shown += f", {found['low']:+.4f} to {found['high']:+.4f}"
    said = {
        UNKNOWN: f"too few regulators to say whether it beats correlation ({shown})",
        SAME: f"cannot be told from correlation ({shown})",
    }.get(row["verdict"], f"{row['verdict']} correlation ({shown})")
    if "auprc_gain_low" not in gain:
        return said
    adds = "adds" if gain["auprc_gain_low"] > 0 else "adds nothing that can be told"
    return f"{said}; {adds} beyond correlation, the target's expression and how often it is one"
