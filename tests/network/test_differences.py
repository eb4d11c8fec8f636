"""Differences between groups: the jackknife by hand, its calibration, planted changes, what is refused."""

import numpy as np
import pytest
from scipy import stats

from geneformer_grn.network.differences import edge_differences
from geneformer_grn.network.inference import correlation_edges

IDS = np.array([f"g{number}" for number in range(30)], dtype=object)


def correlate(matrix):
    return lambda rows: correlation_edges(
        matrix[rows], IDS, regulators=IDS[:10].tolist(), targets=IDS.tolist()
    )


def test_variance_and_p_value_by_hand():
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(61, 30))
    matrix[:, 29] = 1.0  # never varies: never compared
    first, second = np.arange(25), np.arange(25, 61)
    table = edge_differences(correlate(matrix), first, second, n_splits=12, seed=3)
    assert len(table) == 10 * 29 - 10
    dealing = np.random.default_rng([3, 25, 36])
    variance = np.zeros((10, 30))
    with np.errstate(invalid="ignore"):
        for _ in range(12):
            for cells in (first, second):
                dealt = dealing.permutation(cells)
                half = len(cells) // 2
                a, b = (np.corrcoef(matrix[part].T)[:10] for part in (dealt[:half], dealt[half:]))
                variance += (a - b) ** 2 / 4 / 12
        change = (np.corrcoef(matrix[first].T) - np.corrcoef(matrix[second].T))[:10]
    p = 2 * stats.t(12).sf(np.abs(change) / np.sqrt(variance))
    for row in table.itertuples():
        place = int(row.source[1:]), int(row.target[1:])
        assert row.difference == pytest.approx(change[place], abs=1e-6)
        assert row.weight_a - row.weight_b == pytest.approx(row.difference, abs=1e-6)
        assert row.p_value == pytest.approx(p[place], rel=1e-5)
        reach = stats.t(12).ppf(0.975) * np.sqrt(variance[place])
        assert (row.low, row.high) == pytest.approx((change[place] - reach, change[place] + reach), abs=1e-6)
    assert table["p_value"].is_monotonic_increasing
    np.testing.assert_allclose(table["q_value"], stats.false_discovery_control(table["p_value"]))


def test_p_values_are_uniform_where_only_means_and_noise_differ_and_small_where_edges_do():
    generator = np.random.default_rng(1)
    n = (160, 90)

    def cells(size, scale, linked):
        programme = generator.normal(size=(size, 1))
        matrix = generator.normal(size=(size, 30)) * scale + 5 * scale
        matrix[:, 20:25] += linked * programme * scale
        matrix[:, :2] += linked * programme * scale
        return matrix

    found = []
    for _ in range(6):
        matrix = np.concatenate([cells(n[0], 1.0, 0.0), cells(n[1], 3.0, 0.0)])
        groups = np.arange(n[0]), np.arange(n[0], sum(n))
        found.append(edge_differences(correlate(matrix), *groups, n_splits=30)["p_value"])
    p_values = np.concatenate(found)
    assert 0.03 < (p_values < 0.05).mean() < 0.075
    assert (p_values < 0.01).mean() < 0.02
    matrix = np.concatenate([cells(n[0], 1.0, 0.0), cells(n[1], 3.0, 1.6)])
    table = edge_differences(correlate(matrix), *groups, n_splits=30)
    changed = table["source"].isin(["g0", "g1"]) & table["target"].isin([f"g{i}" for i in range(20, 25)])
    assert (table["q_value"][changed] < 0.05).all()
    assert (table["difference"][changed] < 0).all()
    assert (table["q_value"][~changed] < 0.05).sum() <= 3  # g0 and g1 with each other, both ways, and chance


def test_no_difference_at_all_has_p_one():
    static = correlate(np.random.default_rng(0).normal(size=(40, 30)))(np.arange(40))
    table = edge_differences(lambda _: static, np.arange(10), np.arange(10, 20))
    assert (table["p_value"] == 1).all()
    assert (table["difference"] == 0).all()


def test_refusals():
    matrix = np.random.default_rng(0).normal(size=(40, 30))
    score = correlate(matrix)
    with pytest.raises(ValueError, match="a cell is in both groups"):
        edge_differences(score, np.arange(20), np.arange(19, 40))
    with pytest.raises(ValueError, match="10 splits or more, got 9"):
        edge_differences(score, np.arange(20), np.arange(20, 40), n_splits=9)
    with pytest.raises(ValueError, match="groups of 5 and 35 cells cannot be compared: 6 are needed"):
        edge_differences(score, np.arange(5), np.arange(5, 40))
    with pytest.raises(ValueError, match="no pair was scored in both groups"):
        edge_differences(correlate(np.ones((40, 30))), np.arange(20), np.arange(20, 40), n_splits=10)
