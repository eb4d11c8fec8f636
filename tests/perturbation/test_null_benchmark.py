"""The benchmarks of the null and of the position shift: they run, and agree with themselves."""

import json
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

pytestmark = pytest.mark.slow


@pytest.fixture
def run(repository, tmp_path):
    """Run a benchmark with --quick; return its JSON."""

    def run(name, *arguments):
        out = tmp_path / "results.json"
        command = [sys.executable, repository / "benchmarks" / f"{name}.py", "--quick", "--out", out]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert str(tmp_path) not in out.read_text()
        return json.loads(out.read_text())

    return run


def test_runs_with_nothing_to_find(run):
    result = run("null", "--runs", "3", "--cells", "90", "--nulls", "40", "--genes", "4")
    assert set(result["summary"]) == {
        "shuffled_groups", "shuffled_groups_front", "shuffled_states", "random_weights",
    }  # fmt: skip
    for scenario, found in result["summary"].items():
        rows = [row for row in result["rows"] if row["scenario"] == scenario]
        assert found["runs"] == len(rows) == 3
        assert {row["n_null_fewest"] for row in rows} == {40}
        assert {row["tests"] for row in rows} == {4 if scenario == "random_weights" else 8}
        p = np.concatenate([np.array(row["p_value"].split(), dtype=float) for row in rows])
        assert found["p"]["p_value"]["share_to_0.5"] == np.mean(p <= 0.5)
        assert found["p"]["p_value"]["ks"] == pytest.approx(stats.kstest(p, "uniform").statistic)
        for name, counted in found["any_q_below_0.05"].items():
            n = sum(row[name] < 0.05 for row in rows)
            assert counted["runs_with_any"] == n
            high = stats.beta.ppf(0.975, n + 1, 3 - n) if n < 3 else 1.0
            assert counted["interval"][1] == pytest.approx(high)


def test_the_share_that_is_position_shift(run):
    result = run("position_shift")
    (summary,) = result["summary"].values()
    assert set(summary) == {"all", "front", "middle", "end"}
    rows = result["rows"]
    moved, deleted = (np.array([row[key] for row in rows]) for key in ("position_shift", "delete"))
    np.testing.assert_allclose(moved, deleted - [row["knockout"] for row in rows])
    assert summary["all"]["genes"] == len(rows) == 6
    assert summary["all"]["position_share"] == pytest.approx(moved.sum() / deleted.sum())
    low, high = summary["all"]["interval"]
    assert low <= summary["all"]["position_share"] <= high
