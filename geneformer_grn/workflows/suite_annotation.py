"""Suite: five labels a class from other donors, then the cells of a donor nobody labelled."""

from __future__ import annotations

from typing import Any

import numpy as np

from geneformer_grn.workflows.suite_bench import Bench, column, labelled, rows_of
from geneformer_grn.workflows.suite_rows import MODEL, UNTRAINED, unit_row

TASK = "few-shot annotation"
LABELS_A_CLASS = 5
N_DRAWS = 3
N_CELLS = 1500


def annotation_rows(bench: Bench) -> list[dict[str, Any]]:
    """Return macro-F1 and accuracy on each held-out donor, means over draws of the labels.

    The model and its twin stay frozen: logistic regression on their cell embeddings, against the same on
    principal components of variable genes and L1 logistic regression on log counts. All see the other
    donors' cells without labels. The interval is over donors.
    """
    from geneformer_grn.evaluation.label_measures import classification_measures

    counts = bench.counts("kang", n_cells=N_CELLS)
    counts = rows_of(counts, labelled(counts))
    labels, donors = column(counts, "cell_type"), column(counts, "donor")
    predictions = few_shot_predictions(bench, counts, labels, donors)
    classes = np.unique(labels)
    scored: dict[str, dict[str, list[float]]] = {"macro_f1": {}, "accuracy": {}}
    for name, by_donor in predictions.items():
        for measure, found in scored.items():
            found[name] = [
                float(np.mean([
                    classification_measures(truth, scores, only=(measure,))[measure][0]
                    for truth, scores in draws
                ]))
                for draws in by_donor
            ]  # fmt: skip
    note = f"{LABELS_A_CLASS} labels of each of {len(classes)} types, {N_DRAWS} draws a donor"
    titles = {"macro_f1": "macro-F1, donors held out", "accuracy": "accuracy, donors held out"}
    return [
        unit_row(
            TASK, titles[measure], "Kang PBMC, 8 donors",
            units={name: np.array(values) for name, values in found.items()}, seed=bench.seed,
            groups=np.arange(len(next(iter(found.values())))), note=note,
        )
        for measure, found in scored.items()
    ]  # fmt: skip


def few_shot_predictions(
    bench: Bench, counts: Any, labels: np.ndarray, donors: np.ndarray
) -> dict[str, list[list[tuple[np.ndarray, np.ndarray]]]]:
    """Return method -> donor -> draw -> (true classes, ``(m, n_classes)`` probabilities) of its cells."""
    from geneformer_grn.cells.counts import log_normalised
    from geneformer_grn.evaluation.label_data import Taught
    from geneformer_grn.evaluation.label_features import centred, expression_components, over_deviation
    from geneformer_grn.evaluation.linear_fits import fit_linear
    from geneformer_grn.training.supervision import Task

    classes, values = np.unique(labels, return_inverse=True)
    task = Task("cell_type", "cell", "classification", values, tuple(classes.tolist()))
    frozen = bench.embeddings(counts)
    log = log_normalised(counts)
    found: dict[str, list[Any]] = {name: [] for name in (MODEL, UNTRAINED, "pca_logistic", "l1_logistic")}
    for number, donor in enumerate(np.unique(donors)):
        test, others = np.flatnonzero(donors == donor), np.flatnonzero(donors != donor)
        features: dict[str, Any] = {name: centred(each, others) for name, each in frozen.items()}
        features["pca_logistic"] = expression_components(log, others, seed=bench.seed)
        features["l1_logistic"] = over_deviation(log, others)
        draws: dict[str, list[Any]] = {name: [] for name in found}
        for draw in range(N_DRAWS):
            train = _few(values, others, np.random.default_rng([bench.seed, number, draw]))
            taught = Taught(train, train[:0], others)
            for name, each in features.items():
                penalty = "l1" if name == "l1_logistic" else "l2"
                _, predict = fit_linear(each, task, taught, seed=bench.seed, penalty=penalty)
                draws[name].append((values[test], predict(test)))
        for name, each in draws.items():
            found[name].append(each)
    return found


def _few(values: np.ndarray, units: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return so many units of each class, fewer where there are not so many."""
    order = rng.permutation(units)
    parts = [order[values[order] == label][:LABELS_A_CLASS] for label in np.unique(values[units])]
    return np.sort(np.concatenate(parts))
