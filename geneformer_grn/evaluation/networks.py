"""What an edge table is worth against known edges: the score card of a network, anyone's.

Only pairs that could have been found are counted: regulators and targets that were both scored and known to
the truth. Pairs that the table leaves out tie for the last place. Intervals are over regulators, since a
regulator's targets rise and fall together, and below 20 regulators there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from geneformer_grn.metrics import auroc, average_precision, early_precision_ratio, precision_at
from geneformer_grn.network.truth import Truth, canonical_genes

FEWEST_REGULATORS = 20  # for an interval over them
RESAMPLES = 1000
PRECISION_AT = (10, 100, 1000)
_MISSING = -1.0  # strength of a pair that the table leaves out: below every other
SCORES = ("auprc", "auprc_ratio", "epr", "auroc")


@dataclass(frozen=True, eq=False, kw_only=True)
class Pairs:
    """The pairs that a truth can judge, laid out as regulators × targets.

    Parameters
    ----------
    regulators, targets
        ``(R,)`` and ``(T,)`` canonical names (see `canonical_genes`), sorted.
    known
        ``(R, T)`` bool, true edges.
    sign
        ``(R, T)`` int8, their signs; 0 where not known.
    judged
        ``(R, T)`` bool, all but a gene with itself.
    truth
        Name of the truth, and why it is circular if it is.
    """

    regulators: np.ndarray
    targets: np.ndarray
    known: np.ndarray
    sign: np.ndarray
    judged: np.ndarray
    truth: str
    circular: str = ""

    @property
    def density(self) -> float:
        """Share of the judged pairs that are true edges."""
        return float(self.known.sum() / self.judged.sum())

    @property
    def row(self) -> np.ndarray:
        """``(n,)`` int64, the regulator of every judged pair, in row-major order."""
        return np.nonzero(self.judged)[0]


def judged_pairs(regulators: Sequence[str], targets: Sequence[str], truth: Truth) -> Pairs:
    """Return the pairs of a universe that a truth can judge.

    Parameters
    ----------
    regulators, targets
        Genes that were scored, by any names.
    truth
        The known edges.

    Raises
    ------
    ValueError
        No regulator or no target is known to the truth, or none of their pairs is a true edge, or all are.
    """
    scored = {"regulator": canonical_genes(regulators), "target": canonical_genes(targets)}
    known = {"regulator": truth.edges["source"], "target": truth.edges["target"]}
    kept = {}
    for role, genes in scored.items():
        kept[role] = np.intersect1d(genes.astype(str), known[role].to_numpy().astype(str)).astype(object)
        if not len(kept[role]):
            first = f"{genes[0]!r} here, {known[role].iloc[0]!r} there" if len(genes) else "none was scored"
            raise ValueError(
                f"none of {len(genes):,} {role}s scored is a {role} in {truth.name} (first: {first}); both "
                "need Ensembl IDs or symbols of the same species"
            )
    source = pd.Index(kept["regulator"]).get_indexer(truth.edges["source"])
    target = pd.Index(kept["target"]).get_indexer(truth.edges["target"])
    inside = (source >= 0) & (target >= 0)
    shape = (len(kept["regulator"]), len(kept["target"]))
    is_true, sign = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=np.int8)
    is_true[source[inside], target[inside]] = True
    sign[source[inside], target[inside]] = truth.edges["sign"].to_numpy()[inside]
    judged = kept["regulator"][:, None] != kept["target"][None, :]
    if not is_true.any() or is_true[judged].all():
        what = "no pair is" if not is_true.any() else "every pair is"
        raise ValueError(
            f"of {shape[0]:,} regulators × {shape[1]:,} targets in common with {truth.name}, {what} a known "
            "edge, so that nothing can be told apart"
        )
    return Pairs(
        regulators=kept["regulator"], targets=kept["target"], known=is_true, sign=sign, judged=judged,
        truth=truth.name, circular=truth.circular,
    )  # fmt: skip


def lay_out(edges: pd.DataFrame, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Return the strength and the sign of every pair by an edge table of one group and method.

    Parameters
    ----------
    edges
        ``source``, ``target``, ``weight`` and, if known, ``sign``; without it the weight's sign is taken
        where any weight is negative.
    pairs
        See `judged_pairs`.

    Returns
    -------
    tuple of ndarray
        ``(R, T)`` float64 ``|weight|``, -1 where the table has no edge; ``(R, T)`` int8, 0 where not known.
    """
    row = pd.Index(pairs.regulators).get_indexer(canonical_genes(edges["source"]))
    column = pd.Index(pairs.targets).get_indexer(canonical_genes(edges["target"]))
    inside = (row >= 0) & (column >= 0)
    weight = edges["weight"].to_numpy(np.float64)
    strength = np.full(pairs.known.shape, _MISSING)
    sign = np.zeros(pairs.known.shape, dtype=np.int8)
    own = np.sign(weight) if (weight < 0).any() else np.zeros(len(weight))
    signs = edges["sign"].to_numpy(np.int8) if "sign" in edges.columns else own.astype(np.int8)
    # two names of one gene may meet in a pair: the stronger edge, written last, stays
    order = np.flatnonzero(inside)[np.argsort(np.abs(weight[inside]), kind="stable")]
    strength[row[order], column[order]] = np.abs(weight[order])
    sign[row[order], column[order]] = signs[order]
    return strength, sign


def score_strengths(
    strength: np.ndarray, pairs: Pairs, *, seed: int = 0, n: int = RESAMPLES
) -> dict[str, Any]:
    """Score a ranking of pairs.

    Parameters
    ----------
    strength
        ``(R, T)`` float without NaN, larger is more likely an edge.
    pairs
        See `judged_pairs`.
    seed, n
        Of the bootstrap over regulators.

    Returns
    -------
    dict
        ``auprc`` (average precision), ``auprc_ratio`` (over the density), ``epr`` (early precision ratio),
        ``auroc``, each with ``<score>_low`` and ``<score>_high``, the 95 % interval over regulators (absent
        below 20 of them), and ``precision_at``.
    """
    labels, scores = pairs.known[pairs.judged], strength[pairs.judged]
    area = average_precision(labels, scores)
    card: dict[str, Any] = {
        "auprc": area,
        "auprc_ratio": area / pairs.density,
        "epr": early_precision_ratio(labels, scores),
        "auroc": auroc(labels, scores),
    }
    if len(pairs.regulators) >= FEWEST_REGULATORS:
        drawn = resampled(strength, pairs, seed=seed, n=n)
        for name in SCORES:
            low, high = np.nanquantile(drawn[name], [0.025, 0.975])
            card |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    cuts = [k for k in PRECISION_AT if k <= len(labels)]
    card["precision_at"] = {str(k): precision_at(labels, scores, k) for k in cuts}
    return card


def resampled(
    strength: np.ndarray, pairs: Pairs, *, seed: int = 0, n: int = RESAMPLES
) -> dict[str, np.ndarray]:
    """Return score -> ``(n,)`` values over resamples of the regulators; the same ones for equal seeds."""
    from geneformer_grn.evaluation.resampling import resampled_scores

    copies = regulator_copies(len(pairs.regulators), seed=seed, n=n)
    scores = strength[pairs.judged]
    order = np.argsort(-scores, kind="stable")
    is_end = np.append(np.diff(scores[order]) != 0, True)
    found = resampled_scores(pairs.row[order], pairs.known[pairs.judged][order], is_end, copies)
    return {
        "auprc": found[:, 0],
        "auprc_ratio": found[:, 0] / found[:, 3],
        "epr": found[:, 1],
        "auroc": found[:, 2],
    }


def regulator_copies(n_regulators: int, *, seed: int, n: int) -> np.ndarray:
    """Return ``(n, R)`` int64: how often each regulator is in each resample."""
    rng = np.random.default_rng([seed, n_regulators])
    return rng.multinomial(n_regulators, np.full(n_regulators, 1 / n_regulators), size=n)


def compare(
    strength: np.ndarray, other: np.ndarray, pairs: Pairs, *, seed: int = 0, n: int = RESAMPLES
) -> dict[str, Any]:
    """Return by how much one ranking scores above another, with paired 95 % intervals over regulators.

    Returns
    -------
    dict
        Per score of `SCORES` the ``difference`` and, from 20 regulators on, ``low`` and ``high``.
    """
    own, others = (score_strengths(each, pairs, seed=seed, n=1) for each in (strength, other))
    found: dict[str, Any] = {name: {"difference": own[name] - others[name]} for name in SCORES}
    if len(pairs.regulators) >= FEWEST_REGULATORS:
        left, right = (resampled(each, pairs, seed=seed, n=n) for each in (strength, other))
        for name in SCORES:
            low, high = np.nanquantile(left[name] - right[name], [0.025, 0.975])
            found[name] |= {"low": float(low), "high": float(high)}
    return found


def score_signs(strength: np.ndarray, sign: np.ndarray, pairs: Pairs) -> dict[str, Any]:
    """Return how often signs and directions are right.

    Returns
    -------
    dict
        ``sign_accuracy`` over the ``n_signed`` true edges whose sign both sides know, and
        ``sign_majority``, what calling all of them by their commoner sign would reach;
        ``direction_accuracy`` over the ``n_directed`` true edges whose reverse was scored too and is none,
        ties counting half. NaN where there is none.
    """
    both = (sign != 0) & (pairs.sign != 0) & pairs.known
    n_signed = int(both.sum())
    activates = float((pairs.sign[both] > 0).mean()) if n_signed else float("nan")
    right, n_directed = _directions(strength, pairs)
    return {
        "sign_accuracy": float((sign == pairs.sign)[both].mean()) if n_signed else float("nan"),
        "sign_majority": max(activates, 1 - activates),
        "n_signed": n_signed,
        "direction_accuracy": right,
        "n_directed": n_directed,
    }


def _directions(strength: np.ndarray, pairs: Pairs) -> tuple[float, int]:
    in_targets = pd.Index(pairs.targets).get_indexer(pairs.regulators)
    in_regulators = pd.Index(pairs.regulators).get_indexer(pairs.targets)
    row, column = np.nonzero(pairs.known)
    back_row, back_column = in_regulators[column], in_targets[row]
    there = (back_row >= 0) & (back_column >= 0)
    row, column, back_row, back_column = (each[there] for each in (row, column, back_row, back_column))
    one_way = ~pairs.known[back_row, back_column]
    forward = strength[row, column][one_way]
    backward = strength[back_row, back_column][one_way]
    if not len(forward):
        return float("nan"), 0
    return float((forward > backward).mean() + (forward == backward).mean() / 2), len(forward)


def describe_pairs(pairs: Pairs, n_scored: Mapping[str, int]) -> dict[str, Any]:
    """Return how large the comparison is: what was scored, what of it the truth can judge."""
    return {
        "truth": pairs.truth,
        "circular": pairs.circular,
        "n_regulators": len(pairs.regulators),
        "n_targets": len(pairs.targets),
        "n_pairs": int(pairs.judged.sum()),
        "n_true": int(pairs.known.sum()),
        "density": pairs.density,
        **{f"n_{role}_scored": number for role, number in n_scored.items()},
    }
