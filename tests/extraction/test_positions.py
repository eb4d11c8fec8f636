"""What positions predict, against loops over the eager attention matrices; and that it is used."""

import numpy as np
import pytest

from geneformer_grn.extraction import streaming
from geneformer_grn.extraction.attention import AttentionSettings, attention_by_head, attention_edges
from geneformer_grn.extraction.positions import position_bins, position_expectation

ALL_HEADS = [(layer, head) for layer in range(2) for head in range(2)]
N_BINS = 5


@pytest.fixture(scope="module")
def bins(tiny_encoder, ranked):
    return position_bins(ranked, np.arange(len(ranked)), tiny_encoder, N_BINS)


def by_loops(eager, bins, cells):
    """The mean of p × L over pairs of different genes, by bin of the query and of the key."""
    sums, counts = np.zeros((2, 2, N_BINS, N_BINS)), np.zeros((N_BINS, N_BINS))
    for cell in cells:
        ids, matrices = eager[cell]
        for query in range(1, len(ids) - 1):
            for key in range(1, len(ids) - 1):
                if query != key:
                    sums[:, :, bins[query], bins[key]] += matrices[:, :, query, key] * len(ids)
                    counts[bins[query], bins[key]] += 1
    assert (counts > 0).all()
    return sums / counts


def test_bins_hold_about_equally_many_genes(ranked, bins, eager):
    held = np.concatenate([bins[1 : len(ids) - 1] for ids, _ in eager])
    sizes = np.bincount(held, minlength=N_BINS)
    assert np.all(np.diff(bins) >= 0)
    assert sizes.min() > 0.75 * len(held) / N_BINS
    assert sizes.max() < 1.25 * len(held) / N_BINS


@pytest.mark.parametrize("chunk", [1 << 22, 300])
def test_expectation_equals_loops(tiny_encoder, ranked, eager, bins, chunk, monkeypatch):
    monkeypatch.setattr(streaming, "SCORES_PER_CHUNK", chunk)
    found = position_expectation(
        tiny_encoder, ranked, np.arange(30), ALL_HEADS, n_bins=N_BINS, n_cells=30, token_budget=200
    )
    np.testing.assert_allclose(found.table(), by_loops(eager, bins, range(30)), rtol=1e-6)


def test_residual_ratio_equals_eager(tiny_encoder, ranked, genes, eager, bins, mean_over_cells, monkeypatch):
    monkeypatch.setattr(streaming, "SCORES_PER_CHUNK", 500)
    expected = by_loops(eager, bins, range(30)).reshape(4, N_BINS, N_BINS)

    def reading(ids, matrices):
        place = bins[: len(ids)]
        return matrices.reshape(4, len(ids), -1) * len(ids) / expected[:, place[:, None], place[None, :]]

    weights, _ = mean_over_cells(reading)
    settings = AttentionSettings(correction="rank_position", position_bins=N_BINS, min_support=3)
    call = {"regulators": genes[0], "targets": genes[1], "settings": settings}
    together = attention_edges(tiny_encoder, ranked, **call)
    np.testing.assert_allclose(together.weights, weights.mean(axis=0), rtol=2e-6)
    alone = attention_by_head(tiny_encoder, ranked, **call)
    for found, wanted in zip(alone.values(), weights, strict=True):
        np.testing.assert_allclose(found.weights, wanted, rtol=2e-6)


def test_few_cells_are_spread_evenly(tiny_encoder, ranked, eager, bins):
    """The prediction is taken from 3 of the 30 cells: the first, the middle one and the last."""
    found = position_expectation(
        tiny_encoder, ranked, np.arange(30), ALL_HEADS, n_bins=1, n_cells=3, token_budget=200
    )
    total = n = 0
    for cell in (0, 14, 29):
        ids, matrices = eager[cell]
        inner = matrices[:, :, 1:-1, 1:-1] * len(ids)
        total += inner.sum(axis=(2, 3)) - np.trace(inner, axis1=2, axis2=3)
        n += (len(ids) - 2) * (len(ids) - 3)
    np.testing.assert_allclose(found.table()[:, :, 0, 0], total / n, rtol=1e-6)
