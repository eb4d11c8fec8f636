from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.training.supervision import Split, Task
from geneformer_grn.workflows.card import write_card
from geneformer_grn.workflows.finetune import run_finetuning
from geneformer_grn.workflows.finetune_rows import _prediction
from geneformer_grn.workflows.finetune_scores import best_baseline

N_DONORS = 8


def test_the_table_holds_every_method_on_the_same_units(finetune_run):
    out, found = finetune_run
    task = found.results["tasks"]["cell_type"]
    assert set(task["methods"]) == {"finetuned", "majority", "hvg_pca_logistic"}
    test = found.inputs.splits[0].test
    assert {card["n_units"] for card in task["methods"].values()} == {len(test)}
    table = pd.read_csv(out / "table.tsv", sep="\t", dtype={"labels": str})
    assert table["labels"].unique().tolist() == ["all", "2"]
    whole = table[table["labels"] == "all"].set_index("method")
    assert whole["auroc"].is_monotonic_decreasing
    assert whole.loc["majority", "auroc"] == 0.5
    predictions = pd.read_parquet(out / "predictions.parquet")
    ours = predictions[(predictions["method"] == "finetuned") & (predictions["labels"] == "all")]
    accuracy = (ours["truth"] == ours["predicted"]).mean()
    assert whole.loc["finetuned", "accuracy"] == pytest.approx(accuracy)
    curve = predictions[predictions["labels"] == "2"]
    assert curve.groupby(["method", "condition"]).ngroups == 6
    training = task["methods"]["finetuned"]["training"][0]
    n_train = len(found.inputs.splits[0].train)
    assert training["n_train_units"] == {"cell_type": n_train}
    assert {row["cells"] for row in training["history"]} == {n_train}, "the last incomplete batch counts"
    met = [goal["met"] for goal in task["goals"]]
    assert met == [True, False]
    assert "no donor is in two parts" in found.results["data"]["split"]


def test_predictions_are_in_the_cells(finetune_run):
    from anndata import read_h5ad

    out, found = finetune_run
    adata = read_h5ad(out / "predictions.h5ad")
    test = found.inputs.splits[0].test
    part = adata.obs["geneformer_part"].to_numpy()
    assert np.array_equal(np.flatnonzero(part == "test"), test)
    assert np.array_equal(np.flatnonzero(adata.obs["predicted_cell_type"] != ""), test)
    assert adata.obs["probability_cell_type"].to_numpy()[test].min() >= 0.5
    assert adata.uns["geneformer_grn"]["finetune"]["split"] == found.results["data"]["split"]


def test_pretrained_weights_are_loaded_and_the_model_is_the_one_scored(finetune_run, tiny_encoder):
    from geneformer_grn.model.fingerprint import encoder_fingerprint
    from geneformer_grn.model.head_files import load_finetuned

    out, found = finetune_run
    model = found.results["model"]
    assert model["encoder_before"] == encoder_fingerprint(tiny_encoder.model)
    assert model["encoder_after"] != model["encoder_before"]
    test = found.inputs.splits[0].test
    again = load_finetuned(out / "model", device="cpu").predict(found.inputs.ranked, cells=test)["cell_type"]
    held = np.load(out / "rows" / "fold1.finetuned.npz")
    assert np.allclose(again, held["scores0"], atol=1e-5)
    assert "geneformer-grn" in (out / "card.md").read_text()
    drawn = {path.name.removesuffix("_cell_type.svg") for path in (out / "figures").iterdir()}
    assert drawn == {"confusion", "roc", "precision_recall", "calibration", "learning_curve"}


def test_a_unit_without_a_score_has_the_shares_of_training():
    task = Task("kind", "gene", "classification", np.array([0, 0, 0, 1, 1, 0]), ("a", "b"),
                gene_tokens=np.arange(6))  # fmt: skip
    split = Split(np.arange(4), np.array([4]), np.array([4, 5]), rule="")
    table = np.full((6, 2), 0.5)
    table[5] = np.nan
    found = _prediction(task, table, split, {"seconds": 1.0})
    assert found.scores.tolist() == [[0.5, 0.5], [0.75, 0.25]]
    assert found.details == {"seconds": 1.0, "n_without_score": 1}


def test_a_temperature_is_fitted_to_the_validation_part(finetune_run):
    from geneformer_grn.evaluation.calibration import with_temperature
    from geneformer_grn.model.head_files import load_finetuned, read_record

    out, found = finetune_run
    kept = read_record(out / "model")["calibration"]
    task, units = found.inputs.tasks[0], found.inputs.splits[0].validation
    assert set(kept) == {"cell_type"}
    assert kept["cell_type"]["n_units"] == len(units)
    scores = load_finetuned(out / "model", device="cpu").predict(found.inputs.ranked, cells=units)[task.name]

    def loss(temperature: float) -> float:
        fitted = with_temperature(scores, temperature)
        return -float(np.log(fitted[np.arange(len(units)), task.values[units]]).mean())

    best = kept["cell_type"]["temperature"]
    assert abs(np.log(best)) > 0.01, "the model is not calibrated by itself"
    assert loss(best) < min(loss(1.0), loss(0.9 * best), loss(1.1 * best)) + 1e-6


def test_the_verb_card_takes_the_results(finetune_run, tmp_path):
    out, _ = finetune_run
    write_card(out / "results.json", tmp_path / "card.md")
    assert (tmp_path / "card.md").read_text() == (out / "card.md").read_text()
    results = json.loads((out / "results.json").read_text())
    task = results["tasks"]["cell_type"]
    task["against"][task["best_baseline"]]["differences"]["auroc"]["low"] = None
    (tmp_path / "null.json").write_text(json.dumps(results))
    write_card(tmp_path / "null.json", tmp_path / "null.md")
    assert "[+nan, " in (tmp_path / "null.md").read_text(), "JSON has no NaN"
    (tmp_path / "cut.json").write_text('{"kind": "finetune"}')
    with pytest.raises(ValueError, match=r"cut\.json holds no results of evaluate model or finetune"):
        write_card(tmp_path / "cut.json", tmp_path / "none.md")
    assert not (tmp_path / "none.md").exists()


def test_annotating_by_the_model_uses_its_temperature(finetune_run, labelled_cells, tmp_path):
    import anndata

    from geneformer_grn.model.head_files import read_record
    from geneformer_grn.tl.annotate import annotate

    out, _ = finetune_run
    cells = {}
    temperature = read_record(out / "model")["calibration"]["cell_type"]["temperature"]
    for name, value in (("fitted", temperature), ("plain", 1.0)):
        folder = tmp_path / name / ("model" * (name == "plain"))  # a run, or the model in it
        shutil.copytree(out / "model", folder)
        heads = json.loads((folder / "heads.json").read_text())
        heads["record"]["calibration"]["cell_type"]["temperature"] = value
        (folder / "heads.json").write_text(json.dumps(heads))
        cells[name] = anndata.read_h5ad(labelled_cells)
        annotate(cells[name], tmp_path / name, "cell_type")
        assert cells[name].uns["geneformer_grn"]["annotate"]["temperature"] == pytest.approx(value)
    fitted, plain = (cells[name].obsm["probabilities_cell_type"].to_numpy() for name in ("fitted", "plain"))
    powers = plain.astype(np.float64) ** (1 / temperature)
    assert np.allclose(fitted, powers / powers.sum(axis=1, keepdims=True), atol=1e-5)
    assert not np.allclose(fitted, plain, atol=1e-4)


def test_the_best_baseline_is_not_the_model_itself():
    cards = {"finetuned": {"auroc": 0.9}, "a": {"auroc": 0.7}, "b": {"auroc": 0.8}, "c": {"auroc": np.nan}}
    assert best_baseline(cards, "auroc") == "b"
    assert best_baseline({"finetuned": {"auroc": 1.0}}, "auroc") is None
    assert best_baseline({"a": {"mae": 0.7}, "b": {"mae": 0.8}}, "mae") == "a"


def test_genes_and_values_go_the_same_way(finetune_config, finetune_keys, tiny_vocabulary, tmp_path):
    table = tmp_path / "genes.tsv"
    genes = tiny_vocabulary.ensembl_ids[5:65]
    labels = np.where(np.arange(60) % 2, "odd", "even")
    pd.DataFrame({"gene": genes, "parity": labels}).to_csv(table, sep="\t", index=False)
    quick = finetune_keys["optim"] | {"epochs": 1}
    of_genes = finetune_config(
        tasks=[{"name": "parity", "level": "gene", "table": "genes.tsv"}], optim=quick,
        split={"by": "random"}, evaluation={"baselines": ["expression_logistic"], "bootstrap": 20},
    )  # fmt: skip
    found = run_finetuning(of_genes, tmp_path / "genes", files=[table])
    assert found.results["tasks"]["parity"]["methods"]["finetuned"]["n_units"] == len(
        found.inputs.splits[0].test
    )
    units = pd.read_parquet(tmp_path / "genes" / "predictions.parquet")["unit"]
    assert set(units) <= set(genes)
    several = finetune_config(
        tasks=[{"name": "counts", "kind": "regression"}, {"name": "partly"}], optim=quick,
        evaluation={"baselines": ["mean", "majority"], "bootstrap": 20},
    )  # fmt: skip
    tasks = run_finetuning(several, tmp_path / "several").results["tasks"]
    assert set(tasks["counts"]["methods"]) == {"finetuned", "mean"}
    assert set(tasks["partly"]["methods"]) == {"finetuned", "majority"}
