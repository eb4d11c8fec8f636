"""Cells that a checkpoint has seen are refused, and its card says which they were."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from geneformer_grn._runtime import sha256_file
from geneformer_grn.cells.counts import ReadSettings
from geneformer_grn.workflows.card import render_card, write_card
from geneformer_grn.workflows.evaluate import EvaluateSettings, evaluate_model

SETTINGS = EvaluateSettings(max_cells=5, device="cpu")


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")


@pytest.fixture
def cells(tiny_adata, tmp_path) -> Path:
    tiny_adata.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


@pytest.fixture
def results(checkpoint, cells):
    """Results of an evaluation, as they are read back from their file."""
    out = cells.parent / "results.json"
    evaluate_model(checkpoint, [cells], SETTINGS, out=out)
    found = json.loads(out.read_text())
    found["checkpoint"]["sources"] = []  # the tiny vocabulary was made from no file
    return found


def record(checkpoint: Path, cells: Path) -> None:
    files = [{"name": "seen.h5ad", "sha256": sha256_file(cells), "n_cells": 80, "n_tokens": 1}]
    (checkpoint / "training.json").write_text(json.dumps({"corpus": {"files": files}}))


def test_cells_of_the_training_corpus_are_refused(checkpoint, cells):
    record(checkpoint, cells)
    with pytest.raises(ValueError, match=r"cells\.h5ad was in this model's training corpus"):
        evaluate_model(checkpoint, [cells], SETTINGS)


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"corpus": {"files": [{}]}}'])
def test_a_damaged_record_of_the_training_is_said(checkpoint, cells, text):
    (checkpoint / "training.json").write_text(text)
    with pytest.raises(ValueError, match=r"training\.json cannot be read"):
        evaluate_model(checkpoint, [cells], SETTINGS)


def test_the_card_lists_training_files_with_licences_by_content(results):
    results["checkpoint"]["sources"] = [
        {"name": "a.h5ad", "sha256": "a" * 64, "license": "CC-BY-4.0", "n_cells": 7},
        {"name": "unused.h5ad", "sha256": "c" * 64, "license": "MIT", "n_cells": 9},
    ]
    assert "| a.h5ad | 7 | not stated | CC-BY-4.0 |\n| unused.h5ad | 9 | not stated | MIT |" in render_card(
        results
    )
    config = {
        "optim.lr": 1e-3, "optim.schedule": "cosine", "data.mask_rate": 0.15, "run.precision": "fp32",
        "run.seed": 0, "model.output_bias": "zeros", "model.embeddings": "random",
        "model.positions": "random",
    }  # fmt: skip
    files = [
        {
            "name": "renamed.h5ad",
            "sha256": "a" * 64,
            "n_cells": 1500,
            "left_out": {"copies": 1157, "rules": 2},
        },
        {"name": "unknown.h5ad", "sha256": "b" * 64, "n_cells": 3, "left_out": {}},
    ]
    results["training"] = {
        "corpus": {"n_cells": 1503, "n_tokens": 9, "files": files}, "held_out": None, "steps": 1, "tokens": 9,
        "hours": 0.0, "device": "cpu", "config": config, "loss_curve": [], "validation": [],
    }  # fmt: skip
    card = render_card(results)
    assert "| renamed.h5ad | 1,500 | 1,157 copies, 2 rules | CC-BY-4.0 |" in card
    assert "| unknown.h5ad | 3 | none | not stated |" in card
    assert "unused.h5ad" not in card
    assert "held out: none." in card
    assert "embedding alone" not in card
    config |= {"optim.cell_loss": 0.5, "model.start_from": "before"}
    parts = [{"name": "renamed.h5ad", "n_cells": 30}, {"name": "other.h5ad", "n_cells": 1000}]
    results["training"]["held_out"] = {"n_cells": 1030, "n_tokens": 9, "files": parts}
    card = render_card(results)
    assert "held out: 30 of renamed.h5ad (a part), 1,000 of other.h5ad (the whole file)." in card
    assert "with weight 0.5 that of the same genes guessed from the cell's embedding alone" in card
    assert "**Start:** the weights of before." in card
    assert "neighbouring ranks" in card


def test_the_card_repeats_how_counts_were_read(results):
    results["conditions"]["read"] |= {"layer": "raw counts", "drop_empty": True}
    assert " --cells cells.h5ad --layer 'raw counts' --drop-empty --max-cells 5 " in render_card(results)


def test_cells_are_read_as_asked(checkpoint, tiny_adata, tmp_path):
    other = tiny_adata.copy()
    other.layers["raw"] = other.X.copy()
    other.X = other.X * 0.5
    other.write_h5ad(tmp_path / "other.h5ad")
    settings = EvaluateSettings(max_cells=5, device="cpu", read=ReadSettings(layer="raw"))
    scored = evaluate_model(checkpoint, [tmp_path / "other.h5ad"], settings)
    assert scored["conditions"]["read"]["layer"] == "raw"
    assert scored["masked_genes"]["all"]["model"]["n_cells"] == 5


@pytest.mark.parametrize("spoil", ["kind", "checkpoint", "versions"])
def test_other_results_make_no_card(results, tmp_path, spoil):
    results[spoil] = {"kind": "network", "checkpoint": {"sources": ["a"]}, "versions": {}}[spoil]
    (tmp_path / "other.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match=r"other\.json holds no results of evaluate model"):
        write_card(tmp_path / "other.json", tmp_path / "card.md")
    assert not (tmp_path / "card.md").exists()
