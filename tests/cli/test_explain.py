"""The verb explain: its files, exit codes, and nothing half-written."""

import json

import pandas as pd
import pytest
import torch

from geneformer_grn.model.head_files import save_finetuned
from geneformer_grn.model.heads import Finetuned, HeadSpec, TaskHead


@pytest.fixture(scope="module")
def folder(tiny_encoder, tmp_path_factory):
    """A folder of a fine-tuned model, with a random head at ``<cls>``."""
    spec = HeadSpec("cell_type", "cell", "classification", ("A", "B"), "cls")
    heads = torch.nn.ModuleList([TaskHead(spec, tiny_encoder.hidden_size)]).eval()
    path = tmp_path_factory.mktemp("models") / "tuned"
    save_finetuned(Finetuned(tiny_encoder, heads, (spec,)), path)
    return path


@pytest.fixture
def call(invoke, tiny_h5ad, folder, tmp_path):
    def run(*arguments, model=folder):
        head = ["explain", tiny_h5ad, "--model", model, "--out", tmp_path / "out", "--device", "cpu"]
        return invoke(*head, "--quiet", "--json", *arguments)

    return run


def test_the_files(call, tmp_path):
    answer = call("--label", "cell_type", "--method", "gradient_x_input", "--cells", 4)
    assert (answer.code, answer.err) == (0, "")
    summary = json.loads(answer.out.splitlines()[-1])
    out = tmp_path / "out"
    names = {"drivers.tsv", "deletion.tsv", "agreement.tsv", "cells.parquet", "scores.parquet",
             "deletion.png", "drivers.png", "parameters.json"}  # fmt: skip
    assert {path.name for path in out.iterdir()} == names
    drivers = pd.read_csv(out / "drivers.tsv", sep="\t")
    assert drivers.groupby("class")["rank"].min().to_dict() == {"A": 1, "B": 1}
    assert summary["n_cells"] == 4 == len(pd.read_parquet(out / "cells.parquet"))
    parameters = json.loads((out / "parameters.json").read_text())
    assert parameters["models"] == ["tuned"]
    assert parameters["parameters"]["methods"] == ["gradient_x_input"]
    assert str(tmp_path) not in (out / "parameters.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--label", "nothing"), "no obs column 'nothing'"),
        (("--label", "cell_type", "--classes", "Z"), "no class 'Z'"),
        (("--method", "lime"), "method lime"),
        (("--baseline", "zero"), "baseline 'zero'"),
        (("--kind", "inhibit"), "'inhibit' is unknown"),
    ],
)
def test_wrong_calls_exit_2_and_write_nothing(call, tmp_path, arguments, message):
    answer = call(*arguments)
    assert answer.code == 2
    assert message in answer.err
    assert not list(tmp_path.glob("out*"))


def test_a_model_that_was_not_fine_tuned_is_refused(call, tiny_checkpoint, tmp_path):
    answer = call("--label", "cell_type", model=tiny_checkpoint)
    assert answer.code == 2
    assert "holds no fine-tuned model" in answer.err
    assert not (tmp_path / "out").exists()


def test_without_captum_the_way_out_is_named(call, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    answer = call("--label", "cell_type")
    assert answer.code == 2
    assert "geneformer-grn[explain]" in answer.err
