"""The benchmark of the linear methods runs, compares equal coefficients, and writes what others rely on."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_network_methods(repository, tmp_path):
    out = tmp_path / "results.json"
    script = repository / "benchmarks" / "network_methods.py"
    done = subprocess.run(
        [sys.executable, script, "--quick", "--out", out], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert {"device", "versions", "conditions", "rows", "ratios", "largest_difference"} <= set(result)
    ratios, apart = result["ratios"], result["largest_difference"]
    assert set(apart) == set(ratios) >= {"ridge_vs_sklearn", "elastic_net_vs_sklearn"}
    assert all(value > 0 for value in ratios.values())
    assert apart["ridge_vs_sklearn"] < 1e-6
    assert apart["elastic_net_vs_sklearn"] < 1e-6
