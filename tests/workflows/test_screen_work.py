"""A screen that was stopped goes on with its own list and parts, and leaves nothing but its tables."""

import json

import pandas as pd
import pytest

from geneformer_grn.perturbation import first_order, part_files
from geneformer_grn.workflows.perturb_options import PerturbOptions
from geneformer_grn.workflows.perturb_parts import PerturbSource
from geneformer_grn.workflows.screen import screen_file
from geneformer_grn.workflows.screen_options import ScreenOptions

TABLES = ("genes", "effects", "cells")


@pytest.fixture
def source(tiny_h5ad, tiny_checkpoint):
    return PerturbSource(file=tiny_h5ad, model=str(tiny_checkpoint), n_cells=10, device="cpu")


def asked(share=0.2, **more):
    perturb = PerturbOptions(genes="all", kind="knockout", n_null=0, part_tokens=400, **more)
    return ScreenOptions(perturb=perturb, share=share, audit=0.2, effort=0.3)


def stop_after(monkeypatch, n_parts, error):
    """Let the run end with an error where part number `n_parts` would be written."""
    write, done = part_files.write_part, []

    def stopping(*arguments, **more):
        if len(done) == n_parts:
            raise error
        done.append(write(*arguments, **more))

    monkeypatch.setattr(part_files, "write_part", stopping)


def refuse(*_, **__):
    raise AssertionError("estimated again")


def test_a_stopped_screen_goes_on_to_the_same_bytes(source, tmp_path, monkeypatch):
    whole = screen_file(source, tmp_path / "whole", asked())
    out, work = tmp_path / "out", tmp_path / "out.unfinished"
    for n_parts in (0, 2):
        with monkeypatch.context() as patch:
            if n_parts:
                patch.setattr(first_order, "estimate_cells", refuse)
            stop_after(patch, n_parts, KeyboardInterrupt())
            with pytest.raises(KeyboardInterrupt):
                screen_file(source, out, asked())
        assert not out.exists()
        assert len(list((work / "exact" / "parts").iterdir())) == n_parts
    with pytest.raises(ValueError, match=r"unfinished screen with other share \(0.2, now 0.3\)"):
        screen_file(source, out, asked(share=0.3))
    with monkeypatch.context() as patch:
        patch.setattr(first_order, "estimate_cells", refuse)
        assert screen_file(source, out, asked()) == whole
    assert not work.exists()
    for name in TABLES:
        made, expected = (folder / f"{name}.parquet" for folder in (out, tmp_path / "whole"))
        assert made.read_bytes() == expected.read_bytes()


def test_an_error_before_any_part_leaves_nothing_in_the_way(source, tmp_path, monkeypatch):
    stop_after(monkeypatch, 0, ValueError("too coarse"))
    with pytest.raises(ValueError, match="too coarse"):
        screen_file(source, tmp_path / "out", asked())
    assert not list(tmp_path.glob("out*"))


def test_tables_of_an_earlier_run_go(source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    pd.DataFrame({"gene": ["A"]}).to_parquet(out / "expression.parquet")
    (out / "notes.txt").write_text("mine")
    screen_file(source, out, asked())
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["notes.txt", "parameters.json", *(f"{name}.parquet" for name in TABLES)]
    )


def test_the_work_of_a_perturbation_is_not_touched(source, tmp_path):
    work = tmp_path / "out.unfinished"
    work.mkdir()
    (work / "plan.json").write_text(json.dumps({"kind": "geneformer-grn perturbation"}))
    with pytest.raises(ValueError, match="not the plan of a screen"):
        screen_file(source, tmp_path / "out", asked())
    (work / "plan.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        screen_file(source, tmp_path / "out", asked())
    assert [path.name for path in work.iterdir()] == ["plan.json"]
