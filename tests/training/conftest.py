"""A corpus of the tiny cells and a config that trains on it within a second; labels of cells and genes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.cells.corpora.tokenizing import write_corpus
from geneformer_grn.cells.counts import read_counts
from geneformer_grn.cells.ranking import RankedCells, rank_cells
from geneformer_grn.training.config import PretrainConfig, read_config
from geneformer_grn.training.supervision import Split, Task

TINY = """
[model]
n_layers = 2
hidden_size = 16
n_heads = 2
ffn_size = 32
dropout = 0.1

[data]
corpus = "set by the test"
token_budget = 400

[optim]
lr = 5e-3
warmup_steps = 2

[run]
max_steps = 12
log_every = 3
checkpoint_every = 4
device = "cpu"
threads = 1
"""


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small only lose by more threads, most of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def corpus_folder(tiny_adata, tiny_vocabulary, tmp_path_factory) -> Path:
    """80 cells as a corpus."""
    folder = tmp_path_factory.mktemp("corpus")
    tiny_adata.write_h5ad(folder / "cells.h5ad")
    write_corpus([folder / "cells.h5ad"], folder / "train", tiny_vocabulary)
    return folder / "train"


@pytest.fixture(scope="session")
def held_out_folder(tiny_adata, tiny_vocabulary, tmp_path_factory) -> Path:
    """The first 60 cells with one count more each: another file, for validation."""
    folder = tmp_path_factory.mktemp("held_out")
    cells = tiny_adata[:60].copy()
    cells.X[:, 0] = cells.X[:, 0].toarray() + 1
    cells.write_h5ad(folder / "other.h5ad")
    write_corpus([folder / "other.h5ad"], folder / "held_out", tiny_vocabulary)
    return folder / "held_out"


@pytest.fixture(scope="session")
def corpus(corpus_folder: Path) -> Corpus:
    return Corpus.open(corpus_folder)


@pytest.fixture(scope="session")
def config_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture
def make_config(config_file: Path, corpus_folder: Path):
    """Return the tiny config with changes such as ``"optim.lr=1e-3"``."""

    def make(*changes: str) -> PretrainConfig:
        return read_config(config_file, [f"data.corpus={corpus_folder}", *changes])

    return make


@pytest.fixture(scope="session")
def ranked(tiny_adata, tiny_vocabulary) -> RankedCells:
    return rank_cells(read_counts(tiny_adata, tiny_vocabulary), tiny_vocabulary)


@pytest.fixture(scope="session")
def tasks(tiny_vocabulary) -> dict[str, Task]:
    """Group of a cell as a class, grade and value; genes high in a group, as a class and a value."""
    group = np.repeat([0, 1], 40)
    generator = np.random.default_rng(0)
    genes = np.arange(30) + tiny_vocabulary.n_special
    high_in = np.repeat([1, 0], 15)
    noise = generator.normal(size=80)
    return {
        "kind": Task("kind", "cell", "classification", group, ("A", "B")),
        "grade": Task("grade", "cell", "ordinal", group * 2, ("low", "middle", "high")),
        "age": Task("age", "cell", "regression", 50.0 + 20.0 * group + noise),
        "role": Task("role", "gene", "classification", high_in, ("A", "B"), genes),
        "slope": Task("slope", "gene", "regression", 100.0 - 30.0 * high_in, (), genes),
    }


@pytest.fixture(scope="session")
def splits() -> dict[str, Split]:
    cells, genes = np.random.default_rng(1).permutation(80), np.random.default_rng(2).permutation(30)
    return {
        "cell": Split(np.sort(cells[:50]), np.sort(cells[50:65]), np.sort(cells[65:]), "random"),
        "gene": Split(np.sort(genes[:18]), np.sort(genes[18:24]), np.sort(genes[24:]), "random"),
    }
