"""What every room stands on: files that appear whole or not at all, and plain JSON."""

from __future__ import annotations

import io
import itertools
import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest

from geneformer_grn._runtime import (
    atomic_path,
    choose_device,
    logger,
    plain_json,
    progress,
    sha256_file,
    staged_folder,
    write_json,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def interrupted_write(context, write) -> None:
    """Enter `context`, let `write` use the path it gives, and fail."""
    with context as path:
        write(path)
        raise RuntimeError("stopped")


def test_a_file_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "deep" / "table.tsv.gz"
    with atomic_path(target) as temporary:
        assert temporary.name == target.name, "writers choose formats by suffixes"
        temporary.write_text("new")
        assert not target.exists()
    assert names(target.parent) == ["table.tsv.gz"]
    with pytest.raises(RuntimeError, match="stopped"):
        interrupted_write(atomic_path(target), lambda path: path.write_text("half"))
    assert target.read_text() == "new"
    assert names(target.parent) == ["table.tsv.gz"]


def test_a_folder_is_replaced_whole(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("")
    with pytest.raises(RuntimeError, match="stopped"):
        interrupted_write(atomic_path(target), lambda path: path.mkdir())
    assert names(target) == ["old"]
    with atomic_path(target) as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("")
    assert names(target) == ["new"]
    assert names(tmp_path) == ["model"]


def test_staged_files_join_those_that_are_there(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_text("old")
    (out / "mine").write_text("mine")
    with staged_folder(out) as staging:
        (staging / "a").write_text("new")
        (staging / "b").write_text("new")
        assert (out / "a").read_text() == "old"
    assert names(out) == ["a", "b", "mine"]
    assert [(out / name).read_text() for name in names(out)] == ["new", "new", "mine"]
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_failure_leaves_the_folder_as_it_was(tmp_path, exists):
    out = tmp_path / "deep" / "out"
    if exists:
        out.mkdir(parents=True)
    with pytest.raises(RuntimeError, match="stopped"):
        interrupted_write(staged_folder(out), lambda path: (path / "a").write_text("half"))
    assert names(tmp_path) == (["deep"] if exists else [])
    assert not exists or names(out) == []


def test_a_folder_that_has_the_name_of_an_output_is_refused_before_any_is_moved(tmp_path):
    out = tmp_path / "out"
    (out / "run.json").mkdir(parents=True)

    def write() -> None:
        with staged_folder(out) as staging:
            (staging / "cells.h5ad").write_text("x")
            (staging / "run.json").write_text("x")

    with pytest.raises(IsADirectoryError, match=r"run\.json: it is a folder"):
        write()
    assert names(out) == ["run.json"]
    assert names(tmp_path) == ["out"]


def test_a_target_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "file", tmp_path / "file" / "out", Path("/proc/geneformer-grn/out")):
        with (
            pytest.raises((NotADirectoryError, PermissionError), match="cannot write to"),
            staged_folder(target),
        ):
            pytest.fail("the body must not begin")


def test_json_is_plain_and_names_no_folder(tmp_path):
    content = {
        "path": tmp_path / "deep" / "cells.h5ad",
        1: [np.float32(0.5), np.int64(3), np.array([[1.0, np.nan]]), (True, None)],
        "endless": float("inf"),
        "nested": {"bool": np.bool_(True), "array": np.arange(2)},
    }
    write_json(tmp_path / "facts.json", content)
    assert json.loads((tmp_path / "facts.json").read_text()) == {
        "path": "cells.h5ad",
        "1": [0.5, 3, [[1.0, None]], [True, None]],
        "endless": None,
        "nested": {"bool": True, "array": [0, 1]},
    }
    assert plain_json("text") == "text"


def test_sha256_is_hashlibs(tmp_path):
    import hashlib

    content = np.random.default_rng(0).bytes(3 << 20)
    (tmp_path / "file").write_bytes(content)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_devices():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in {"cpu", "cuda", "mps"}
    with pytest.raises(ValueError, match="'tpu' is unknown"):
        choose_device("tpu")


@pytest.mark.parametrize(("terminal", "frequent"), [(True, True), (False, False)])
def test_a_progress_bar_in_a_file_is_few_lines(monkeypatch, terminal, frequent):
    clock = itertools.count(0.0, 0.5)  # seconds a look
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr("tqdm.std.time", lambda: next(clock))
    monkeypatch.delenv("TQDM_MININTERVAL", raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(logger, "getEffectiveLevel", lambda: logging.INFO)
    with progress(total=50, miniters=1) as bar:
        for step in range(50):
            bar.update()
            bar.set_postfix(loss=f"{step}", refresh=False)
    states = stream.getvalue().count("\r")
    assert states > 40 if frequent else 2 <= states <= 6
    assert "50/50" in stream.getvalue(), "the end is told in any case"
