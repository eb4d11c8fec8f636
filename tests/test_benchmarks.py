"""Benchmarks run, agree with themselves, and write what others rely on; speed itself is not tested."""

import json
import math
import statistics
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def run(repository, tmp_path):
    """Run a benchmark with --quick; return its JSON, read strictly."""

    def run(name, *arguments):
        out = tmp_path / "results.json"
        command = [sys.executable, repository / "benchmarks" / f"{name}.py", "--quick", "--out", out]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        text = out.read_text()
        assert str(tmp_path) not in text
        return json.loads(text)

    return run


def test_tokenise(run):
    result = run("tokenise", "--cells", "30")
    assert {"device", "versions", "conditions", "rows", "ratios"} <= set(result)
    assert set(result["device"]) == {"cpu", "cores"}
    assert result["conditions"]["threads"] == 1
    assert result["conditions"]["ties_a_cell_mean"] > 0  # else equal tokens would say nothing about ties
    assert 1_500 < result["conditions"]["genes_a_cell_mean"] < 2_500
    repetitions = result["conditions"]["repetitions"]
    seconds = {}
    for row in result["rows"]:
        assert row["cells"] == 30
        assert row["seconds"] > 0
        assert row["cells_per_s"] == pytest.approx(30 / row["seconds"])
        seconds.setdefault(row["name"], []).append(row["seconds"])
    assert {len(times) for times in seconds.values()} == {repetitions}
    assert {"memory_vs_argsort", "memory_vs_reference", "disk_vs_reference"} <= set(result["ratios"])
    assert all(math.isfinite(value) and value > 0 for value in result["ratios"].values())
    # Larger is better for ours: the other's seconds over ours, within each repetition.
    for key, ours, other in (
        ("memory_vs_argsort", "ours_memory", "argsort"),
        ("memory_vs_reference", "ours_memory", "reference_memory"),
        ("disk_vs_reference", "ours_disk", "reference_disk"),
    ):
        by_hand = [b / a for a, b in zip(seconds[ours], seconds[other], strict=True)]
        assert result["ratios"][key] == pytest.approx(statistics.median(by_hand))


def test_tokenise_refuses_no_cells(repository, tmp_path):
    out = tmp_path / "results.json"
    command = [sys.executable, repository / "benchmarks" / "tokenise.py", "--cells", "0", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "at least 1" in done.stderr
    assert not out.exists()
