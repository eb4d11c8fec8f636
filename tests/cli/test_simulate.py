"""The verb ``simulate``: what it writes, that it can be read on, and how it refuses."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest

CALL = ("simulate", "--genes", 50, "--cells", 120, "--perturbed-cells", 30, "--quiet")


def test_it_writes_cells_truth_and_knockouts(invoke, tmp_path):
    out = tmp_path / "made"
    answer = invoke(*CALL, "--out", out, "--umi", 800, "--knockouts", 4, "--json", "--seed", 3)
    assert answer.code == 0, answer.err
    summary = json.loads(answer.out.splitlines()[-1])
    cells = anndata.read_h5ad(out / "cells.h5ad")
    truth = pd.read_csv(out / "truth.tsv", sep="\t")
    assert cells.shape == (120, 50) == (summary["n_cells"], summary["n_genes"])
    assert np.array_equal(cells.X.data, np.round(cells.X.data))
    assert cells.layers["clean"].shape == (120, 50)
    assert list(truth.columns) == ["source", "target", "sign", "strength"]
    assert len(truth) == summary["n_edges"]
    assert set(truth["sign"]) == {-1, 1}
    assert set(truth["source"]) | set(truth["target"]) == set(cells.var_names)
    assert set(truth["source"]) == set(cells.var_names[cells.var["is_regulator"]])
    knockouts = anndata.read_h5ad(out / "knockouts.h5ad")
    effects = pd.read_parquet(out / "knockout_effects.parquet")
    assert knockouts.n_obs == 5 * 30
    assert set(knockouts.obs["perturbation"]) == {"control", *effects["gene"]}
    record = json.loads((out / "parameters.json").read_text())
    assert record["seed"] == 3
    assert record["settings"]["sequencing"]["umi"] == 800
    assert record["files"] == ["cells.h5ad", "knockout_effects.parquet", "knockouts.h5ad", "truth.tsv"]
    assert cells.uns["geneformer_grn"]["simulate"]["seed"] == 3


def test_the_same_call_writes_the_same(invoke, tmp_path):
    for name, threads in (("a", 1), ("b", 2)):
        assert invoke(*CALL, "--out", tmp_path / name, "--threads", threads, "--driver", "auto").code == 0
    one, two = (anndata.read_h5ad(tmp_path / name / "cells.h5ad") for name in "ab")
    assert (one.X != two.X).nnz == 0
    assert set(one.obs["state"]) == {"on", "off"}
    for name in ("truth.tsv", "knockout_effects.parquet"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_options_reach_what_they_name(invoke, tmp_path):
    answer = invoke(
        *CALL, "--out", tmp_path, "--regulators", 20, "--density", 0.08, "--cell-types", 2, "--no-clean",
        "--knockouts", 0, "--overexpressed", 1, "--gene-names", "synthetic", "--topology", "hubs",
        "--repressing", 0, "--library-sd", 0, "--dropout", 50, "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert json.loads(answer.out.splitlines()[-1])["n_edges"] == round(0.08 * 20 * 49)
    cells = anndata.read_h5ad(tmp_path / "cells.h5ad")
    assert cells.obs["cell_type"].nunique() == 2
    assert not cells.layers
    assert all(gene.startswith("SIM") for gene in cells.var_names)
    assert set(pd.read_csv(tmp_path / "truth.tsv", sep="\t")["sign"]) == {1}
    assert not (tmp_path / "knockouts.h5ad").exists()
    assert pd.read_parquet(tmp_path / "overexpressed_effects.parquet")["gene"].nunique() == 1


def test_a_network_of_ones_own(invoke, tmp_path):
    table = pd.DataFrame({"source": ["A", "A", "B"], "target": ["B", "C", "C"], "sign": [1, -1, 1]})
    table.to_csv(tmp_path / "edges.tsv", sep="\t", index=False)
    answer = invoke(
        "simulate", "--network", tmp_path / "edges.tsv", "--cells", 40, "--out", tmp_path / "out", "--quiet"
    )
    assert answer.code == 0, answer.err
    truth = pd.read_csv(tmp_path / "out" / "truth.tsv", sep="\t")
    pd.testing.assert_frame_equal(truth[["source", "target", "sign"]], table)
    record = json.loads((tmp_path / "out" / "parameters.json").read_text())
    assert (record["network"], record["settings"]["topology"]) == ("edges.tsv", None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --genes N"),
        (["--genes", 50, "--network", "edges.tsv"], "give either --genes N"),
        (["--network", "nowhere.tsv"], "no network at"),
        (["--genes", 0], "2 genes at least, got 0"),
        (["--genes", 10, "--regulators", 11], "11 regulators of 10 genes"),
        (["--genes", 10, "--knockouts", 11], "11 perturbed genes of 10"),
        (["--genes", 10, "--cells", 0], "cells: at least 1 is needed, got 0"),
        (["--genes", 10, "--umi", 0], "more than 0 molecules"),
        (["--genes", 10, "--driver", "TP53"], "'TP53' is not in the network"),
        (["--genes", 10, "--density", 1], "lower the density"),
        (["--genes", 10, "--gene-names", "mouse"], "gene names 'mouse' are unknown"),
        (["--genes", 40_000, "--regulators", 9], "39,991 other genes were asked for"),
    ],
)
def test_wrong_calls_end_with_2_and_write_nothing(invoke, tmp_path, arguments, message):
    answer = invoke("simulate", *arguments, "--out", tmp_path / "out", "--quiet")
    assert answer.code == 2
    assert answer.err.count("error:") == 1
    assert message in answer.err
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_refused_before_the_work(invoke, tmp_path):
    (tmp_path / "out").write_text("mine")
    answer = invoke(*CALL, "--out", tmp_path / "out")
    assert answer.code == 2
    assert "is a file" in answer.err
    assert (tmp_path / "out").read_text() == "mine"


def test_empty_cells_are_told(invoke, tmp_path):
    answer = invoke(*CALL, "--out", tmp_path, "--umi", 1, "--knockouts", 0)
    assert answer.code == 0
    assert "cells have no molecules; ask for more UMI" in answer.err
