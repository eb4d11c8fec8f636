"""evaluate model: the same scores as the parts give, and nothing scored that the model has seen."""

from __future__ import annotations

import json
import shutil

import pytest

from geneformer_grn._runtime import sha256_file
from geneformer_grn.cells.counts import read_counts
from geneformer_grn.cells.rank_position import RankPositionBaseline
from geneformer_grn.cells.ranking import model_input, rank_cells
from geneformer_grn.model.encoder import load_encoder
from geneformer_grn.training.validation import masked_cells, masked_gene_scores
from geneformer_grn.workflows.evaluate import EvaluateSettings, evaluate_model, results_table

SETTINGS = EvaluateSettings(device="cpu", max_cells=15, seed=4)


@pytest.fixture(scope="module")
def results(results_file):
    return json.loads(results_file.read_text(), parse_constant=pytest.fail)


def test_each_file_has_the_scores_that_validation_gives(results, trained):
    encoder = load_encoder(trained.folder, device="cpu")
    baseline = RankPositionBaseline.load(trained.folder / "rank_position.npz")
    rows = results["masked_genes"]["files"]
    assert [row["file"] for row in rows] == ["first.h5ad", "second.h5ad"]
    for row, path in zip(rows, trained.held_out, strict=True):
        ranked = rank_cells(read_counts(path, encoder.vocabulary), encoder.vocabulary)
        sequences = [model_input(ranked.cell(cell), encoder.vocabulary) for cell in range(len(ranked))]
        how = {"seed": 4, "max_cells": 15}
        expected = masked_gene_scores(encoder.model, sequences, encoder.vocabulary, **how)
        assert row["model"] == pytest.approx(expected, rel=1e-5)
        assert row["model"]["n_cells"] == 15
        guess = baseline.score(masked_cells(sequences, encoder.vocabulary, **how))
        assert row["rank_position"]["loss"] == pytest.approx(guess["loss"])
        assert row["rank_position"]["accuracy"] == pytest.approx(guess["accuracy"])
        assert row["sha256"] == sha256_file(path)


def test_all_is_every_hidden_gene_of_both_files(results):
    scored = results["masked_genes"]
    for name in ("model", "rank_position", "untrained"):
        parts = [row[name] for row in scored["files"]]
        n_masked = sum(part["n_masked"] for part in parts)
        assert scored["all"][name]["n_masked"] == n_masked
        assert scored["all"][name]["n_cells"] == 30
        for measure in ("loss", "accuracy"):
            mean = sum(part[measure] * part["n_masked"] for part in parts) / n_masked
            assert scored["all"][name][measure] == pytest.approx(mean)
    gain = scored["all"]["ahead_of"]["rank_position"]
    model, other = scored["all"]["model"], scored["all"]["rank_position"]
    assert gain["loss"]["mean"] == pytest.approx(other["loss"] - model["loss"])
    assert gain["accuracy"]["mean"] == pytest.approx(model["accuracy"] - other["accuracy"])
    assert gain["loss"]["low"] < gain["loss"]["mean"] < gain["loss"]["high"]


def test_results_say_what_was_scored_and_how_and_no_directory(results, trained, results_file):
    checkpoint = results["checkpoint"]
    assert checkpoint["name"] == "model"
    assert checkpoint["weights_sha256"] == sha256_file(trained.folder / "model.safetensors")
    encoder = load_encoder(trained.folder, device="cpu")
    assert checkpoint["parameters"] == encoder.n_parameters
    assert checkpoint["vocabulary"]["fingerprint"] == encoder.vocabulary.fingerprint
    assert results["training"] == json.loads((trained.folder / "training.json").read_text())
    assert results["conditions"]["seed"] == 4
    assert results["conditions"]["max_cells"] == 15
    assert str(trained.folder.parent) not in results_file.read_text()


def test_the_table_is_read_off_the_results(results):
    lines = results_table(results).splitlines()
    assert len(lines) == 2 + 2 + 1
    scored = results["masked_genes"]
    for line, row in zip(lines[2:], [*scored["files"], {"file": "all", **scored["all"]}], strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[:2] == [row["file"], str(row["model"]["n_cells"])]
        for cell, name in zip(cells[2:5], ("model", "rank_position", "untrained"), strict=True):
            assert cell == f"{row[name]['loss']:.3f} nats, {100 * row[name]['accuracy']:.2f} %"
        gain = row["ahead_of"]["rank_position"]
        for measure, factor, digits in (("loss", 1, 3), ("accuracy", 100, 2)):
            mean, low, high = (
                f"{factor * gain[measure][key]:+.{digits}f}" for key in ("mean", "low", "high")
            )
            assert f"{mean} ({low} to {high})" in cells[5]


def test_the_same_call_gives_the_same_results(results, trained):
    again = evaluate_model(trained.folder, trained.held_out[:1], SETTINGS)
    one, two = again["masked_genes"]["files"][0], results["masked_genes"]["files"][0]
    for name in ("model", "rank_position", "untrained"):
        assert one[name] == pytest.approx(two[name])
    for measure in ("loss", "accuracy"):
        assert one["ahead_of"]["untrained"][measure] == pytest.approx(two["ahead_of"]["untrained"][measure])


def test_a_file_of_the_training_corpus_is_refused_whatever_it_is_called(trained, tmp_path):
    renamed = shutil.copy(trained.training_file, tmp_path / "other.h5ad")
    out = tmp_path / "results.json"
    with pytest.raises(ValueError, match=r"other\.h5ad was in this model's training corpus"):
        evaluate_model(trained.folder, [trained.held_out[0], renamed], SETTINGS, out=out)
    with pytest.raises(ValueError, match="made this model's vocabulary"):
        evaluate_model(trained.folder, [trained.vocabulary_file], SETTINGS, out=out)
    assert not out.exists()


def test_without_a_record_the_vocabularys_files_are_still_refused(trained, tmp_path):
    folder = shutil.copytree(trained.folder, tmp_path / "model")
    (folder / "training.json").unlink()
    with pytest.raises(ValueError, match="give cells the model has not seen"):
        evaluate_model(folder, [trained.training_file], SETTINGS)
    (folder / "training.json").write_text("{")
    with pytest.raises(ValueError, match=r"training\.json cannot be read"):
        evaluate_model(folder, trained.held_out, SETTINGS)


def test_a_checkpoint_without_a_baseline_is_scored_without_it(tiny_checkpoint, trained):
    found = evaluate_model(tiny_checkpoint, trained.held_out[:1], EvaluateSettings(device="cpu", max_cells=3))
    assert found["training"] is None
    assert set(found["masked_genes"]["all"]["ahead_of"]) == {"untrained"}
    assert results_table(found).splitlines()[-1].endswith("| – |")


def test_wrong_calls(trained, tmp_path):
    with pytest.raises(ValueError, match="suite 'long' is unknown; choose from standard"):
        EvaluateSettings(suite="long")
    with pytest.raises(FileNotFoundError, match=r"none\.h5ad"):
        evaluate_model(trained.folder, [tmp_path / "none.h5ad"], SETTINGS)
