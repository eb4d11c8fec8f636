"""Suite: regulators told from genes expressed alike, by frozen gene embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from geneformer_grn.workflows.suite_bench import Bench, rows_of
from geneformer_grn.workflows.suite_rows import MODEL, UNTRAINED, suite_row

if TYPE_CHECKING:
    from geneformer_grn.cells.counts import CellCounts

TASK = "gene class"
N_CELLS = 300
_FOLDS = 5
_RESAMPLES = 1000


def regulator_rows(bench: Bench, counts: CellCounts, data: str) -> list[dict[str, Any]]:
    """Return the AUROC of regulators against expression-matched genes, gene families kept whole.

    A linear probe on the model's gene embeddings (means over cells) and on its twin's, against logistic
    regression on expression (mean, variance, detection), on components of co-expression, and on both. Every
    gene is predicted by what other families taught. The interval is over families' blocks of matched pairs.

    Parameters
    ----------
    bench
        The model.
    counts
        Cells; a sample of them is embedded.
    data
        What the row calls them.

    Raises
    ------
    ValueError
        Too few regulators are detected.
    """
    from geneformer_grn.evaluation.gene_baselines import GENE_BASELINES
    from geneformer_grn.evaluation.label_data import LabelData
    from geneformer_grn.training.splits import SplitRule, make_splits
    from geneformer_grn.workflows.regulator_labels import regulator_task

    rng, vocabulary = np.random.default_rng(bench.seed), bench.encoder.vocabulary
    counts = rows_of(counts, np.sort(rng.permutation(len(counts))[:N_CELLS]))
    task, groups = regulator_task("regulator", counts, vocabulary, whole_families=True, seed=bench.seed)
    n_folds = min(_FOLDS, len(np.unique(groups)))
    rule = SplitRule(scheme="kfold", folds=n_folds, groups_are="family block")
    splits = make_splits(task.values, rule, groups=groups, units_are="genes", seed=bench.seed)
    ranked = bench.ranked(counts)
    own = LabelData(counts=counts, ranked=ranked, vocabulary=vocabulary, encoder=bench.encoder)
    twin = LabelData(counts=counts, ranked=ranked, vocabulary=vocabulary, encoder=bench.twin)
    methods = {
        MODEL: (own, "linear_probe"),
        UNTRAINED: (twin, "linear_probe"),
        "expression": (own, "expression_logistic"),
        "coexpression": (own, "coexpression_logistic"),
        "expression_and_coexpression": (own, "expression_coexpression_logistic"),
    }
    scores = {name: np.empty(len(task.values)) for name in methods}
    for split in splits:
        for name, (data_of, baseline) in methods.items():
            prediction = GENE_BASELINES[baseline](data_of, task, split, seed=bench.seed)
            scores[name][prediction.units] = prediction.scores[:, 1]
    values, ahead = aurocs_with_gains(task.values == 1, scores, groups, seed=bench.seed)
    note = f"{len(np.unique(groups))} blocks of families, {n_folds} folds; {len(counts)} cells"
    return [
        suite_row(
            TASK, "AUROC, regulators against matched genes", data, values=values, ahead=ahead,
            n=len(task.values), note=note,
        )
    ]  # fmt: skip


def aurocs_with_gains(
    positive: np.ndarray, scores: dict[str, np.ndarray], groups: np.ndarray, *, seed: int
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return the AUROC of each method, and how far the first is ahead of the others.

    Parameters
    ----------
    positive
        ``(n,)`` bool.
    scores
        Name -> ``(n,)``; the first is the model's.
    groups
        ``(n,)``: resampled whole, the same ones for all methods.
    seed
        Of the resamples.

    Returns
    -------
    tuple
        Name -> AUROC; name -> ``mean``, ``low``, ``high`` of the paired difference.
    """
    from geneformer_grn.metrics import auroc

    rng = np.random.default_rng(seed)
    names, place = np.unique(groups, return_inverse=True)
    members = [np.flatnonzero(place == number) for number in range(len(names))]
    ours = next(iter(scores))
    values = {name: auroc(positive, each) for name, each in scores.items()}
    drawn: dict[str, list[float]] = {name: [] for name in scores}
    for _ in range(_RESAMPLES):
        rows = np.concatenate([members[each] for each in rng.integers(0, len(names), len(names))])
        if positive[rows].all() or not positive[rows].any():
            continue
        for name, each in scores.items():
            drawn[name].append(auroc(positive[rows], each[rows]))
    ahead = {}
    for name in scores:
        if name != ours:
            gaps = np.array(drawn[ours]) - np.array(drawn[name])
            low, high = np.quantile(gaps, [0.025, 0.975]) if len(gaps) else (np.nan, np.nan)
            ahead[name] = {"mean": values[ours] - values[name], "low": float(low), "high": float(high)}
    return values, ahead
