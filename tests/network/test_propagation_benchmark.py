"""The benchmark of predicted knock-outs runs, and its summary is what its rows say."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def test_quick_run(repository, tmp_path):
    out = tmp_path / "results.json"
    command = [sys.executable, repository / "benchmarks" / "propagation.py", "--quick", "--out", out]
    command += ["--genes", "100", "--cells", "400"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) not in out.read_text()
    result = json.loads(out.read_text())
    assert {"device", "versions", "conditions", "rows", "ratios", "summary", "goals"} <= set(result)
    rows = {(row["depth"], row["method"]): row for row in result["rows"]}
    for depth, card in result["summary"]["100"].items():
        for name, measures in card["methods"].items():
            for measure, found in measures.items():
                assert found["mean"] == pytest.approx(rows[depth, name][measure])
        r = {name: measures["r"]["mean"] for name, measures in card["methods"].items() if "r" in measures}
        assert r["no_change"] == 0
        assert r["true_network"] > r["ordered"] > r["covariance_all_types"]
        assert "r" not in card["methods"]["walk_ridge"]
        gained = result["goals"]["100"][depth]["more_than_covariance"]["mean"]
        assert gained == pytest.approx(r["ordered_averaged"] - r["covariance"])
    assert set(result["summary"]["100"]) == {"clean", "5000"}
