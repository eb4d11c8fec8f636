"""Rows of the suite: gains are positive where the model is better, intervals paired, words follow them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from geneformer_grn.workflows.suite_rows import (
    not_run,
    paired_gain,
    suite_row,
    summary_of,
    unit_row,
    verdict,
)


def gain(mean: float, low: float | None = None, high: float | None = None) -> dict:
    return {"mean": mean, "low": low, "high": high}


def made(**changes):
    values = {"model": 0.8, "untrained": 0.5, "pca": 0.7, "harmony": 0.9}
    ahead = {"untrained": gain(0.3, 0.2, 0.4), "pca": gain(0.1, 0, 0.2), "harmony": gain(-0.1, -0.2, -0.05)}
    return suite_row("t", "m", "d", **({"values": values, "ahead": ahead, "n": 5} | changes))


def test_the_best_baseline_is_the_one_to_beat():
    row = made()
    assert row["baselines"] == {"pca": 0.7, "harmony": 0.9}
    assert row["ahead_of_baseline"] == {"name": "harmony", "mean": -0.1, "low": -0.2, "high": -0.05}
    assert row["ahead_of_untrained"]["mean"] == 0.3
    assert made(higher_is_better=False)["ahead_of_baseline"]["name"] == "pca"
    assert set(row["ahead_of"]) == {"pca", "harmony"}


def test_what_is_not_known_is_null():
    values = {"model": 0.8, "untrained": np.nan, "pca": 0.7, "other": float("nan")}
    ahead = dict.fromkeys(("untrained", "pca", "other"), gain(0.1, np.nan, np.inf))
    row = made(values=values, ahead=ahead)
    assert row["untrained"] is None
    assert row["ahead_of_baseline"] == {"name": "pca", "mean": 0.1, "low": None, "high": None}
    json.dumps(row, allow_nan=False)
    nothing = made(values={"model": 0.8, "untrained": 0.5, "pca": np.nan}, ahead=ahead)
    assert nothing["ahead_of_baseline"]["name"] == "pca"


def test_units_are_paired():
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 10, 200)
    units = {"model": hard + 0.3 + rng.normal(0, 0.1, 200), "untrained": hard, "pca": hard - 1}
    row = unit_row("t", "m", "d", units=units, seed=1)
    found = row["ahead_of_untrained"]
    gaps = units["model"] - units["untrained"]
    assert found["mean"] == pytest.approx(gaps.mean())
    half = 1.96 * gaps.std() / np.sqrt(200)
    assert found["low"] == pytest.approx(gaps.mean() - half, abs=0.2 * half)
    assert found["high"] == pytest.approx(gaps.mean() + half, abs=0.2 * half)
    assert row["model"] == pytest.approx(units["model"].mean())
    assert row["n"] == 200


def test_groups_widen_an_interval_that_is_between_them():
    groups = np.repeat(np.arange(4), 50)
    ours = np.repeat([0.0, 0.1, 0.4, 0.5], 50)
    alone = paired_gain(ours, np.zeros(200), seed=0)
    grouped = paired_gain(ours, np.zeros(200), seed=0, groups=groups)
    assert grouped["high"] - grouped["low"] > 3 * (alone["high"] - alone["low"])
    assert grouped["mean"] == alone["mean"]


@pytest.mark.parametrize(
    ("ends", "word"),
    [((0.1, 0.2), "ahead"), ((-0.2, -0.1), "behind"), ((-0.1, 0.1), "level"), ((0.0, 0.1), "level"),
     ((None, None), "level")],
)  # fmt: skip
def test_the_word_follows_the_interval(ends, word):
    assert verdict(gain(0.0, *ends)) == word


def test_all_rows_are_counted():
    rows = [made(), made(higher_is_better=False), not_run("t", "d", reason="no file", sources=["a", "b"])]
    assert summary_of(rows) == {
        "n_rows": 2,
        "n_not_run": 1,
        "against_untrained": {"ahead": 2, "level": 0, "behind": 0},
        "against_best_baseline": {"ahead": 0, "level": 1, "behind": 1},
    }
    assert not_run("t", "d", reason="a | b\n c")["not_run"] == "a / b c"
    assert rows[2] == {"task": "t", "data": "d", "not_run": "no file", "source": "a; b"}
