"""A checkpoint as pretraining leaves it: with its baseline and the record of its training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

CONFIG = """
[data]
corpus = "train"
[run]
max_steps = 90
"""


@dataclass(frozen=True)
class Trained:
    """A checkpoint, the file it was trained on, two it was not, and one that only made its vocabulary."""

    folder: Path
    training_file: Path
    vocabulary_file: Path
    held_out: tuple[Path, Path]


@pytest.fixture(scope="session")
def trained(tiny_adata, tiny_vocabulary, tmp_path_factory) -> Trained:
    import torch

    from geneformer_grn._runtime import sha256_file
    from geneformer_grn.cells.corpora.tokenizing import write_corpus
    from geneformer_grn.cells.rank_position import RankPositionBaseline
    from geneformer_grn.model.encoder import ModelConfig, new_model
    from geneformer_grn.training.config import read_config
    from geneformer_grn.training.pretrain import export
    from geneformer_grn.training.record import training_record

    folder = tmp_path_factory.mktemp("trained")
    parts = {
        "training": slice(0, 80, 2),
        "vocabulary": slice(0, 70),
        "first": slice(1, 80, 4),
        "second": slice(3, 80, 4),
    }
    files = {}
    for name, rows in parts.items():
        files[name] = folder / f"{name}.h5ad"
        tiny_adata[rows].copy().write_h5ad(files[name])
    sources = [
        {"name": path.name, "sha256": sha256_file(path), "n_cells": 40, "license": f"{name} licence"}
        for name, path in files.items()
        if name in {"training", "vocabulary"}
    ]
    vocabulary = replace(tiny_vocabulary, provenance={"sources": sources})
    corpus = write_corpus([files["training"]], folder / "train", vocabulary)
    (folder / "config.toml").write_text(CONFIG)
    log = [
        {
            "step": step,
            "loss": 9 - step / 20,
            "masked_tokens": 700 + step,
            "tokens": 5000,
            "tokens_per_s": 1e4,
        }
        for step in range(1, 91)
    ]
    log.append(
        {
            "step": 90, "validation_loss": 4.56789, "validation_accuracy": 0.1234, "baseline_loss": 5.4321,
            "baseline_accuracy": 0.0987, "validation_masked": 300,
        }
    )  # fmt: skip
    record = training_record(
        read_config(folder / "config.toml"), log, corpus=corpus, held_out=corpus, device=torch.device("cpu")
    )
    shape = ModelConfig(n_layers=2, hidden_size=32, n_heads=2, ffn_size=64, initializer_range=0.2)
    baseline = RankPositionBaseline.fit(corpus, vocabulary)
    export(
        new_model(shape, vocabulary, seed=8), vocabulary, folder / "model", baseline=baseline, record=record
    )
    held_out = (files["first"], files["second"])
    return Trained(folder / "model", files["training"], files["vocabulary"], held_out)


@pytest.fixture(scope="session")
def results_file(trained: Trained, tmp_path_factory) -> Path:
    """The scores of that checkpoint on both held-out files."""
    from geneformer_grn.workflows.evaluate import EvaluateSettings, evaluate_model

    out = tmp_path_factory.mktemp("results") / "results.json"
    settings = EvaluateSettings(device="cpu", max_cells=15, seed=4)
    evaluate_model(trained.folder, trained.held_out, settings, out=out)
    return out
