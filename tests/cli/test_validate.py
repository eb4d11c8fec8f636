"""``geneformer-grn validate``: the screen, the exit code, the refusal; and other verbs on other formats."""

import gzip
import json
import warnings

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse


@pytest.fixture
def call(invoke, tiny_checkpoint):
    """Return a function that validates a file with the tiny checkpoint's genes."""
    return lambda *arguments: invoke("validate", *arguments, "--model", tiny_checkpoint)


@pytest.fixture
def normalised_h5ad(tiny_adata, tmp_path):
    """The tiny cells log-normalised, their counts in a layer."""
    cells = tiny_adata.copy()
    cells.layers["counts"] = cells.X.copy()
    cells.X = sparse.csr_matrix(np.log1p(cells.X.toarray() / 7).astype(np.float32))
    cells.write_h5ad(tmp_path / "normalised.h5ad")
    return tmp_path / "normalised.h5ad"


@pytest.fixture
def tenx_folder(tiny_adata, tmp_path):
    """The tiny cells as a 10x folder."""
    folder = tmp_path / "sample"
    folder.mkdir()
    counts = sparse.coo_matrix(tiny_adata.X.T)
    entries = zip(counts.row + 1, counts.col + 1, counts.data.astype(int), strict=True)
    head = f"%%MatrixMarket matrix coordinate integer general\n60 80 {counts.nnz}\n"
    texts = {
        "matrix.mtx.gz": head + "".join(f"{gene} {cell} {count}\n" for gene, cell, count in entries),
        "features.tsv.gz": "".join(f"{gene}\t{gene}\tGene Expression\n" for gene in tiny_adata.var_names),
        "barcodes.tsv.gz": "".join(f"{name}\n" for name in tiny_adata.obs_names),
    }
    for name, text in texts.items():
        (folder / name).write_bytes(gzip.compress(text.encode()))
    return folder


@pytest.fixture
def table(tiny_adata, tmp_path):
    """The tiny cells as genes × cells in a CSV file."""
    counts = tiny_adata.X.toarray().T.astype(int)
    path = tmp_path / "cells.csv"
    pd.DataFrame(counts, index=tiny_adata.var_names, columns=tiny_adata.obs_names).to_csv(path)
    return path


def test_a_good_file_exits_with_0_and_names_what_comes_next(call, tiny_h5ad, tiny_checkpoint):
    before = sorted(tiny_h5ad.parent.rglob("*"))
    answer = call(tiny_h5ad)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("cells.h5ad: h5ad, 80 cells × 60 genes\n")
    assert f"geneformer-grn run {tiny_h5ad} --out DIR --model {tiny_checkpoint}\n" in answer.out
    assert "\x1b" not in answer.out
    assert sorted(tiny_h5ad.parent.rglob("*")) == before


def test_a_bad_file_exits_with_2_after_the_screen(call, normalised_h5ad):
    answer = call(normalised_h5ad)
    assert answer.code == 2
    assert "log-normalised" in answer.out
    assert f"geneformer-grn validate {normalised_h5ad} --model" in answer.out
    assert "--layer counts" in answer.out.splitlines()[-1]
    (message,) = answer.err.splitlines()
    assert message.startswith("error: X of normalised.h5ad holds fractions")
    assert call(normalised_h5ad, "--layer", "counts").code == 0


def test_json_says_the_same_also_of_bad_files(call, normalised_h5ad):
    answer = call(normalised_h5ad, "--json", "--quiet")
    assert answer.code == 2
    facts = json.loads(answer.out)
    assert (facts["usable"], facts["n_cells"], facts["values"]["looks"]) == (False, 80, "log-normalised")
    assert facts["problems"][0]["change"] == {"layer": "counts"}
    assert facts["values"]["elsewhere"] == {"layer 'counts'": "counts"}
    assert facts["next"][0].endswith("--layer counts")


def test_a_folder_of_files_gets_a_line_each(call, tiny_h5ad, normalised_h5ad, table):
    answer = call(tiny_h5ad.parent)
    assert answer.code == 2
    title, *lines = answer.out.splitlines()
    assert "a folder of 3 files" in title
    assert [line.partition(": ")[0] for line in lines] == ["cells.csv", "cells.h5ad", "normalised.h5ad"]
    assert ["usable" in line for line in lines] == [True, True, False]
    assert answer.err == "error: 1 of 3 files are refused: normalised.h5ad\n"
    normalised_h5ad.unlink()
    answer = call(tiny_h5ad.parent, "--json")
    assert answer.code == 0
    assert [one["usable"] for one in json.loads(answer.out.splitlines()[-1])["files"]] == [True, True]


def test_a_10x_folder_is_one_file(call, tenx_folder):
    answer = call(tenx_folder)
    assert answer.code == 0
    assert answer.out.startswith("sample: 10x mtx, 80 cells × 60 genes\n")


def test_cellbender_writes_a_10x_file(call, tiny_adata, tmp_path):
    """Its .h5 holds more groups beside the matrix than Cell Ranger's."""
    counts = tiny_adata.X.astype(np.int32)
    with h5py.File(tmp_path / "cellbender.h5", "w") as handle:
        for name in ("data", "indices", "indptr"):
            handle[f"matrix/{name}"] = getattr(counts, name)
        handle["matrix/shape"] = np.array([60, 80])
        handle["matrix/barcodes"] = np.array(tiny_adata.obs_names, "S")
        for name in ("id", "name"):
            handle[f"matrix/features/{name}"] = np.array(tiny_adata.var_names, "S")
        handle["matrix/features/feature_type"] = np.array(["Gene Expression"] * 60, "S")
        handle["droplet_latents/cell_probability"] = np.ones(80)
        handle["global_latents/ambient_expression"] = np.ones(60)
    answer = call(tmp_path / "cellbender.h5")
    assert answer.code == 0
    assert answer.out.startswith("cellbender.h5: 10x h5, 80 cells × 60 genes\n")


def test_quick_says_so(call, tiny_h5ad, monkeypatch):
    monkeypatch.setattr("geneformer_grn.workflows.validation_pass._QUICK_CELLS", 8)
    assert "a sample of" in call(tiny_h5ad, "--quick").out


def embedded(invoke, path, out, checkpoint, *options):
    answer = invoke("embed", path, "--out", out, "--model", checkpoint, "--quiet", *options)
    assert answer.code == 0, answer.err
    return anndata.read_h5ad(out)


def test_embed_reads_every_format_alike(invoke, tiny_h5ad, tenx_folder, table, tiny_checkpoint, tmp_path):
    expected = embedded(invoke, tiny_h5ad, tmp_path / "a.h5ad", tiny_checkpoint)
    for path in (tenx_folder, table):
        cells = embedded(invoke, path, tmp_path / "b.h5ad", tiny_checkpoint)
        np.testing.assert_allclose(
            cells.obsm["X_geneformer"], expected.obsm["X_geneformer"], rtol=1e-4, atol=1e-5
        )
        assert list(cells.obs_names) == list(expected.obs_names)


def test_embed_keeps_what_layer_means(invoke, normalised_h5ad, tiny_h5ad, tiny_checkpoint, tmp_path):
    """In .h5ad and in zarr: counts of the layer are read, and X stays what it was."""
    expected = embedded(invoke, tiny_h5ad, tmp_path / "a.h5ad", tiny_checkpoint).obsm["X_geneformer"]
    cells = embedded(invoke, normalised_h5ad, tmp_path / "b.h5ad", tiny_checkpoint, "--layer", "counts")
    np.testing.assert_allclose(cells.obsm["X_geneformer"], expected, rtol=1e-4, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the version of zarr that is written
        anndata.read_h5ad(normalised_h5ad).write_zarr(tmp_path / "c.zarr")
    cells = embedded(invoke, tmp_path / "c.zarr", tmp_path / "d.h5ad", tiny_checkpoint, "--layer", "counts")
    np.testing.assert_allclose(cells.obsm["X_geneformer"], expected, rtol=1e-4, atol=1e-5)


def test_embed_takes_where_and_species(invoke, tiny_h5ad, tiny_checkpoint, tmp_path):
    path = tmp_path / "a.h5ad"
    cells = embedded(invoke, tiny_h5ad, path, tiny_checkpoint, "--where", "cell_type == 'A'")
    kept = np.isfinite(cells.obsm["X_geneformer"]).all(1)
    assert (kept == (cells.obs["cell_type"] == "A")).all()
    answer = invoke("embed", tiny_h5ad, "--out", path, "--model", tiny_checkpoint, "--species", "mouse")
    assert answer.code == 2
    assert "gene symbols of its species, mouse" in answer.err


@pytest.mark.parametrize("kind", ["tenx_folder", "table"])
def test_the_verbs_that_run_the_model_read_them_too(request, invoke, kind, tiny_checkpoint, tmp_path):
    path, model = request.getfixturevalue(kind), ["--model", tiny_checkpoint, "--quiet"]
    network = invoke("network", path, "--out", tmp_path / "edges.tsv", *model, "--methods", "correlation")
    perturb = invoke(
        "perturb", path, "--out", tmp_path / "p", *model, "--genes", "GENE1", "--null-genes", 0, "--cells", 20
    )
    evaluate = invoke("evaluate", "model", tiny_checkpoint, "--cells", path, "--max-cells", 20, "--quiet")
    for answer in (network, perturb, evaluate):
        assert answer.code == 0, answer.err


@pytest.mark.slow
def test_run_reads_a_10x_folder(invoke, tenx_folder, tiny_checkpoint, tmp_path):
    out = tmp_path / "out"
    answer = invoke("run", tenx_folder, "--out", out, "--model", tiny_checkpoint, "--quiet", "--passes", 400)
    assert answer.code == 0, answer.err
    record = json.loads((out / "run.json").read_text())
    assert len(record["input"]["sha256"]) == 64
    assert anndata.read_h5ad(out / "cells.h5ad").n_obs == 80
