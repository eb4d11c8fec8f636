"""Integration scores against scikit-learn and brute force, and on cells whose answer is known."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_samples

from geneformer_grn.evaluation import integration
from geneformer_grn.evaluation.integration import (
    BATCH,
    BIO,
    SUMMARIES,
    IntegrationData,
    _half,
    integration_measures,
    require_integration,
    score_integration,
)

N = 120


@pytest.fixture(scope="module")
def cells():
    """Three labels far apart, two batches in each: ``mixed`` and ``split`` embeddings of the same cells."""
    rng = np.random.default_rng(0)
    labels, batches = np.repeat(["a", "b", "c"], N // 3), np.tile(["x", "y"], N // 2)
    mixed = 12 * np.eye(3, 5)[np.unique(labels, return_inverse=True)[1]] + rng.normal(size=(N, 5))
    split = mixed + np.where(batches == "x", 8.0, 0.0)[:, None] * np.eye(5)[3]
    return IntegrationData(labels, batches, split), mixed.astype(np.float32), split.astype(np.float32)


@pytest.fixture(scope="module")
def measured(cells):
    data, mixed, split = cells
    return {
        name: integration_measures(x, data, n_neighbours=31)
        for name, x in (("mixed", mixed), ("split", split))
    }


def simpson(embedding, names, k):
    """Inverse Simpson index of each cell's `k` - 1 others, weighted to a perplexity of k / 3."""
    indices = []
    for cell, point in enumerate(embedding.astype(float)):
        distance = np.linalg.norm(embedding - point, axis=1)
        distance[cell] = np.inf
        near = np.argsort(distance)[: k - 1]
        low, high = 1e-6, 1e3
        for _ in range(200):
            beta = (low + high) / 2
            weight = np.exp(-beta * (distance[near] - distance[near].min()))
            weight /= weight.sum()
            entropy = -np.sum(weight * np.log(np.maximum(weight, 1e-300)))
            low, high = (beta, high) if entropy > np.log(k // 3) else (low, beta)
        indices.append(1 / sum(weight[names[near] == name].sum() ** 2 for name in np.unique(names)))
    return np.median(indices)


@pytest.mark.parametrize("which", ["mixed", "split"])
def test_measures_equal_independent_ones(cells, measured, which):
    data = cells[0]
    embedding, found = cells[1 if which == "mixed" else 2], measured[which]
    silhouette = (silhouette_samples(embedding, data.labels) + 1) / 2
    assert found["silhouette_label"] == pytest.approx(silhouette.mean(), abs=1e-4)
    assert found["isolated_labels"] == pytest.approx(silhouette.mean(), abs=1e-4)  # all in both batches
    clusters = KMeans(3, n_init=10, random_state=0).fit_predict(embedding)
    assert found["kmeans_nmi"] == pytest.approx(normalized_mutual_info_score(data.labels, clusters), abs=1e-6)
    assert found["kmeans_ari"] == pytest.approx(adjusted_rand_score(data.labels, clusters), abs=1e-6)
    assert found["ilisi"] == pytest.approx(simpson(embedding, data.batches, 31) - 1, abs=0.01)
    assert found["clisi"] == pytest.approx((3 - simpson(embedding, data.labels, 31)) / 2, abs=0.01)
    # With two batches, the mean of the others is the nearest other: the silhouette as it is known.
    parts = [data.labels == label for label in "abc"]
    batch = [
        1 - np.abs(silhouette_samples(embedding[p], data.batches[p], metric="cosine")).mean() for p in parts
    ]
    assert found["bras"] == pytest.approx(np.mean(batch), abs=1e-3)


def test_known_extremes(measured):
    """Batches 8 deviations apart do not mix; the same cells without that shift do, and labels stay."""
    mixed, split = measured["mixed"], measured["split"]
    assert split["ilisi"] < 0.1
    assert mixed["ilisi"] > 0.6
    assert mixed["clisi"] > 0.99
    assert mixed["kmeans_ari"] == pytest.approx(1)
    assert split["pcr_comparison"] == pytest.approx(0, abs=1e-3)  # compared with itself
    assert mixed["pcr_comparison"] > 0.9
    assert mixed["batch"] > split["batch"] + 0.2
    for scores in measured.values():
        assert scores["bio"] == pytest.approx(np.mean([scores[m] for m in BIO]))
        assert scores["total"] == pytest.approx(
            0.6 * scores["bio"] + 0.4 * np.mean([scores[m] for m in BATCH])
        )


def test_halves_are_stratified(cells):
    data = cells[0]
    for seed in range(5):
        half = _half(data, np.random.default_rng(seed))
        assert len(half) == len(set(half.tolist())) == N // 2
        pairs, size = np.unique([data.labels[half], data.batches[half]], axis=1, return_counts=True)
        assert pairs.shape[1] == 6
        assert set(size) == {10}


def test_intervals_and_paired_differences(cells, monkeypatch):
    """With a mean in place of the measures: halves are the same cells for all embeddings."""

    def mean(embedding, data, *, n_neighbours):
        assert n_neighbours < len(embedding) == len(data.labels)
        return dict.fromkeys((*BIO, *BATCH, *SUMMARIES), float(np.abs(embedding).mean()))

    monkeypatch.setattr(integration, "integration_measures", mean)
    data, mixed, split = cells
    found = score_integration({"mixed": mixed, "same": mixed, "split": split}, data, n_halves=3, seed=1)
    for name, scores in found["scores"].items():
        for measure, (low, high) in found["intervals"][name].items():
            assert low < scores[measure] < high
    same, gap = found["differences"]["same"]["total"], found["differences"]["split"]["batch"]
    assert same == {"difference": 0, "low": 0, "high": 0}
    assert gap["difference"] == pytest.approx(np.abs(mixed).mean() - np.abs(split).mean())
    assert gap["high"] < 0
    assert "mixed" not in found["differences"]


def test_what_cannot_be_scored_is_refused(cells):
    data, mixed, _ = cells
    with pytest.raises(ValueError, match="embeds 119 cells"):
        score_integration({"m": mixed[1:]}, data)
    with pytest.raises(ValueError, match="not finite"):
        score_integration({"m": np.full_like(mixed, np.nan)}, data)
    with pytest.raises(ValueError, match="cannot be told from a label"):
        score_integration({"m": mixed}, IntegrationData(data.labels, data.labels, mixed))
    with pytest.raises(ValueError, match="same batch"):
        score_integration({"m": mixed}, IntegrationData(data.labels, np.repeat("x", N), mixed))
    few = np.arange(50)
    with pytest.raises(ValueError, match="at least 60"):
        score_integration({"m": mixed[few]}, data.take(few))


def test_a_missing_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scib_metrics", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "geneformer-grn\[integration\]"'):
        require_integration()
