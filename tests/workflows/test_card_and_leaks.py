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


def test_cells_that_the_start_was_trained_on_are_refused_too(checkpoint, cells):
    record(checkpoint, cells)
    before = json.loads((checkpoint / "training.json").read_text())
    stages = {"corpus": {"files": []}, "started_from": {"name": "before", "training": before}}
    (checkpoint / "training.json").write_text(json.dumps(stages))
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
    assert "**Start:** the weights of before, of whose own training nothing is recorded." in card
    assert "In all" not in card
    assert "neighbouring ranks" in card


def test_the_card_tells_the_trainings_before_the_last(results):
    def stage(name: str, digest: str, start: dict | None) -> dict:
        config = {
            "optim.lr": 1e-3, "optim.schedule": "wsd", "data.mask_rate": 0.25, "run.precision": "bf16",
            "run.seed": 1, "model.output_bias": "zeros", "model.embeddings": "random",
            "model.positions": "random", "model.start_from": start and start["name"],
        }  # fmt: skip
        files = [{"name": name, "sha256": digest * 64, "n_cells": 40, "left_out": {}}]
        return {
            "corpus": {"n_cells": 40, "n_tokens": 9, "files": files}, "held_out": None, "steps": 1500,
            "tokens": 1_000_000, "hours": 0.5, "device": "cpu (x86_64, 2 threads)", "config": config,
            "loss_curve": [], "validation": [], "started_from": start,
        }  # fmt: skip

    first = stage("general.h5ad", "a", None)
    results["training"] = stage("own.h5ad", "b", {"name": "first", "training": first})
    card = render_card(results)
    assert "**Start:** the weights of first.\n" in card
    assert "**Before, first:** 1,500 steps, 1,000,000 tokens of 40 cells, 0.50 hours on cpu (x86_64" in card
    assert "**In all:** 2,000,000 tokens." in card
    assert "| own.h5ad | 40 | none | not stated |\n| general.h5ad | 40 | none | not stated |\n\n" in card
    first["started_from"] = {"name": "unknown", "training": None}
    first["corpus"]["files"][0] |= {"sha256": "b" * 64}
    card = render_card(results)
    assert "**In all:** at least 2,000,000 tokens." in card
    assert "general.h5ad" not in card, "the same file once"
    other = {"name": "other.h5ad", "sha256": "c" * 64, "n_cells": 7, "left_out": {}}
    first["corpus"]["files"] = [other, first["corpus"]["files"][0] | {"name": "own.h5ad", "n_cells": 9000}]
    assert "| own.h5ad | 9,000 | none | not stated |\n| other.h5ad | 7 |" in render_card(results)


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
