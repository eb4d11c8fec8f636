"""``evaluate network``: the card printed and written, and one clear message for what cannot be scored."""

import json

import numpy as np
import pandas as pd
import pytest


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A truth over 25 × 30 made-up genes and an edge table that knows some of it, without a universe."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("tables")
    pairs = [(f"reg_{i}", f"tar_{j}") for i in range(25) for j in range(30)]
    known = rng.random(len(pairs)) < 0.2
    weight = rng.random(len(pairs)) + 0.5 * known
    edges = pd.DataFrame(pairs, columns=["source", "target"]).assign(weight=weight, method="guess")
    edges.to_csv(folder / "edges.tsv", sep="\t", index=False)
    edges[known][["source", "target"]].to_csv(folder / "truth.tsv", sep="\t", index=False)
    return folder


def test_the_card_is_printed_and_written(invoke, tables, tmp_path):
    out = tmp_path / "card.json"
    answer = invoke(
        "evaluate", "network", tables / "edges.tsv", "--truth", tables / "truth.tsv", "--out", out,
        "--random-networks", 10,
    )  # fmt: skip
    assert answer.code == 0
    assert "| all | guess |" in answer.out
    assert "no universe beside it" in answer.err
    card = json.loads(out.read_text())
    assert card["comparison"]["n_pairs"] == 750
    (row,) = card["rows"]
    assert 1 < row["auprc_ratio_low"] < row["auprc_ratio"] < row["auprc_ratio_high"]
    assert row["random_networks"]["p_value"] == pytest.approx(1 / 11)
    assert [row["method"] for row in card["baselines"]] == ["target degree"]
    again = invoke(
        "evaluate", "network", tables / "edges.tsv", "--truth", tables / "truth.tsv", "--json", "--quiet",
        "--random-networks", 10,
    )  # fmt: skip
    assert json.loads(again.out.splitlines()[-1])["rows"] == card["rows"]


@pytest.mark.parametrize("columns", ["TF target importance", "Gene1 Gene2 EdgeWeight"])
def test_tables_of_other_tools_are_scored_alike(invoke, tables, tmp_path, columns):
    ours = pd.read_csv(tables / "edges.tsv", sep="\t")[["source", "target", "weight"]]
    ours = ours.assign(weight=ours["weight"].abs())
    ours.to_csv(tmp_path / "ours.tsv", sep="\t", index=False)
    ours.set_axis(columns.split(), axis=1).to_csv(tmp_path / "theirs.tsv", sep="\t", index=False)
    rows = []
    for name in ("ours", "theirs"):
        answer = invoke(
            "evaluate", "network", tmp_path / f"{name}.tsv", "--truth", tables / "truth.tsv", "--json",
            "--quiet", "--random-networks", 5,
        )  # fmt: skip
        assert answer.code == 0, answer.err
        (row,) = json.loads(answer.out.splitlines()[-1])["rows"]
        rows.append(row)
    assert rows[0]["auprc_ratio"] == pytest.approx(rows[1]["auprc_ratio"])
    assert rows[1]["method"] in {"arboreto", "beeline"}


def test_cells_add_baselines_and_the_residual(invoke, tiny_adata, tiny_checkpoint, tmp_path):
    cells = tmp_path / "cells.h5ad"
    tiny_adata.write_h5ad(cells)
    edges = tmp_path / "edges.tsv"
    arguments = ("--model", tiny_checkpoint, "--quiet", "--json")
    scored = invoke("network", cells, "--out", edges, "--methods", "correlation,ridge", *arguments)
    assert scored.code == 0
    universe = json.loads((tmp_path / "edges.universe.json").read_text())
    rng = np.random.default_rng(1)
    pairs = [(a, b) for a in universe["regulators"] for b in universe["targets"] if a != b]
    chosen = [pair for pair in pairs if rng.random() < 0.2]
    truth = tmp_path / "truth.tsv"
    pd.DataFrame(chosen, columns=["source", "target"]).to_csv(truth, sep="\t", index=False)
    answer = invoke("evaluate", "network", edges, "--truth", truth, "--expression", cells, *arguments)
    assert answer.code == 0
    card = json.loads(answer.out.splitlines()[-1])
    assert [row["method"] for row in card["rows"]] == ["correlation", "ridge"]
    baselines = [row["method"] for row in card["baselines"]]
    assert baselines == ["|r|", "target mean", "target variance", "target detection", "target degree"]
    # the table is whole, so that correlation is its own baseline
    assert card["rows"][0]["against_correlation"]["auroc"]["difference"] == pytest.approx(0, abs=1e-9)
    assert "log_loss_gain" in card["rows"][1]["residual"]


def test_what_cannot_be_scored_is_said_in_one_line(invoke, tables, tmp_path):
    elsewhere = tmp_path / "other.tsv"
    pd.DataFrame({"source": ["x_1"], "target": ["x_2"]}).to_csv(elsewhere, sep="\t", index=False)
    for truth, message in [
        (elsewhere, "none of 25 regulators scored is a regulator in other.tsv"),
        (tmp_path / "none.tsv", "no truth table at"),
    ]:
        answer = invoke("evaluate", "network", tables / "edges.tsv", "--truth", truth)
        assert answer.code == 2
        assert message in answer.err
        assert "Traceback" not in answer.err
