"""``evaluate effects`` as a user calls it, on what ``perturb`` writes."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def run(invoke, tiny_h5ad, tiny_checkpoint, tmp_path):
    out = tmp_path / "run"
    done = invoke(
        "perturb", tiny_h5ad, "--out", out, "--model", tiny_checkpoint, "--genes", "GENE1,GENE2",
        "--cells", 6, "--readout", "cell,genes,expression", "--null-genes", 0, "--device", "cpu", "--quiet",
    )  # fmt: skip
    assert done.code == 0, done.err
    return out


@pytest.fixture
def truth(tiny_vocabulary, tmp_path):
    genes = tiny_vocabulary.ensembl_ids[tiny_vocabulary.n_special :]
    generator = np.random.default_rng(0)
    parts = [
        pd.DataFrame(
            {
                "gene": gene,
                "affected": genes,
                "effect": generator.normal(size=60),
                "q_value": generator.random(60),
            }
        )
        for gene in ("GENE1", "GENE2")
    ]
    path = tmp_path / "truth.tsv"
    pd.concat(parts).to_csv(path, sep="\t", index=False)
    return path


def test_scores_are_printed_and_written(invoke, run, truth, tiny_h5ad, tiny_checkpoint, tmp_path):
    out = tmp_path / "results.json"
    call = (
        "evaluate",
        "effects",
        run,
        "--truth",
        truth,
        "--model",
        tiny_checkpoint,
        "--fdr",
        0.4,
        "--out",
        out,
    )
    done = invoke(*call, "--cells", tiny_h5ad, "--quiet")
    assert done.code == 0, done.err
    assert "| expression, nats |" in done.out
    assert "| co-expression |" in done.out
    results = json.loads(out.read_text())
    card = results["cards"]["delete"]
    assert card["n_perturbed_genes"] == 2
    assert results["run"]["file"] == "cells.h5ad"
    as_json = invoke(*call, "--cells", tiny_h5ad, "--json", "--quiet")
    assert json.loads(as_json.out.splitlines()[-1])["cards"]["delete"] == card


def test_bad_truth_exits_2_with_one_line(invoke, run, truth, tiny_checkpoint, tmp_path):
    bad = tmp_path / "bad.tsv"
    pd.read_csv(truth, sep="\t").rename(columns={"affected": "target"}).to_csv(bad, sep="\t", index=False)
    done = invoke("evaluate", "effects", run, "--truth", bad, "--model", tiny_checkpoint, "--quiet")
    assert done.code == 2
    assert "lacks the column affected" in done.err
    assert "gene, affected, effect" in done.err
    done = invoke("evaluate", "effects", tmp_path, "--truth", truth, "--model", tiny_checkpoint, "--quiet")
    assert done.code == 2
    assert "--readout expression,genes" in done.err
