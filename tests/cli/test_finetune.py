"""The verb finetune: exit codes, one clear line, the JSON summary."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

TEXT = """
name = "small"
[data]
files = ["cells.h5ad"]
[model]
mode = "frozen"
[optim]
epochs = 1
min_steps = 0
[[tasks]]
name = "cell_type"
[split]
by = "donor"
[evaluation]
baselines = ["majority", "hvg_pca_logistic"]
bootstrap = 20
goals = [{measure = "auroc", ahead_by = 0.0}]
"""


@pytest.fixture
def config_file(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(TEXT.replace("[model]", f'[model]\ncheckpoint = "{tiny_checkpoint}"'))
    return path


@pytest.fixture
def cells(tiny_adata, tmp_path: Path) -> Path:
    adata = tiny_adata.copy()
    adata.obs["donor"] = [f"d{number % 8}" for number in range(adata.n_obs)]
    adata.obs["counts"] = np.asarray(adata.X.sum(axis=1)).ravel()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def test_a_run_prints_its_table_and_the_rule(invoke, config_file, cells, tmp_path):
    answer = invoke("finetune", config_file, "--file", cells, "--out", tmp_path / "out", "--json")
    assert answer.code == 0, answer.err
    assert "no donor is in two parts" in answer.out
    assert "Majority class" in answer.out
    assert "goal m" in answer.out  # met or missed
    summary = json.loads(answer.out.splitlines()[-1])
    task = summary["tasks"]["cell_type"]
    assert task["best_baseline"] == "hvg_pca_logistic"
    assert task["majority"] == 0.5
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert str(tmp_path) not in json.dumps(results), "names, no folders"
    again = invoke("finetune", config_file, "--file", cells, "--out", tmp_path / "out")
    assert again.code == 2
    assert "--resume" in again.err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["optim.learning=1"], "unknown key"),
        (["tasks.column=type"], "no obs column 'type'"),
        (["tasks.column=counts"], "are numbers"),
        (["split.by=site"], "no obs column 'site'"),
        (["split.scheme=kfold", "split.folds=9"], "8 donors with a label cannot be divided into 9"),
        (['evaluation.baselines=["magic"]'], "no baseline 'magic'"),
        (['data.files=["elsewhere.h5ad"]'], "none of the config's files (elsewhere.h5ad)"),
        (["model.checkpoint=nothing_here"], "nothing_here"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_2(invoke, config_file, cells, tmp_path, changes, message):
    out = tmp_path / "out"
    options = [word for change in changes for word in ("--set", change)]
    answer = invoke("finetune", config_file, "--file", cells, "--out", out, "--quiet", *options)
    assert answer.code == 2
    assert message in answer.err
    assert "Traceback" not in answer.err
    assert not out.exists(), "nothing half-written"


def test_files_that_are_missing_are_named(invoke, config_file, tmp_path):
    answer = invoke("finetune", config_file, "--out", tmp_path / "out")
    assert answer.code == 2
    assert "cells.h5ad is not here; say where it lies by --file FOLDER/cells.h5ad" in answer.err
    assert invoke("finetune", tmp_path / "none.toml").code == 2
