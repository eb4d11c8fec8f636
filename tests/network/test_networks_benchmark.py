"""The table of networks runs, resumes and agrees with itself; how good methods are is not tested."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_networks(repository, tmp_path):
    out = tmp_path / "networks.json"
    script = repository / "benchmarks" / "networks.py"
    command = [sys.executable, script, "--quick", "--only", "simulated", "speed", "--out", out]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    result = json.loads(out.read_text())
    assert {"device", "versions", "conditions", "rows", "comparisons", "summary", "goals"} <= set(result)
    assert set(result["ratios"]) == {"ridge_vs_sklearn", "elastic_net_vs_sklearn"}
    methods = {row["method"] for row in result["rows"]}
    assert {"ridge", "ordered", "combined", "best_single", "rank_aggregate", "target degree"} <= methods
    assert {row["depth"] for row in result["rows"]} == {"clean", "1k"}
    by_key = {(row["depth"], row["method"]): row for row in result["rows"]}
    assert len(by_key) == len(result["rows"])
    for one in result["comparisons"]:
        ours, other = (by_key[one["depth"], one[name]] for name in ("method", "other"))
        assert one["difference"] == pytest.approx(ours["auprc_ratio"] - other["auprc_ratio"])
        assert one["low"] <= one["high"]
    for row in result["rows"]:
        assert row["auprc_ratio_low"] <= row["auprc_ratio_high"]
        assert row["counted"] == (row["n_regulators"] >= 20)
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "auprc_ratio" not in again.stdout  # nothing left to do
    assert json.loads(out.read_text()) == result
