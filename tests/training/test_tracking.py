from __future__ import annotations

import json
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


def test_wandb_knows_every_setting(tmp_path: Path):
    wandb = pytest.importorskip("wandb")
    wandb.Settings(**wandb_arguments(tmp_path)["settings"])
