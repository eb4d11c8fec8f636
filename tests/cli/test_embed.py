"""The verbs embed and info: outputs, exit codes, one clear message."""

import hashlib
import json
import re
import shutil

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from geneformer_grn import cli
from geneformer_grn.cli import embed, info


@pytest.fixture(scope="module")
def app():
    app = typer.Typer()
    embed.add(app)
    info.add(app)
    return app


def call(app, *arguments):
    """Run a verb; return the exit code that `main` would give, the output and the error."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is None or isinstance(result.exception, SystemExit):
        return result.exit_code, result.stdout, ""
    return (2 if cli.is_input_error(result.exception) else 1), result.stdout, str(result.exception)


def test_embed_writes_the_input_with_embeddings(app, tiny_h5ad, tiny_checkpoint, tmp_path):
    import anndata

    out = tmp_path / "out.h5ad"
    code, stdout, error = call(
        app,
        "embed",
        tiny_h5ad,
        "--out",
        out,
        "--model",
        tiny_checkpoint,
        "--device",
        "cpu",
        "--json",
        "--quiet",
    )
    assert (code, error) == (0, "")
    summary = json.loads(stdout.splitlines()[-1])
    assert summary["n_cells"] == 80
    assert summary["n_genes_matched"] == 60
    before, after = anndata.read_h5ad(tiny_h5ad), anndata.read_h5ad(out)
    assert after.obs.equals(before.obs)
    assert np.isfinite(after.obsm["X_geneformer"]).all()
    assert after.varm["geneformer"].shape == (60, 32)
    parameters = json.loads((tmp_path / "out.parameters.json").read_text())
    assert parameters["file"] == "cells.h5ad"
    assert str(tmp_path) not in json.dumps(parameters)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "no-such-model"], "no checkpoint 'no-such-model'"),
        (["--encoder-layer", "4"], "encoder layer 4 does not exist"),
        (["--pooling", "max"], "pooling 'max' is unknown"),
        (["--precision", "fp8"], "precision 'fp8' is unknown"),
        (["--device", "tpu"], "device 'tpu' is unknown"),
        (["--layer", "nothing"], "there is no layer 'nothing'"),
    ],
)
def test_wrong_calls_exit_with_2_and_leave_nothing(
    app, tiny_h5ad, tiny_checkpoint, tmp_path, arguments, message
):
    out = tmp_path / "out.h5ad"
    defaults = ["--model", tiny_checkpoint, "--device", "cpu", "--quiet"]
    code, _, error = call(app, "embed", tiny_h5ad, "--out", out, *defaults, *arguments)
    assert code == 2
    assert message in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.h5ad"]


@pytest.mark.parametrize("missing", ["genes.tsv", "vocabulary.json", "config.json", "model.safetensors"])
def test_a_model_folder_that_lacks_a_file_exits_with_2(app, tiny_h5ad, tiny_checkpoint, tmp_path, missing):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    (folder / missing).unlink()
    code, _, error = call(
        app, "embed", tiny_h5ad, "--out", tmp_path / "out.h5ad", "--model", folder, "--quiet"
    )
    assert code == 2
    assert missing in error


def test_a_missing_file_and_a_wrong_output_exit_with_2(app, tiny_h5ad, tiny_checkpoint, tmp_path):
    options = ["--model", tiny_checkpoint, "--device", "cpu", "--quiet"]
    code, _, error = call(app, "embed", tmp_path / "none.h5ad", "--out", tmp_path / "out.h5ad", *options)
    assert (code, "no such file" in error) == (2, True)
    code, _, error = call(app, "embed", tiny_h5ad, "--out", tmp_path / "out.csv", *options)
    assert (code, "must name an .h5ad file" in error) == (2, True)
    code, _, error = call(app, "embed", tiny_h5ad, "--out", tiny_h5ad / "out.h5ad", *options)
    assert code == 2


def test_info_of_a_checkpoint(app, tiny_checkpoint, tiny_encoder):
    code, stdout, _ = call(app, "info", tiny_checkpoint, "--json")
    assert code == 0
    facts = json.loads(stdout.splitlines()[-1])
    assert facts["type"] == "checkpoint"
    assert facts["path"] == str(tiny_checkpoint)
    assert facts["n_parameters"] == tiny_encoder.n_parameters
    assert facts["vocabulary_fingerprint"] == tiny_encoder.vocabulary.fingerprint
    assert re.search(rf"n parameters +{tiny_encoder.n_parameters:,}\n", stdout)
    weights = hashlib.sha256((tiny_checkpoint / "model.safetensors").read_bytes()).hexdigest()
    assert facts["weights_sha256"] == weights[:16]


def test_info_of_a_vocabulary_and_of_edges(app, tiny_vocabulary, tmp_path):
    tiny_vocabulary.save(tmp_path / "vocabulary")
    code, stdout, _ = call(app, "info", tmp_path / "vocabulary", "--json", "--quiet")
    assert (code, json.loads(stdout)["type"], json.loads(stdout)["n_genes"]) == (0, "vocabulary", 60)
    (tmp_path / "edges.tsv").write_text("source\ttarget\tweight\nA\tB\t0.5\nA\tC\t0.1\n")
    code, stdout, _ = call(app, "info", tmp_path / "edges.tsv", "--json", "--quiet")
    facts = json.loads(stdout)
    assert (facts["type"], facts["n_edges"], facts["n_sources"], facts["n_targets"]) == ("edges", 2, 1, 2)


def test_info_of_a_corpus(app, tiny_h5ad, tiny_vocabulary, tmp_path):
    from geneformer_grn.cells.corpora.tokenizing import write_corpus

    write_corpus([tiny_h5ad], tmp_path / "corpus", tiny_vocabulary)
    code, stdout, _ = call(app, "info", tmp_path / "corpus", "--json", "--quiet")
    facts = json.loads(stdout)
    assert (code, facts["type"], facts["n_cells"]) == (0, "corpus", 80)
    assert facts["vocabulary_fingerprint"] == tiny_vocabulary.fingerprint


def test_info_of_nothing_exits_with_2(app, tmp_path):
    code, _, error = call(app, "info", "no-such-thing")
    assert (code, "no checkpoint" in error) == (2, True)
    (tmp_path / "empty").mkdir()
    code, _, error = call(app, "info", tmp_path / "empty")
    assert code == 2
