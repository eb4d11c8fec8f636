"""Fine-tuning in several processes under torchrun with gloo is what one process does."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from geneformer_grn.cells.counts import read_counts
from geneformer_grn.cells.ranking import rank_cells
from geneformer_grn.training.supervision import MISSING, Split, Task

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize(("mode", "heads"), [("top", "steps"), ("top", "fitted"), ("frozen", "fitted")])
def test_two_processes_do_what_one_does(
    repository, tiny_adata, tiny_vocabulary, tiny_checkpoint, tmp_path, mode, heads
):
    """With dropout, tasks of which batches lack labels, and a number of batches that is odd."""
    ranked = rank_cells(read_counts(tiny_adata, tiny_vocabulary), tiny_vocabulary)
    group = np.repeat([0, 1], 40)
    rare = np.where(np.arange(80) % 9 == 0, group, MISSING)
    genes = np.arange(30) + tiny_vocabulary.n_special
    tasks = [
        Task("kind", "cell", "classification", group, ("A", "B")),
        Task("rare", "cell", "ordinal", rare, ("A", "B")),
        Task("slope", "gene", "regression", np.arange(30.0), (), genes),
    ]
    cells = np.random.default_rng(1).permutation(80)
    splits = {
        "cell": Split(np.sort(cells[:50]), np.sort(cells[50:65]), np.sort(cells[65:]), "random"),
        "gene": Split(np.arange(0, 20), np.arange(20, 25), np.arange(25, 30), "first"),
    }
    optim = {
        "epochs": 3, "min_steps": 0, "token_budget": 300, "task_weighting": "uncertainty", "patience": None,
    }  # fmt: skip
    model = {"mode": mode, "top_layers": 1, "heads": heads}
    program = str(repository / "tests" / "training" / "finetune_here.py")
    environment = os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    for name, world, start in (("one", 1, [sys.executable]), ("two", 2, launcher)):
        settings = {"optim": optim | {"accumulation": 2 // world}, "model": model}
        given = tmp_path / f"{name}.pickle"
        given.write_bytes(pickle.dumps((tiny_checkpoint, ranked, tasks, splits, settings)))
        (tmp_path / name).mkdir()
        done = subprocess.run(
            [*start, program, str(given), str(tmp_path / name), str(world)],
            env=environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    read = {
        path.parent.name + path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*/rank*.json")
    }
    assert read["tworank0"] == read["tworank1"], "all processes hold the same model and history"
    for row, other in zip(read["onerank0"][0], read["tworank0"][0], strict=True):
        assert row.keys() == other.keys()
        for key, value in row.items():
            assert other[key] == pytest.approx(value, abs=1e-3), key
    ours, theirs = (torch.load(tmp_path / name / "heads0.pt", weights_only=True) for name in ("one", "two"))
    for name, weight in ours.items():
        torch.testing.assert_close(theirs[name], weight, atol=1e-3, rtol=1e-3)
