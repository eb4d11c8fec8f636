"""The benchmark of the screen: it runs, and its figures agree with each other."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def test_one_cell(repository, tmp_path):
    out = tmp_path / "results.json"
    command = [sys.executable, repository / "benchmarks" / "screen.py", "--quick", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) not in out.read_text()
    result = json.loads(out.read_text())
    (row,) = result["rows"]
    assert (row["cells"], row["kind"], row["ranked_by"]) == (1, "knockout", "cell shift")
    assert row["n_passes_exact_run"] == row["genes"] + 1
    assert row["times_fewer_passes"] == pytest.approx(row["n_passes_exact_run"] / row["n_passes"])
    assert row["recall_before_exact_runs"] <= row["recall"] <= 1.0
    assert result["summary"]["knockout, cell shift"]["recall"] == row["recall"]
