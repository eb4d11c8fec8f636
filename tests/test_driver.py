"""The benchmark of a known driver: it runs, and ranks are counted as they should be."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def driver(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    return pytest.importorskip("driver")


def test_ties_count_against_the_driver(driver):
    scores = np.array([np.nan, 3.0, 1.0, 2.0, 2.0, np.nan])
    assert driver.rank_of(1, scores) == {"rank": 1, "genes": 4, "top": True}
    assert driver.rank_of(3, scores) == {"rank": 3, "genes": 4, "top": False}
    assert driver.rank_of(5, scores) == {"rank": None, "genes": 4, "top": False}
    many = np.arange(400.0)
    assert [driver.rank_of(gene, many)["top"] for gene in (396, 395)] == [True, False]  # 4 and 5 of 400


def test_ranks_are_read_off_the_readouts(driver, tiny_vocabulary):
    """Three genes; towards the goal and away from the start are added up, and the null is taken off."""
    first = tiny_vocabulary.n_special
    shifts = {
        ("cell", ""): [3.0, 2.0, 1.0],
        ("state", "on"): [5.0, 0.0, 0.0],
        ("state", "off"): [4.0, 3.0, 0.0],
    }
    effects = pd.concat(
        pd.DataFrame(
            {
                "gene": tiny_vocabulary.ensembl_ids[first : first + 3], "readout": readout, "state": state,
                "shift": shift, "null_mean": [0.0, 0.0, -9.0],
            }
        )
        for (readout, state), shift in shifts.items()
    )  # fmt: skip
    ranks = driver.ranks_of_effects(effects, tiny_vocabulary, first, goal="off")
    found = {key: rank["rank"] for key, rank in ranks.items()}
    assert found == {
        ("cell", "shift"): 1, ("cell", "excess"): 2,
        ("goal", "shift"): 1, ("goal", "excess"): 2,
        ("goal_less_start", "shift"): 3, ("goal_less_start", "excess"): 3,
    }  # fmt: skip


@pytest.mark.slow
def test_a_small_case(repository, tmp_path):
    """A driver whose expression differs is the first that differential expression names."""
    out = tmp_path / "results.json"
    script = repository / "benchmarks" / "driver.py"
    command = [sys.executable, script, "--quick", "--steps", "20", "--out", out]
    for _ in range(2):  # the second call finds the case done
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert str(tmp_path) not in out.read_text()
    result = json.loads(out.read_text())
    (case,) = result["cases"]
    assert case["step"] == 20
    assert 0 < case["targets"] <= case["leads_to"] < 100
    rows = pd.DataFrame(result["rows"])
    assert rows.groupby("model").size().to_dict() == {"none": 6, "trained": 30, "untrained": 18}
    assert rows["genes"].between(90, 100).all()
    assert (rows["rank"].dropna() <= rows["genes"][rows["rank"].notna()]).all()
    assert rows.set_index("readout").loc["differential_expression", "rank"] == 1
    for row in result["summary"]:
        assert row["cases"] == len(row["ranks"]) == 1
        assert row["top"] == (row["ranks"][0] == 1)  # one gene of a hundred


@pytest.mark.slow
def test_results_of_other_conditions_are_refused(repository, tmp_path):
    out = tmp_path / "results.json"
    out.write_text(json.dumps({"conditions": {"genes": 7}, "cases": []}))
    script = repository / "benchmarks" / "driver.py"
    command = [sys.executable, script, "--quick", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "other conditions" in done.stderr
    assert json.loads(out.read_text()) == {"conditions": {"genes": 7}, "cases": []}
