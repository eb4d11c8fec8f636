"""Tiny fine-tuned models with random heads, and the cells they explain."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geneformer_grn.cells.counts import read_counts
from geneformer_grn.cells.ranking import rank_cells
from geneformer_grn.explanation.target import Explained
from geneformer_grn.model.heads import Finetuned, HeadSpec, TaskHead

CLASSES = ("A", "B", "C")


def model_with(encoder, *specs: HeadSpec, max_length: int | None = None) -> Finetuned:
    """A model whose heads are drawn once."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        heads = torch.nn.ModuleList(TaskHead(spec, encoder.hidden_size) for spec in specs)
        for head in heads:
            torch.nn.init.normal_(head.classifier.weight, std=1.5)
    return Finetuned(encoder, heads.eval(), specs, max_length)


@pytest.fixture(scope="session")
def with_heads():
    """Return a function (encoder, *specs, max_length=None) -> Finetuned."""
    return model_with


@pytest.fixture(scope="session")
def ranked(tiny_adata, tiny_vocabulary):
    return rank_cells(read_counts(tiny_adata, tiny_vocabulary), tiny_vocabulary)


@pytest.fixture(scope="session", params=["mean", "cls", "attention"])
def explained(request, tiny_encoder) -> Explained:
    spec = HeadSpec("cell_type", "cell", "classification", CLASSES, request.param)
    return Explained(model_with(tiny_encoder, spec), spec)


@pytest.fixture(scope="session")
def by_mean(tiny_encoder) -> Explained:
    spec = HeadSpec("cell_type", "cell", "classification", CLASSES, "mean")
    return Explained(model_with(tiny_encoder, spec), spec)


@pytest.fixture(scope="session")
def chosen() -> tuple[np.ndarray, np.ndarray]:
    """Five cells and the class explained in each."""
    return np.array([70, 3, 12, 41, 5]), np.array([1, 0, 2, 1, 0])
