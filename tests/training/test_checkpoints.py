from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch

from geneformer_grn.training import checkpoints
from geneformer_grn.training.checkpoints import Position


@pytest.fixture
def trained():
    """A small model one update old, and its optimizer."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def save(out: Path, trained, step: int, **facts) -> Path:
    state, position = checkpoints.training_state(*trained), Position(step=step, epoch=1, batch=7)
    return checkpoints.save_training_state(out, state, position, facts=facts, keep_last=2)


def test_what_is_saved_comes_back(tmp_path: Path, trained):
    model, optimizer = trained
    save(tmp_path, trained, 5, **{"optim.lr": 0.1})
    found = checkpoints.load_newest(tmp_path)
    assert found.position == Position(step=5, epoch=1, batch=7)
    assert found.facts == {"optim.lr": 0.1}
    other = torch.nn.Linear(3, 2)
    other_optimizer = torch.optim.AdamW(other.parameters(), lr=0.02)
    checkpoints.restore(found, other, other_optimizer)
    assert torch.equal(other.weight, model.weight)
    assert other_optimizer.param_groups[0]["lr"] == 0.02, "settings come from the config, not from the file"
    ours, theirs = optimizer.state_dict()["state"], other_optimizer.state_dict()["state"]
    assert all(torch.equal(ours[0][key], theirs[0][key]) for key in ("step", "exp_avg", "exp_avg_sq"))


def test_only_the_last_ones_stay(tmp_path: Path, trained):
    for step in (8, 9, 10, 11):
        save(tmp_path, trained, step)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000010", "step-00000011"]


@pytest.mark.parametrize("damage", ["truncate", "empty", "remove", "json"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, trained, damage: str):
    save(tmp_path, trained, 1)
    newest = save(tmp_path, trained, 2)
    state = newest / "state.pt"
    match damage:
        case "truncate":
            state.write_bytes(state.read_bytes()[:-100])
        case "empty":
            state.write_bytes(b"")
        case "remove":
            state.unlink()
        case "json":
            (newest / "position.json").write_text("{")
    assert checkpoints.load_newest(tmp_path).position.step == 1


def test_no_checkpoint_and_leftovers(tmp_path: Path):
    assert checkpoints.load_newest(tmp_path) is None
    assert not checkpoints.holds_run(tmp_path)
    torn = tmp_path / "checkpoints" / ".geneformer-grn-abc" / "step-00000003"
    torn.mkdir(parents=True)
    assert checkpoints.load_newest(tmp_path) is None
    checkpoints.remove_leftovers(tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_pickled_code_is_not_run(tmp_path: Path, trained):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "owned",))

    folder = save(tmp_path, trained, 1)
    torch.save({"model": Evil(), "optimizer": {}}, folder / "state.pt")
    assert checkpoints.load_newest(tmp_path) is None
    assert not (tmp_path / "owned").exists()


def test_another_config_is_refused_by_key():
    saved = {"optim.lr": 1e-3, "run.max_steps": 10, "corpus cells": 80, "run.precision": "fp32"}
    checkpoints.require_same_run(saved, saved | {"run.max_steps": 20, "run.device": "cuda"})
    with pytest.raises(ValueError, match=r"corpus cells was 80, is 70; optim.lr was 0.001, is 0.002"):
        checkpoints.require_same_run(saved, saved | {"optim.lr": 2e-3, "corpus cells": 70})


def test_position_is_plain_json(tmp_path: Path, trained):
    folder = save(tmp_path, trained, 3)
    assert json.loads((folder / "position.json").read_text())["position"]["step"] == 3


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("[enforce fail] file write failed")],
    ids=["the system's", "torch's"],
)
def test_a_full_disk_is_one_message_and_nothing_is_lost(tmp_path: Path, trained, monkeypatch, error):
    save(tmp_path, trained, 1)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))

    def fail(_state, path):
        Path(path).write_bytes(b"half")
        raise error

    monkeypatch.setattr(torch, "save", fail)
    full = shutil._ntuple_diskusage(10**9, 10**9 - 100, 100)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _path: full)
    with pytest.raises(OSError, match=r"is full.*step-00000001 is whole.*--resume") as caught:
        save(tmp_path, trained, 2)
    assert caught.value.errno == errno.ENOSPC
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
    monkeypatch.undo()
    assert checkpoints.load_newest(tmp_path).position.step == 1


def test_other_errors_of_writing_are_not_called_a_full_disk(tmp_path: Path, trained, monkeypatch):
    def fail(_state, _path):
        raise RuntimeError("something else")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="something else"):
        save(tmp_path, trained, 2)
