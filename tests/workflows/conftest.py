"""A checkpoint as pretraining leaves it, with the record of its training; a small fine-tuning run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from geneformer_grn.training.finetune_config import FinetuneConfig
    from geneformer_grn.workflows.finetune import FinetuneTable

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


@pytest.fixture(scope="session")
def labelled_cells(tiny_adata, tmp_path_factory) -> Path:
    """The tiny cells with eight donors, a label known for 3 of 4 of them, and a number."""
    import numpy as np

    adata = tiny_adata.copy()
    adata.obs["donor"] = [f"d{number % 8}" for number in range(adata.n_obs)]
    adata.obs["partly"] = [
        "unknown" if number % 4 == 0 else str(label) for number, label in enumerate(adata.obs["cell_type"])
    ]
    adata.obs["counts"] = np.asarray(adata.X.sum(axis=1)).ravel()
    path = tmp_path_factory.mktemp("labelled") / "cells.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="session")
def finetune_keys(labelled_cells, tiny_checkpoint) -> dict[str, Any]:
    """A config of a small fine-tuning run, as keys."""
    return {
        "name": "small",
        "data": {"files": [str(labelled_cells)]},
        "model": {"checkpoint": str(tiny_checkpoint), "mode": "full"},
        "optim": {"epochs": 2, "min_steps": 0, "token_budget": 512},
        "tasks": [{"name": "cell_type"}],
        "split": {"by": "donor"},
        "evaluation": {
            "baselines": ["majority", "hvg_pca_logistic"], "few_shot": [2], "few_shot_draws": 2,
            "bootstrap": 50,
            "goals": [
                {"measure": "auroc", "at_least": 0.1},
                {"measure": "auroc", "labels": 2, "ahead_by": 2.0},
            ],
        },
    }  # fmt: skip


@pytest.fixture(scope="session")
def finetune_config(finetune_keys) -> Callable[..., FinetuneConfig]:
    """Return that config with some sections in place of its own."""
    from geneformer_grn.training.finetune_config import FinetuneConfig

    return lambda **sections: FinetuneConfig.model_validate(finetune_keys | sections)


@pytest.fixture(scope="session")
def finetune_run(finetune_config, tmp_path_factory) -> tuple[Path, FinetuneTable]:
    """The folder of that run and what it found."""
    from geneformer_grn.workflows.finetune import run_finetuning

    out = tmp_path_factory.mktemp("run") / "out"
    return out, run_finetuning(finetune_config(), out)


@pytest.fixture
def card(tmp_path) -> Path:
    """A model card as `publish` takes it."""
    path = tmp_path / "card.md"
    path.write_text("---\nlicense: apache-2.0\nlibrary_name: transformers\n---\n\n# tiny\n")
    return path
