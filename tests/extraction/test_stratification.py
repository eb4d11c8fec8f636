"""Averaging over states, against loops; and what it is for: pairs that only mark a state disappear."""

import numpy as np
import pytest
from scipy.stats import rankdata

from geneformer_grn.extraction.stratification import stratified_edges
from geneformer_grn.network.inference import correlation_edges
from geneformer_grn.network.scored import ScoredPairs

STATES = np.array(["a"] * 30 + ["b"] * 25 + ["c"] * 3 + [""] * 40, dtype=object)


def made(rows, *, signed=False):
    """Scores that depend on the cells given, some pairs unscored."""
    generator = np.random.default_rng(len(rows))
    weights = generator.normal(size=(3, 4)).astype(np.float32)
    weights = weights if signed else np.abs(weights)
    weights[0, 0] = np.nan
    weights[1, 2] = np.nan if len(rows) == 30 else weights[1, 2]
    return ScoredPairs(
        regulators=np.array(["x", "y", "z"], dtype=object), targets=np.array(list("klmn"), dtype=object),
        weights=weights, support=np.full((3, 4), len(rows), dtype=np.int32), method="made", signed=signed,
    )  # fmt: skip


@pytest.mark.parametrize("signed", [True, False])
def test_mean_rank(signed):
    found = stratified_edges(lambda rows: made(rows, signed=signed), STATES)
    parts = []
    for size in (30, 25):
        weights = made(np.arange(size), signed=signed).weights
        scored = np.isfinite(weights)
        ranks = np.full(weights.shape, np.nan)
        ranks[scored] = (rankdata(np.abs(weights[scored])) - 0.5) / scored.sum() + 0.5 / scored.sum()
        parts.append(np.sign(weights) * ranks)
    expected = np.nanmean(np.stack(parts)[:, 1:], axis=0)
    np.testing.assert_allclose(found.weights[1:], expected, rtol=1e-6)
    assert np.isnan(found.weights[0, 0])
    assert (found.support == 55).all()
    assert found.signed == signed


def test_mean_z_score():
    found = stratified_edges(made, STATES, scale="z", min_cells=3)
    parts = []
    for size in (30, 25, 3):
        weights = made(np.arange(size)).weights
        parts.append((weights - np.nanmean(weights)) / np.nanstd(weights))
    expected = np.nanmean(np.stack(parts).reshape(3, -1)[:, 1:], axis=0)
    np.testing.assert_allclose(found.weights.ravel()[1:], expected - expected.min(), atol=1e-6)


def test_markers_of_states_are_no_edges():
    """Two genes high in one state and unrelated within it, and a pair that varies together everywhere."""
    generator = np.random.default_rng(0)
    high = np.repeat([0.0, 6.0], 200)
    driver = generator.normal(size=400)
    expression = np.stack(
        [
            high + generator.normal(size=400), driver,
            high + generator.normal(size=400), driver + generator.normal(size=400),
        ],
        axis=1,
    )  # fmt: skip
    names = np.array(list("mdnt"), dtype=object)

    def score(rows):
        return correlation_edges(expression[rows], names, regulators=["m", "d"], targets=["n", "t"])

    together = np.abs(score(np.arange(400)).weights)
    within = np.abs(stratified_edges(score, np.repeat(["a", "b"], 200)).weights)
    assert together[0, 0] > together[1, 1]
    assert within[1, 1] == within.max()
    assert within[0, 0] < within[1, 1]


def test_bad_calls():
    with pytest.raises(ValueError, match=r"no cell state has 31 cells: a \(30\), b \(25\), c \(3\)"):
        stratified_edges(made, STATES, min_cells=31)
    with pytest.raises(ValueError, match="none is labelled"):
        stratified_edges(made, STATES[-5:])
    with pytest.raises(ValueError, match="would shift the signs of made; use ranks"):
        stratified_edges(lambda rows: made(rows, signed=True), STATES, scale="z")
    with pytest.raises(ValueError, match="scale 'log' is unknown"):
        stratified_edges(made, STATES, scale="log")
