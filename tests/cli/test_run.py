"""``geneformer-grn run``: every wrong input is one clear line, exit code 2, and nothing written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy import sparse


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def cells(tiny_adata, folder):
    """Return a function that writes the tiny cells, changed, and gives the file."""

    def write(change=lambda adata: None) -> Path:
        adata = tiny_adata.copy()
        other = change(adata)
        (adata if other is None else other).write_h5ad(folder / "input.h5ad")
        return folder / "input.h5ad"

    return write


@pytest.fixture
def refuse(invoke, tiny_checkpoint, tmp_path):
    """Return a function that runs the verb, and asserts that it ends as a refused input must."""

    def run(path: Path, message: str, *options: object, out: Path | None = None) -> None:
        before = listing(tmp_path)
        out = out or tmp_path / "out"
        fixed = ["--model", tiny_checkpoint, "--device", "cpu", "--quiet"]
        answer = invoke("run", path, "--out", out, *fixed, *options)
        assert answer.code == 2, answer.err
        errors = [line for line in answer.err.splitlines() if line.startswith("error:")]
        assert len(errors) == 1, answer.err
        assert message in errors[0]
        assert answer.err.splitlines()[-1] == errors[0], "nothing follows it"
        assert "Traceback" not in answer.err
        assert answer.out == ""
        assert listing(tmp_path) == before

    return run


def listing(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_size if path.is_file() else 0) for path in folder.rglob("*"))


def log_normalise(adata) -> None:
    dense = adata.X.toarray()
    adata.X = sparse.csr_matrix(np.log1p(dense / dense.sum(axis=1, keepdims=True) * 1e4).astype(np.float32))


def scale(adata) -> None:
    dense = adata.X.toarray()
    adata.X = ((dense - dense.mean(axis=0)) / (dense.std(axis=0) + 1)).astype(np.float32)


def rename_genes(adata) -> None:
    adata.var_names = [f"probe_{number}" for number in range(adata.n_vars)]


def repeat_gene(adata) -> None:
    names = adata.var_names.to_list()
    adata.var_names = [names[1], *names[1:]]


def empty_cells(adata) -> None:
    dense = adata.X.toarray()
    dense[3:6] = 0
    adata.X = sparse.csr_matrix(dense)


def not_finite(adata) -> None:
    adata.X.data[5] = np.nan


def many_labels(adata) -> None:
    adata.obs["cell_type"] = adata.obs_names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (log_normalise, "looks log-normalised; raw counts are needed"),
        (scale, "holds negative values"),
        (not_finite, "NaN or infinite"),
        (rename_genes, "0 of 60 genes match the vocabulary"),
        (repeat_gene, "ENSG00000000002 occurs 2 times"),
        (empty_cells, "3 of 80 cells are empty"),
        (lambda adata: adata[:0].copy(), "holds 0 cells"),
        (lambda adata: adata[:, :0].copy(), "0 genes"),
        (lambda adata: adata[::8].copy(), "no group has the 20 cells that a network needs"),
    ],
)
def test_cells_that_are_no_counts(cells, refuse, change, message):
    refuse(cells(change), message)


def test_files_that_are_no_cells(cells, refuse, folder):
    path = cells()
    whole = path.read_bytes()
    for share in (0.3, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        refuse(path, "truncated or damaged")
    path.write_bytes(b"not HDF5 at all" * 100)
    refuse(path, "is not an .h5ad file")
    path.write_bytes(b"")
    refuse(path, "input.h5ad")
    refuse(folder / "none.h5ad", "none.h5ad: no such file")
    refuse(folder, "is a folder")


def test_columns_that_are_not_there(cells, refuse):
    refuse(cells(), "no obs column 'celltype' for --groups; the file has: cell_type", "--groups", "celltype")
    refuse(cells(), "no layer 'raw'", "--layer", "raw")
    refuse(cells(), "var has no column 'symbol'", "--gene-column", "symbol")
    refuse(cells(), "obs has no column 'total'", "--counts-column", "total")


def test_groups_that_are_none(cells, refuse, tiny_adata):
    def many(adata):
        wide = anndata.concat([adata, adata], keys=["a", "b"], index_unique="-")
        wide.obs["cell_type"] = wide.obs_names
        return wide

    refuse(cells(many), "160 distinct values, too many for cell groups", "--groups", "cell_type")


@pytest.mark.parametrize("target", ["file", "file/deeper", "/proc/geneformer-grn"])
def test_an_output_that_cannot_be_written(cells, refuse, tmp_path, target):
    path = cells()
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / target
    refuse(path, f"cannot write to {out}", out=out)
    assert (tmp_path / "file").read_text() == "in the way"


def test_an_output_that_is_the_input(cells, refuse):
    path = cells()
    path = path.rename(path.with_name("cells.h5ad"))
    refuse(path, "the output cells.h5ad would replace the input", out=path.parent)


@pytest.mark.parametrize("missing", ["genes.tsv", "vocabulary.json", "config.json", "model.safetensors"])
def test_a_model_folder_that_lacks_a_file(cells, refuse, tiny_checkpoint, tmp_path, missing):
    model = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    (model / missing).unlink()
    refuse(cells(), missing, "--model", model)


def test_models_that_are_none(cells, refuse, tmp_path):
    refuse(cells(), "no checkpoint 'no-such-model'", "--model", "no-such-model")
    (tmp_path / "empty").mkdir()
    refuse(cells(), "genes.tsv", "--model", tmp_path / "empty")
    (tmp_path / "text").write_text("x")
    refuse(cells(), "a checkpoint is a folder", "--model", tmp_path / "text")


def test_genes_that_are_unknown(cells, refuse, folder):
    refuse(cells(), "'NOGENE'", "--perturb", "NOGENE")
    refuse(cells(), "--perturb names no gene", "--perturb", " , ")
    refuse(cells(), "no gene list at", "--regulators", folder / "none.txt")
    (folder / "genes.txt").write_text("nonsense\nmore nonsense\n")
    refuse(cells(), "2 of 2 genes are not in the vocabulary", "--regulators", folder / "genes.txt")
    (folder / "genes.txt").write_text("# nothing\n")
    refuse(cells(), "genes.txt names no gene", "--regulators", folder / "genes.txt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--encoder-layer", "5"], "encoder layer 5 does not exist"),
        (["--precision", "fp8"], "precision 'fp8' is unknown"),
        (["--passes", "10"], "passes"),
    ],
)
def test_settings_that_do_not_fit(cells, refuse, options, message):
    refuse(cells(), message, "--groups", "cell_type", *options)


def test_normalised_cells_may_be_used_on_request_and_it_is_said(cells, invoke, tiny_checkpoint, tmp_path):
    """Their ranks are those of the raw counts, so the embedding is too."""
    found = {}
    for name, change in (("raw", lambda adata: None), ("normalised", log_normalise)):
        answer = invoke(
            "run", cells(change), "--out", tmp_path / name, "--model", tiny_checkpoint, "--device", "cpu",
            "--groups", "cell_type", "--passes", "200", "--allow-normalised", "--json",
        )  # fmt: skip
        assert answer.code == 0, answer.err
        summary = json.loads(answer.out.splitlines()[-1])
        assert summary["n_cells"] == 80
        assert summary["groups"] == {"A": 40, "B": 40}
        assert set(summary["outputs"]) == {path.name for path in (tmp_path / name).iterdir()} - {
            "edges.universe.json"
        }
        found[name] = answer, anndata.read_h5ad(tmp_path / name / "cells.h5ad").obsm["X_geneformer"]
    assert "looks log-normalised" not in found["raw"][0].err
    assert "looks log-normalised" in found["normalised"][0].err
    for report, expected in (("raw", False), ("normalised", True)):
        text = (tmp_path / report / "report.html").read_text()
        assert ("The input was normalised, not raw" in text) == expected
        assert json.loads((tmp_path / report / "run.json").read_text())["input"]["normalised"] == expected
    np.testing.assert_allclose(found["normalised"][1], found["raw"][1], atol=1e-5)
