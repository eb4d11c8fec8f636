"""Cells unlike anything a classifier has learnt: far from what it knows, and not sure what to call them.

How far and how unsure an unknown kind looks is learnt where it can be: each class is left out of the
reference once and plays the unknown. The bar is set by the known cells alone, so the share of them that is
lost is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_EDGE = 1e-6


@dataclass(frozen=True, eq=False)
class Looks:
    """How some cells look to a classifier: ``(n,)`` probability of the best class, and distance.

    Parameters
    ----------
    probability
        Of the class predicted.
    distance
        Mean distance to the nearest reference cells, over the median distance of reference cells that are
        predicted the same.
    """

    probability: np.ndarray
    distance: np.ndarray

    @property
    def features(self) -> np.ndarray:
        """``(n, 2)``: log odds of not being what is predicted, and log distance."""
        sure = np.clip(self.probability, _EDGE, 1 - _EDGE)
        return np.column_stack([np.log((1 - sure) / sure), np.log(np.maximum(self.distance, _EDGE))])

    def take(self, rows: np.ndarray) -> Looks:
        """Return some of the cells."""
        return Looks(self.probability[rows], self.distance[rows])


@dataclass(frozen=True)
class NoveltyRule:
    """How much each look counts, and from where a cell is unknown.

    Parameters
    ----------
    weights
        Of the two columns of `Looks.features`.
    bar
        Scores above it are unknown.
    """

    weights: tuple[float, float]
    bar: float

    def score(self, looks: Looks) -> np.ndarray:
        """Return how unlike the reference each cell is, ``(n,)``; comparable with `bar`."""
        return looks.features @ np.asarray(self.weights)

    def unknown(self, looks: Looks) -> np.ndarray:
        """Return which cells are unknown, ``(n,)`` bool."""
        return self.score(looks) > self.bar


def fit_novelty(
    known: Looks, left_out: dict[str, Looks], *, share: float
) -> tuple[NoveltyRule, dict[str, float]]:
    """Return a rule that calls `share` of the known cells unknown, and what it finds of classes left out.

    Parameters
    ----------
    known
        Reference cells as a classifier sees them that did not learn from them.
    left_out
        Class -> its cells as a classifier sees them that never saw the class. With fewer than two of them
        distance alone decides.
    share
        Of known cells, in (0, 1).

    Returns
    -------
    tuple
        The rule, and for each class the share of its cells that the rule found whose weights were fitted on
        the other classes.
    """
    found = {}
    for name, looks in left_out.items():
        others = [other for kept, other in left_out.items() if kept != name]
        found[name] = float(_rule(known, others, share).unknown(looks).mean())
    return _rule(known, list(left_out.values()), share), found


def _rule(known: Looks, novel: list[Looks], share: float) -> NoveltyRule:
    weights = _weights(known, novel) if len(novel) >= 2 else (0.0, 1.0)
    scores = known.features @ np.asarray(weights)
    return NoveltyRule(weights, float(np.quantile(scores, 1 - share)))


def _weights(known: Looks, novel: list[Looks]) -> tuple[float, float]:
    """Return the weights that tell classes left out from known cells best; every class counts the same."""
    from sklearn.linear_model import LogisticRegression

    features = np.concatenate([known.features, *(looks.features for looks in novel)])
    sizes = np.array([len(known.probability), *(len(looks.probability) for looks in novel)])
    shares = np.array([1.0, *([1 / len(novel)] * len(novel))])
    weight = np.repeat(shares / np.maximum(sizes, 1), sizes) * len(features)
    scale = features.std(axis=0) + 1e-9
    model = LogisticRegression(C=1.0)
    model.fit(features / scale, np.arange(len(features)) >= sizes[0], sample_weight=weight)
    fitted = np.maximum(model.coef_[0] / scale, 0.0)  # being surer, or nearer, is never a sign of the unknown
    return (float(fitted[0]), float(fitted[1])) if fitted.any() else (0.0, 1.0)


def neighbour_distances(
    places: np.ndarray, reference: np.ndarray, asked: tuple[np.ndarray, ...], neighbours: int
) -> list[np.ndarray]:
    """Return the mean distance of cells to their nearest reference cells."""
    from sklearn.neighbors import NearestNeighbors

    k = min(neighbours, len(reference))
    index = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(places[reference])
    return [
        np.asarray(index.kneighbors(places[cells])[0].mean(axis=1), dtype=np.float64)
        if len(cells)
        else np.empty(0)
        for cells in asked
    ]


def usual_distances(distances: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Return the median distance of held-out cells by predicted class, ``(n_classes,)``; of all, if none."""
    overall = max(float(np.median(distances)), 1e-9)
    medians = np.full(n_classes, overall)
    for label in range(n_classes):
        own = distances[predicted == label]
        if len(own) >= 3:
            medians[label] = max(float(np.median(own)), 1e-9)
    return medians
