from __future__ import annotations

import getpass
import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from geneformer_grn.training.tracking import cut_log, read_log, require_tracker, wandb_arguments


def test_cutting_keeps_what_the_checkpoint_has_seen(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    lines = [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": 1.5},
        {"step": 2, "validation_loss": 1.7},
        {"step": 3},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    cut_log(path, 2)
    assert read_log(path) == lines[:3]


def test_a_torn_line_ends_the_log(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    cut_log(path, 5)
    assert path.read_text() == '{"step": 1}\n'


def test_no_log_is_fine(tmp_path: Path):
    cut_log(tmp_path / "log.jsonl", 3)
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch):
    require_tracker("off")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"geneformer-grn\[wandb\]"):
        require_tracker("wandb")


def test_wandb_is_told_to_send_nothing_on_its_own(tmp_path: Path):
    arguments = wandb_arguments(tmp_path)
    settings = arguments.pop("settings")
    assert arguments == {"dir": str(tmp_path)}
    assert settings["console"] == "off"
    assert settings["host"] == ""
    assert not settings["save_code"]
    assert not settings["x_save_requirements"]
    assert all(value is True for name, value in settings.items() if "disable" in name)
    assert {"x_disable_meta", "x_disable_stats", "x_disable_machine_info", "disable_git"} <= set(settings)


@pytest.mark.slow
def test_wandb_knows_every_setting(tmp_path: Path):
    wandb = pytest.importorskip("wandb")
    wandb.Settings(**wandb_arguments(tmp_path)["settings"])


def pretrain_elsewhere(repository, config_file, corpus_folder, out: Path, tracker: str) -> None:
    """Run the tiny config in a process of its own, which prints the trackers it has imported."""
    environment = os.environ | {
        "PYTHONPATH": str(repository),
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "offline",
    }
    program = repository / "tests" / "training" / "pretrain_here.py"
    changes = [f"data.corpus={corpus_folder}", f"run.tracker={tracker}"]
    given = [item for change in changes for item in ("--set", change)]
    done = subprocess.run(
        [sys.executable, str(program), str(config_file), *given, "--out", str(out)],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    imported = done.stdout.split("imported:")[1].split()
    assert imported == ([] if tracker == "off" else [tracker])


def assert_private(content: bytes, tmp_path: Path, *names: str) -> None:
    """No folder, file, donor, cell or machine is in `content`."""
    machine = socket.gethostname()
    for secret in (
        str(tmp_path),
        "cells.h5ad",
        str(Path.home()) + "/",
        *names,
        *[machine][: len(machine) > 5],
    ):
        assert secret.encode() not in content, secret


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["off", "wandb", "tensorboard"])
def test_trackers_get_the_numbers_and_nothing_private(
    repository, config_file, corpus_folder, tiny_adata, tmp_path, tracker: str
):
    if tracker != "off" and importlib.util.find_spec(tracker) is None:
        pytest.skip(f"{tracker} is not installed: pip install 'geneformer-grn[{tracker}]'")
    pretrain_elsewhere(repository, config_file, corpus_folder, tmp_path / "run", tracker)
    losses = [line["loss"] for line in read_log(tmp_path / "run" / "log.jsonl")]
    secrets = [*tiny_adata.obs_names[:3], *{str(corpus_folder), str(corpus_folder.parent)}]
    if tracker == "wandb":
        (run,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
        content = run.read_bytes()
        assert b"validation_cells" in content, "the config is there"
        assert repr(losses[-1]).encode()[:8] in content
        for path in (path for path in run.parent.rglob("*") if path.is_file() and path.suffix != ".log"):
            assert_private(path.read_bytes(), tmp_path, *secrets)
            assert getpass.getuser().encode() not in path.read_bytes() or getpass.getuser() == "root"
    if tracker == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        (folder,) = (tmp_path / "run").glob("geneformer-grn")
        (file,) = folder.glob("events.out.*")  # the config lies in a folder of its own beside it
        events = EventAccumulator(str(file)).Reload()
        assert [event.value for event in events.Scalars("loss")] == pytest.approx(losses)
        for path in (path for path in folder.rglob("*") if path.is_file()):
            assert_private(path.read_bytes(), tmp_path, *secrets)
    if tracker == "off":
        assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
            "checkpoints", "log.jsonl", "model", "result.json", "run.json",
        ]  # fmt: skip
