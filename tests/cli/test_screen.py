"""The verb screen: its tables, exit codes, and nothing half-written."""

import json

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from geneformer_grn import cli
from geneformer_grn.cli import screen


@pytest.fixture
def call(tiny_h5ad, tiny_checkpoint, tmp_path):
    """Run the verb on the tiny file; return the exit code `main` would give, the output and the error."""
    app = typer.Typer()
    screen.add(app)

    def run(*arguments):
        head = [tiny_h5ad, "--out", tmp_path / "out", "--model", tiny_checkpoint, "--device", "cpu"]
        result = CliRunner().invoke(app, [str(item) for item in (*head, "--quiet", "--json", *arguments)])
        if result.exception is None or isinstance(result.exception, SystemExit):
            return result.exit_code, result.stdout, ""
        return (2 if cli.is_input_error(result.exception) else 1), result.stdout, str(result.exception)

    return run


def test_the_tables(call, tmp_path):
    code, stdout, error = call("--kind", "knockout", "--cells", 12)
    assert (code, error) == (0, "")
    summary = json.loads(stdout.splitlines()[-1])
    genes = pd.read_parquet(tmp_path / "out" / "genes.parquet")
    assert summary["n_genes_screened"] == len(genes)
    effects = pd.read_parquet(tmp_path / "out" / "effects.parquet")
    cells = pd.read_parquet(tmp_path / "out" / "cells.parquet")
    assert set(effects["gene"]) == set(cells["gene"]) <= set(genes["gene"])
    parameters = json.loads((tmp_path / "out" / "parameters.json").read_text())
    assert parameters["verb"] == "screen"
    assert parameters["parameters"]["audit"] == 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kind", "overexpress"), "Use perturb"),
        (("--readout", "cell,expression"), "no readout expression"),
        (("--share", "0"), "share"),
        (("--genes", "NOSUCH"), "NOSUCH"),
        (("--encoder-layer", "5"), "encoder layer 5 does not exist"),
    ],
)
def test_wrong_calls_exit_2_and_write_nothing(call, tmp_path, arguments, message):
    code, _, error = call(*arguments)
    assert code == 2
    assert message in error
    assert not list(tmp_path.glob("out*"))
