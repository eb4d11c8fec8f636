"""Several processes under torchrun with gloo: what they compute together is what one process computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from geneformer_grn.training.pretrain import run_pretraining
from geneformer_grn.training.tracking import read_log

pytestmark = pytest.mark.distributed


@pytest.fixture
def run_two(repository, config_file, corpus_folder):
    """Return a function that pretrains in two processes and fails with their output."""

    def run(out: Path, *changes: str, resume: bool = False) -> None:
        environment = os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
        given = [item for change in (f"data.corpus={corpus_folder}", *changes) for item in ("--set", change)]
        program = str(repository / "tests" / "training" / "pretrain_here.py")
        command = [
            sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", program, str(config_file),
            *given, "--out", str(out), "--expect-world", "2", *(["--resume"] if resume else []),
        ]  # fmt: skip
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    return run


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def assert_close_runs(one: Path, two: Path) -> None:
    ours, theirs = ([line for line in read_log(out / "log.jsonl") if "loss" in line] for out in (one, two))
    assert [line["step"] for line in ours] == [line["step"] for line in theirs], "one writer, one line a step"
    for key in ("tokens", "masked_tokens"):
        assert [line[key] for line in ours] == [line[key] for line in theirs]
    for key in ("loss", "grad_norm"):
        np.testing.assert_allclose(
            [line[key] for line in ours], [line[key] for line in theirs], atol=1e-5, rtol=1e-5
        )
    for name, weight in weights(one).items():
        torch.testing.assert_close(weight, weights(two)[name], atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("dropout", [0, 0.1])
def test_two_processes_do_what_one_does(run_two, make_config, held_out_folder, tmp_path, dropout: float):
    shared = [
        f"model.dropout={dropout}", "run.max_steps=9", "data.token_budget=500", "run.validate_every=4",
        f"data.validation={held_out_folder}", "run.validation_cells=20",
    ]  # fmt: skip
    run_pretraining(make_config(*shared, "optim.accumulation=2"), tmp_path / "one")
    run_two(tmp_path / "two", *shared)
    assert json.loads((tmp_path / "two" / "run.json").read_text())["plan"]["processes"] == 2
    assert_close_runs(tmp_path / "one", tmp_path / "two")
    validated = [
        line["step"] for line in read_log(tmp_path / "two" / "log.jsonl") if "validation_loss" in line
    ]
    assert validated == [4, 8, 9]


def test_sharded_processes_do_what_one_does(run_two, make_config, held_out_folder, tmp_path):
    shared = [
        "run.max_steps=9", "data.token_budget=500", "model.dropout=0", "run.validate_every=4",
        f"data.validation={held_out_folder}", "run.validation_cells=20",
    ]  # fmt: skip
    run_pretraining(make_config(*shared, "optim.accumulation=4"), tmp_path / "one")
    run_two(tmp_path / "two", *shared, "run.sharding=fsdp2", "optim.accumulation=2")
    assert_close_runs(tmp_path / "one", tmp_path / "two")
    newest = tmp_path / "two" / "checkpoints" / "step-00000009"
    state = torch.load(newest / "state.pt", weights_only=True)["model"]
    for folder in (newest / "model", tmp_path / "two" / "model"):
        for name, weight in AutoModelForMaskedLM.from_pretrained(folder).state_dict().items():
            assert torch.equal(weight, state[name]), name
    scores = [
        [
            line["validation_loss"]
            for line in read_log(tmp_path / out / "log.jsonl")
            if "validation_loss" in line
        ]
        for out in ("one", "two")
    ]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)


@pytest.mark.parametrize("sharding", ["none", "fsdp2"])
def test_the_number_of_processes_may_change_on_the_way(run_two, make_config, tmp_path, sharding: str):
    """Two, then one with two accumulated batches, then two again."""
    shared = ["model.dropout=0", "data.token_budget=500", "run.checkpoint_every=3"]
    schedule = ["optim.schedule=linear", "optim.warmup_steps=1", "optim.final_lr_share=1.0"]  # length-free
    same = [*shared, *schedule]
    run_pretraining(make_config(*same, "run.max_steps=9", "optim.accumulation=2"), tmp_path / "one")
    out = tmp_path / "changing"
    run_two(out, *same, "run.max_steps=3", f"run.sharding={sharding}")
    config = make_config(*same, "run.max_steps=6", "optim.accumulation=2")
    run_pretraining(config, out, resume=True)
    run_two(out, *same, "run.max_steps=9", f"run.sharding={sharding}", resume=True)
    assert_close_runs(tmp_path / "one", out)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("checkpoint", "there is no checkpoint yet. Free some space and --resume"),
        ("step", "corpus train: part-0.arrow is gone"),
        ("stuck", "corpus train: part-0.arrow is gone"),
        ("loss", "of step 1 is not finite"),
    ],
)
def test_one_failing_process_ends_all_with_one_message(
    repository, config_file, corpus_folder, tmp_path, place: str, message: str
):
    """Else the others wait for gloo's error or, where a call does not notice, for the launcher's kill."""
    environment = os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1", "FAIL_AT": place}
    program = str(repository / "tests" / "training" / "fail_here.py")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", program, str(config_file),
        "--set", f"data.corpus={corpus_folder}", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if "error: " in line and "torch" not in line]
    assert len(told) == 1, done.stderr[-4000:]
    assert message in told[0]
    assert "fault of geneformer-grn" not in done.stderr
    assert "ends, since another one failed" in done.stderr
    if place == "loss":
        assert len(list((tmp_path / "run" / "not_finite").iterdir())) == 2
