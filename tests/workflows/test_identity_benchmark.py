"""The parts of the benchmark of identity regulators: degrees, strengths, specificity, the baseline."""

import importlib.util
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from geneformer_grn.network.scored import ScoredPairs


@pytest.fixture(scope="module")
def benchmark(repository):
    sys.path.insert(0, str(repository / "benchmarks"))
    try:
        place = repository / "benchmarks" / "identity_regulators.py"
        spec = importlib.util.spec_from_file_location("identity_regulators", place)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


def pairs_of(weights):
    weights = np.asarray(weights, dtype=np.float32)
    return ScoredPairs(
        regulators=np.array([f"r{row}" for row in range(len(weights))], dtype=object),
        targets=np.array([f"t{column}" for column in range(weights.shape[1])], dtype=object),
        weights=weights, support=np.full(weights.shape, 9, np.int32), method="x", signed=True,
    )  # fmt: skip


def test_out_strength(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "TOP", 3)
    monkeypatch.setattr(benchmark, "STRONGEST", 2)
    table = benchmark.out_strength(pairs_of([[0.1, -0.9, 0.8], [np.nan, 0.2, -0.3], [0.0, 0.7, np.nan]]))
    assert table["degree"].tolist() == [2, 0, 1]
    np.testing.assert_allclose(table["strength"], [0.85, 0.25, 0.35], rtol=1e-6)


def test_specificity_is_against_the_mean_of_the_others(benchmark):
    def table(strength):
        frame = pd.DataFrame({"strength": strength, "degree": strength})
        return frame.set_axis(["a", "b", "c", "d"][: len(strength)])

    tables = {"x": table([4.0, 3.0, 2.0, 1.0]), "y": table([1.0, 2.0, 3.0]), "z": table([1.0, 2.0, 3.0])}
    tables[benchmark.EVERYONE] = table([1.0, 4.0, 3.0, 2.0])
    ranks = benchmark.with_specificity(tables)
    assert set(ranks) == {"x", "y", "z"}
    # percentiles in x: 1, 3/4, 1/2, 1/4; in the others 1/3, 2/3, 1, and 0 for d
    assert ranks["x"]["specificity"].to_dict() == {"a": 1, "b": 3, "c": 4, "d": 2}
    assert ranks["x"]["degree, all cells"].to_dict() == {"a": 4, "b": 1, "c": 2, "d": 3}


def test_the_baseline_is_the_mean_and_welchs_t(benchmark):
    generator = np.random.default_rng(0)
    inside, outside = generator.normal(size=(30, 6)), generator.normal(size=(50, 6))
    genes = np.array([f"g{number}" for number in range(6)], dtype=object)
    table = benchmark.own_expression(inside, outside, genes)
    t = stats.ttest_ind(inside, outside, equal_var=False).statistic
    assert table["mean expression"].tolist() == stats.rankdata(-inside.mean(axis=0)).tolist()
    assert table["differential expression"].tolist() == stats.rankdata(-t).tolist()
