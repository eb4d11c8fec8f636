"""Labels carried from annotated cells to others: which features to trust, how sure to be, what is unknown.

Nothing is tuned on the cells to be annotated. The reference is cut into folds (by donor where known); each
fold is predicted by what the others taught, and those predictions choose between expression, the model's
embedding and both, fit the temperature, and set the bar for the unknown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from geneformer_grn._runtime import logger, progress
from geneformer_grn.evaluation.calibration import fit_temperature, with_temperature
from geneformer_grn.evaluation.label_data import LabelData, Predict, Taught, taught
from geneformer_grn.evaluation.label_features import centred, expression_components, scaled_states
from geneformer_grn.evaluation.label_measures import classification_measures
from geneformer_grn.evaluation.linear_fits import fit_linear
from geneformer_grn.evaluation.novelty import Looks, fit_novelty, neighbour_distances, usual_distances
from geneformer_grn.training.splits import SplitRule, make_splits
from geneformer_grn.training.supervision import Split, Task

Features = Literal["expression", "model", "both"]
# Of 10, 20 and 50 components, the first 10 told classes that were left out best (untreated PBMC of 8 donors,
# mean AUROC 0.75, 0.73, 0.68): the later ones add distance between cells of one kind.
_NEAR_COMPONENTS = 10
_MEASURES = ("accuracy", "macro_f1", "ece")


@dataclass(frozen=True, kw_only=True)
class AnnotationSettings:
    """How labels are carried over.

    Parameters
    ----------
    features
        ``expression`` (components of variable genes), ``model`` (cell embeddings), ``both``; ``auto``: what
        predicts held-out reference cells best.
    folds
        Parts of the reference; each is predicted by what the others taught.
    unknown
        Share of reference cells that may be called unknown; 0: every cell gets a label.
    neighbours
        Reference cells that the distance of a cell is a mean over.
    n_components
        Components of expression.
    seed
        Of folds and fits.
    """

    features: Literal["auto"] | Features = "auto"
    folds: int = 5
    unknown: float = 0.05
    neighbours: int = 15
    n_components: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if self.features not in {"auto", *get_args(Features)}:
            raise ValueError(f"features {self.features!r} are unknown; use auto, expression, model or both")
        if not 0 <= self.unknown < 0.5:
            raise ValueError(f"the share of unknown reference cells must lie in [0, 0.5), got {self.unknown}")
        if self.folds < 3 or self.neighbours < 1 or self.n_components < 1:
            raise ValueError("at least 3 folds, 1 neighbour and 1 component are needed")


@dataclass(frozen=True, eq=False)
class Annotation:
    """What was said of the cells.

    Parameters
    ----------
    scores
        ``(m, n_classes)`` float64 calibrated probabilities.
    unknown
        ``(m,)`` bool: unlike the reference.
    novelty
        ``(m,)`` float64 score, over the bar where unknown (0 the bar).
    report
        ``features`` chosen, ``candidates`` (accuracy, macro-F1, calibration error of each on held-out
        reference cells), ``temperature``, ``rule`` (how the folds were cut), ``left_out_found`` (class ->
        share called unknown when the reference lacked it), ``known_lost``, ``share_unknown``, ``distance``
        (median of the cells over that of reference cells).
    """

    scores: np.ndarray
    unknown: np.ndarray
    novelty: np.ndarray
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Fold:
    """One fold's features, what its training cells taught, predictions of test cells and query."""

    split: Split
    parts: Taught
    features: np.ndarray
    places: np.ndarray
    held_out: np.ndarray
    query: np.ndarray


def annotate_cells(
    data: LabelData, task: Task, query: np.ndarray, settings: AnnotationSettings | None = None,
    *, groups: np.ndarray | None = None,
) -> Annotation:  # fmt: skip
    """Predict the labels of `query` from the labelled cells.

    Parameters
    ----------
    data
        Reference and query cells, over genes that both measured.
    task
        Labels; the query's are missing.
    query
        ``(m,)`` int64 rows.
    settings
        Default :class:`AnnotationSettings`.
    groups
        ``(n,)`` donor of each reference cell; folds then hold whole donors. None: cells are divided.

    Raises
    ------
    ValueError
        Too few labelled cells, classes or donors for the folds.

    Examples
    --------
    >>> annotate_cells(data, task, rows_of_query).scores.argmax(axis=1)  # doctest: +SKIP
    """
    settings = settings or AnnotationSettings()
    rule = SplitRule(scheme="kfold", folds=settings.folds, groups_are="donor")
    splits = make_splits(task.values, rule, groups=groups, seed=settings.seed)
    wanted = get_args(Features) if settings.features == "auto" else (settings.features,)
    if data.encoder is None:
        wanted = tuple(name for name in wanted if name == "expression")
    tried: dict[str, list[_Fold]] = {name: [] for name in wanted}
    for split in progress(splits, desc="folds of the reference", unit="fold"):
        parts = taught(data, task, split)
        known = _features(data, parts, wanted, settings)
        for name in wanted:
            tried[name].append(_fold(known, name, task, split, parts, query, settings.seed))
    cards = {name: _card(folds, task) for name, folds in tried.items()}
    best = max(wanted, key=lambda name: (cards[name]["macro_f1"], -wanted.index(name)))
    folds = tried[best]
    held_out, truth = _held_out(folds, task)
    temperature = fit_temperature(held_out, truth)
    scores = with_temperature(np.mean([fold.query for fold in folds], axis=0), temperature)
    tempered = with_temperature(held_out, temperature)
    report = {
        "features": best, "candidates": cards, "temperature": temperature, "rule": splits[0].rule,
        "ece": float(classification_measures(truth, tempered, only=("ece",))["ece"][0]),
    }  # fmt: skip
    unknown, novelty = np.zeros(len(query), dtype=bool), np.zeros(len(query))
    if settings.unknown > 0:
        unknown, novelty, facts = _novelty(folds, task, query, scores, tempered, temperature, settings)
        report |= facts
    return Annotation(scores, unknown, novelty, report | {"share_unknown": float(unknown.mean())})


def _features(
    data: LabelData, parts: Taught, wanted: tuple[Features, ...], settings: AnnotationSettings
) -> dict[str, np.ndarray]:
    """Return ``(n, f)`` features by name, scaled by the training cells."""
    known = {
        "expression": expression_components(data.log, parts.seen, n=settings.n_components, seed=settings.seed)
    }
    if {"model", "both"} & set(wanted):
        known["model"] = scaled_states(data.cell_embeddings(0), parts.seen, centred)
    if "both" in wanted:
        known["both"] = np.concatenate([known["expression"], known["model"]], axis=1)
    return known


def _fold(
    known: dict[str, np.ndarray], name: str, task: Task, split: Split, parts: Taught, query: np.ndarray,
    seed: int,
) -> _Fold:  # fmt: skip
    predict = _learnt(known[name], task, parts.train, seed)
    places = known["expression"][:, :_NEAR_COMPONENTS]
    return _Fold(split, parts, known[name], places, predict(split.test), predict(query))


def _learnt(features: np.ndarray, task: Task, train: np.ndarray, seed: int) -> Predict:
    """Return logistic regression at its usual penalty: features are scaled to make that a fair one."""
    return fit_linear(features, task, Taught(train, train[:0], train), seed=seed)[1]


def _held_out(folds: list[_Fold], task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Return the predictions of all held-out cells and their labels, fold after fold."""
    tests = np.concatenate([fold.split.test for fold in folds])
    return np.concatenate([fold.held_out for fold in folds]), task.values[tests]


def _card(folds: list[_Fold], task: Task) -> dict[str, float]:
    scores, truth = _held_out(folds, task)
    return {
        name: float(value[0])
        for name, value in classification_measures(truth, scores, only=_MEASURES).items()
        if name in _MEASURES
    }


def _novelty(
    folds: list[_Fold], task: Task, query: np.ndarray, scores: np.ndarray, held_out: np.ndarray,
    temperature: float, settings: AnnotationSettings,
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:  # fmt: skip
    """Return which query cells are unknown, their scores less the bar, and what the rule is worth."""
    n_classes = len(task.classes)
    near, far = [], []
    for fold in folds:
        of_test, of_query = neighbour_distances(
            fold.places, fold.parts.train, (fold.split.test, query), settings.neighbours
        )
        near.append(of_test)
        far.append(of_query)
    predicted, called = held_out.argmax(axis=1), scores.argmax(axis=1)
    distances = np.concatenate(near)
    usual = usual_distances(distances, predicted, n_classes)
    known = Looks(held_out.max(axis=1), distances / usual[predicted])
    looks = Looks(scores.max(axis=1), np.mean(far, axis=0) / usual[called])
    left_out: dict[str, Looks] = {}
    if n_classes > 2:
        for label in range(n_classes):
            seen = _without_class(folds[label % len(folds)], task, label, temperature, usual, settings)
            if seen is not None:
                left_out[task.classes[label]] = seen
    rule, found = fit_novelty(known, left_out, share=settings.unknown)
    unknown = rule.unknown(looks)
    if unknown.mean() > 0.5:
        logger.warning(
            "%.0f %% of the cells are unlike the reference: another tissue, or another protocol? "
            "--unknown 0 gives every cell a label",
            100 * unknown.mean(),
        )
    facts = {
        "left_out_found": found, "known_lost": float(rule.unknown(known).mean()),
        "novelty": {"weights": list(rule.weights), "bar": rule.bar},
        "distance": float(np.median(looks.distance) / np.median(known.distance)),
    }  # fmt: skip
    return unknown, rule.score(looks) - rule.bar, facts


def _without_class(
    fold: _Fold, task: Task, label: int, temperature: float, usual: np.ndarray, settings: AnnotationSettings
) -> Looks | None:
    """Return how a fold's held-out cells of a class look to a classifier that never saw the class."""
    cells = fold.split.test[task.values[fold.split.test] == label]
    train = fold.parts.train[task.values[fold.parts.train] != label]
    if not len(cells) or len(np.unique(task.values[train])) < 2:
        return None
    predict = _learnt(fold.features, task, train, settings.seed)
    scores = with_temperature(predict(cells), temperature)
    (distances,) = neighbour_distances(fold.places, train, (cells,), settings.neighbours)
    return Looks(scores.max(axis=1), distances / usual[scores.argmax(axis=1)])
