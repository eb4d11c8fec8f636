"""Averaged responses against chains that are known, regressions half by half, and noise that was put in."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from geneformer_grn.network.ordered_response import counting_noise, ordered_response
from geneformer_grn.network.ordering import scaled_levels
from geneformer_grn.network.responses import marginal_response

GENES = np.array(["A", "B", "C", "D"], dtype=object)


def ordered_chain(n: int) -> np.ndarray:
    """A -> B -> C with noise of variance = mean; D on its own."""
    rng = np.random.default_rng(3)
    a = rng.normal(16, 4, n)
    b = 12 + 0.9 * (a - 16) + rng.normal(0, np.sqrt(12), n)
    c = 10 - 0.8 * (b - 12) + rng.normal(0, np.sqrt(10), n)
    return np.column_stack([a, b, c, rng.normal(9, 3, n)])


def test_ordered_response_leads_downwards_only():
    changes = {"A": -10.0, "B": -10.0, "D": -9.0}
    found = ordered_response(ordered_chain(8_000), GENES, changes, regulators=["A", "B"], n_halves=3)
    wide = found.pivot_table(index="source", columns="gene", values="effect", fill_value=0.0)
    np.testing.assert_allclose(wide.loc["A"], [-10.0, -9.0, 7.2, 0.0], atol=0.4)
    np.testing.assert_allclose(wide.loc["B"], [0.0, -10.0, 8.0, 0.0], atol=0.4)
    np.testing.assert_allclose(wide.loc["D"], [0.0, 0.0, 0.0, -9.0], atol=1e-9)
    assert found.loc[(found["source"] == "A") & (found["gene"] == "C"), "hop"].tolist() == [2]
    # the marginal covariance sends the loss of B up to A
    marginal = marginal_response(ordered_chain(8_000), GENES, changes).set_index(["source", "gene"])
    assert marginal.loc[("B", "A"), "effect"] < -3


def test_ordered_response_is_an_average_and_repeats():
    levels = ordered_chain(400)
    asked = {"gene_ids": GENES, "changes": {"A": -1.0}, "regulators": ["A", "B"]}
    one, again, three = (
        ordered_response(levels, **asked, n_halves=n, seed=0).set_index("gene")["effect"] for n in (1, 1, 3)
    )
    pd.testing.assert_series_equal(one, again)
    rng = np.random.default_rng(0)
    halves = [np.sort(rng.permutation(400)[:200]) for _ in range(3)]
    expected = [np.polyfit(levels[rows, 0], levels[rows, 1], 1)[0] for rows in halves]
    assert three["B"] == pytest.approx(-np.mean(expected), rel=0.02)
    assert one["B"] == pytest.approx(-expected[0], rel=0.02)
    nothing = ordered_response(np.random.default_rng(0).normal(9, 3, (40, 4)), **asked)
    assert nothing.loc[nothing["gene"] == "A", "effect"].tolist() == [-1.0]
    with pytest.raises(ValueError, match="0 halves of 400 cells"):
        ordered_response(levels, **asked, n_halves=0)


def test_counting_noise_is_what_counting_adds():
    rng = np.random.default_rng(0)
    n = 20_000
    true = rng.gamma(8, 2.0, (n, 60))
    depth = rng.lognormal(0, 0.3, (n, 1))
    counts = rng.poisson(true * depth / 4)
    levels, steady = scaled_levels(counts.astype(float)), scaled_levels(true * depth)
    unit = levels.mean(axis=0) / steady.mean(axis=0)
    added = levels.var(axis=0) - (steady * unit).var(axis=0)
    np.testing.assert_allclose(counting_noise(counts), added, rtol=0.1)
    np.testing.assert_allclose(counting_noise(sparse.csr_matrix(counts)), counting_noise(counts))
    assert counting_noise(np.zeros((3, 4))).tolist() == [0, 0, 0, 0]


def test_half_of_the_noise_is_taken_out():
    """What a poorly counted regulator explains is its covariance over a variance with less noise in it."""
    rng = np.random.default_rng(0)
    a = rng.gamma(4, 2.0, 20_000)
    true = np.column_stack([a, rng.gamma(9, 2.0, len(a)), 3 + 1.2 * a + rng.normal(0, 2, len(a)), a])
    noisy = true + rng.normal(0, 3.0, true.shape)
    asked = {"regulators": ["A", "B"], "n_halves": 5}
    covariance = np.cov(noisy, rowvar=False)
    for noise, variance in ((None, covariance[0, 0]), (np.full(4, 9.0), covariance[0, 0] - 4.5)):
        found = ordered_response(noisy, GENES, {"A": -1.0}, **asked, noise=noise).set_index("gene")["effect"]
        assert found["C"] == pytest.approx(-covariance[0, 2] / variance, rel=0.02)
        assert found.get("B", 0.0) == pytest.approx(0.0, abs=0.02)
    drowned = ordered_response(noisy, GENES, {"A": -1.0}, **asked, noise=np.full(4, 1e4))
    assert np.isfinite(drowned["effect"]).all()
    with pytest.raises(ValueError, match="4 genes need as many variances"):
        ordered_response(noisy, GENES, {"A": -1.0}, **asked, noise=np.ones(3))
    with pytest.raises(ValueError, match="'X' is not in"):
        ordered_response(noisy, GENES, {"X": -1.0}, **asked)
