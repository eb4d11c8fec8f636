"""Sums of pairs against plain dictionaries."""

import numpy as np
import pandas as pd

from geneformer_grn.perturbation import sums as module
from geneformer_grn.perturbation.sums import PairSums, mean_and_sd, pair_columns


def draw(seed, n=500):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 4, n), rng.integers(2, 9, n), rng.normal(size=(n, 2))


def test_sums_equal_plain_loops_however_they_are_buffered(monkeypatch):
    request, affected, values = draw(0)
    oracle = {}
    for key, row in zip(zip(request, affected, strict=True), values, strict=True):
        oracle.setdefault(key, []).append(row)
    for least in (1, 1 << 20):
        monkeypatch.setattr(module, "_LEAST_BUFFER", least)
        sums = PairSums(9, ["a", "b"])
        for start in range(0, 500, 37):
            rows = slice(start, start + 37)
            sums.add(request[rows], affected[rows], values[rows])
        frame = sums.frame()
        assert list(zip(frame["request"], frame["affected"], strict=True)) == sorted(oracle)
        assert frame["n_cells"].tolist() == [len(oracle[key]) for key in sorted(oracle)]
        expected = [np.sum(oracle[key], axis=0) for key in sorted(oracle)]
        np.testing.assert_allclose(frame[["a", "b"]], expected, rtol=1e-12, atol=1e-12)
        assert frame.dtypes.astype(str).tolist() == ["int64", "int32", "int64", "float64", "float64"]
        pd.testing.assert_frame_equal(sums.frame(), frame)


def test_nothing_seen_is_an_empty_frame_of_the_same_types():
    frame = PairSums(9, ["a"]).frame()
    assert frame.dtypes.astype(str).to_dict() == {
        "request": "int64", "affected": "int32", "n_cells": "int64", "a": "float64",
    }  # fmt: skip
    assert frame.empty


def test_mean_and_sd_equal_numpy(tiny_vocabulary):
    values = np.array([1.0, 4.0, 4.5])
    frame = pd.DataFrame(
        {"n_cells": [3, 1, 0], "x": [9.5, 2.0, 0.0], "x_squared": [(values**2).sum(), 4.0, 0.0]}
    )
    mean, sd = mean_and_sd(frame, "x")
    np.testing.assert_allclose(mean, [values.mean(), 2.0, np.nan])
    np.testing.assert_allclose(sd, [values.std(), 0.0, np.nan])
    pairs = pd.DataFrame({"request": [1, 0], "affected": [5, 6]})
    names = [np.array(pair, dtype=object) for pair in (("x", "y"), ("delete", "knockout"), ("g", "h"))]
    found = pair_columns(pairs, *names, tiny_vocabulary)
    assert {name: column.tolist() for name, column in found.items()} == {
        "gene": ["y", "x"],
        "affected": tiny_vocabulary.ensembl_ids[5:7].tolist(),
        "kind": ["knockout", "delete"],
        "group": ["h", "g"],
    }
