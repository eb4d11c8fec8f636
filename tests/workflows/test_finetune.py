from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.training.finetune_config import FinetuneConfig
from geneformer_grn.training.supervision import Split, Task
from geneformer_grn.workflows.card import write_card
from geneformer_grn.workflows.finetune import run_finetuning
from geneformer_grn.workflows.finetune_inputs import open_inputs
from geneformer_grn.workflows.finetune_rows import _prediction, choose_baselines, make_conditions
from geneformer_grn.workflows.finetune_scores import best_baseline

N_DONORS = 8


@pytest.fixture(scope="module")
def labelled(tiny_adata, tmp_path_factory) -> Path:
    """The tiny cells with donors and a label known for 3 of 4 of them."""
    adata = tiny_adata.copy()
    adata.obs["donor"] = [f"d{number % N_DONORS}" for number in range(adata.n_obs)]
    adata.obs["partly"] = [
        "unknown" if number % 4 == 0 else str(label) for number, label in enumerate(adata.obs["cell_type"])
    ]
    adata.obs["counts"] = np.asarray(adata.X.sum(axis=1)).ravel()
    path = tmp_path_factory.mktemp("labelled") / "cells.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def small(labelled, tiny_checkpoint) -> dict:
    return {
        "name": "small",
        "data": {"files": [str(labelled)]},
        "model": {"checkpoint": str(tiny_checkpoint), "mode": "full"},
        "optim": {"epochs": 2, "min_steps": 0, "token_budget": 512},
        "tasks": [{"name": "cell_type"}],
        "split": {"by": "donor"},
        "evaluation": {
            "baselines": ["majority", "hvg_pca_logistic"], "few_shot": [2], "few_shot_draws": 2,
            "bootstrap": 50,
            "goals": [
                {"measure": "auroc", "at_least": 0.1},
                {"measure": "auroc", "labels": 2, "ahead_by": 2.0},
            ],
        },
    }  # fmt: skip


def config_of(small: dict, **sections) -> FinetuneConfig:
    return FinetuneConfig.model_validate(small | sections)


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    return out, run_finetuning(config_of(small), out)


def test_the_table_holds_every_method_on_the_same_units(run):
    out, found = run
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


def test_predictions_are_in_the_cells(run):
    from anndata import read_h5ad

    out, found = run
    adata = read_h5ad(out / "predictions.h5ad")
    test = found.inputs.splits[0].test
    part = adata.obs["geneformer_part"].to_numpy()
    assert np.array_equal(np.flatnonzero(part == "test"), test)
    assert np.array_equal(np.flatnonzero(adata.obs["predicted_cell_type"] != ""), test)
    assert adata.obs["probability_cell_type"].to_numpy()[test].min() >= 0.5
    assert adata.uns["geneformer_grn"]["finetune"]["split"] == found.results["data"]["split"]


def test_pretrained_weights_are_loaded_and_the_model_is_the_one_scored(run, tiny_encoder):
    from geneformer_grn.model.fingerprint import encoder_fingerprint
    from geneformer_grn.model.head_files import load_finetuned

    out, found = run
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


def test_finished_rows_are_not_computed_again(run, small, tmp_path):
    out, _ = run
    half = tmp_path / "half"
    shutil.copytree(out, half)
    for name in ("results.json", "rows/fold1.majority.npz", "rows/shot2-draw2.finetuned.npz"):
        (half / name).unlink()
    kept = {path.name: path.stat().st_mtime_ns for path in (half / "rows").iterdir()}
    with pytest.raises(FileExistsError, match="--resume"):
        run_finetuning(config_of(small), half)
    again = run_finetuning(config_of(small), half, resume=True)
    first, second = (json.loads((folder / "results.json").read_text())["tasks"] for folder in (out, half))
    for tasks in (first, second):
        for card in tasks["cell_type"]["methods"].values():
            del card["seconds"]
    assert first == second, "the same seed gives the same figures, resumed or not"
    assert len(again.results["tasks"]["cell_type"]["few_shot"]) == 6
    now = {path.name: path.stat().st_mtime_ns for path in (half / "rows").iterdir()}
    assert len(now) == len(kept) + 2
    assert all(now[name] == when for name, when in kept.items())
    with pytest.raises(ValueError, match=r"optim.lr is"):
        run_finetuning(config_of(small, optim=small["optim"] | {"lr": 0.5}), half, resume=True)


def test_copies_of_a_cell_are_left_out_and_shared_cells_refused(small, labelled, tmp_path):
    from anndata import concat, read_h5ad

    adata = read_h5ad(labelled)
    twice = concat([adata, adata[:5]], index_unique="-")
    doubled = tmp_path / "doubled.h5ad"
    twice.write_h5ad(doubled)
    inputs = open_inputs(config_of(small, data={"files": [str(doubled)]}))
    assert len(inputs.counts) == adata.n_obs
    assert inputs.facts["n_copies_left_out"] == 5
    other = tmp_path / "other.h5ad"
    adata[10:].write_h5ad(other)
    with pytest.raises(ValueError, match=r"cells\.h5ad and other.h5ad share 70 cell names"):
        open_inputs(config_of(small, data={"files": [str(labelled), str(other)]}))
    adata[10:20].write_h5ad(other)
    disjoint = tmp_path / "first.h5ad"
    adata[:10, ::-1].write_h5ad(disjoint)
    both = open_inputs(config_of(small, data={"files": [str(labelled)]}, split={"by": "random"}))
    parts = config_of(small, data={"files": [str(disjoint), str(other)]}, split={"by": "random"},
                      tasks=[{"name": "counts", "kind": "regression"}], evaluation={})  # fmt: skip
    joined = open_inputs(parts)
    assert np.array_equal(joined.counts.matrix.toarray(), both.counts.matrix[:20].toarray())


def test_unlabelled_cells_are_left_out_and_tasks_share_a_split(small):
    one = open_inputs(config_of(small, tasks=[{"name": "partly"}]))
    assert len(one.counts) == 60
    two = config_of(small, tasks=[{"name": "partly"}, {"name": "cell_type"}], evaluation={})
    inputs = open_inputs(two)
    assert len(inputs.counts) == 80
    assert inputs.tasks[0].labelled.sum() == 60
    together = np.concatenate([inputs.splits[0].train, inputs.splits[0].validation, inputs.splits[0].test])
    assert np.array_equal(np.sort(together), np.arange(80))


def test_a_disease_of_donors_may_not_be_split_by_cells(small, labelled, tmp_path):
    from anndata import read_h5ad

    adata = read_h5ad(labelled)
    adata.obs["ill"] = np.where(adata.obs["donor"].isin(["d0", "d1", "d2", "d3"]), "yes", "no")
    path = tmp_path / "ill.h5ad"
    adata.write_h5ad(path)
    asked = {"data": {"files": [str(path)]}, "tasks": [{"name": "ill"}]}
    by_cell = config_of(small, **asked, split={"by": "random", "confounders": ["donor"]})
    with pytest.raises(ValueError, match=r"the split leaks: \d of the donors"):
        open_inputs(by_cell)
    by_donor = config_of(small, **asked, split={"by": "donor", "confounders": ["donor"]})
    assert open_inputs(by_donor).groups_are == "donor"


def test_a_given_split_is_checked_for_leaks(small, labelled, tmp_path):
    from anndata import read_h5ad

    adata = read_h5ad(labelled)
    by_donor = {f"d{number}": part for number, part in enumerate(["train"] * 4 + ["validation", "test"] * 2)}
    adata.obs["part"] = adata.obs["donor"].map(by_donor).astype(str)
    path = tmp_path / "given.h5ad"
    adata.write_h5ad(path)
    config = config_of(
        small, data={"files": [str(path)]}, split={"by": "given:part", "confounders": ["donor"]}
    )
    split = open_inputs(config).splits[0]
    assert set(adata.obs["donor"].iloc[split.train]) == {"d0", "d1", "d2", "d3"}
    with pytest.raises(ValueError, match="names no unit for 'train'"):
        open_inputs(
            config.model_copy(update={"split": config.split.model_copy(update={"by": "given:donor"})})
        )


def test_conditions_of_folds_and_few_labels(small):
    split = {"by": "donor", "scheme": "kfold", "folds": 4}
    config = config_of(small, split=split)
    inputs = open_inputs(config)
    conditions = make_conditions(inputs, config)
    assert [one.key for one in conditions][:4] == ["fold1", "fold2", "fold3", "fold4"]
    curve = [one for one in conditions if one.per_class == 2]
    assert len(curve) == 2
    for one in curve:
        assert np.bincount(inputs.tasks[0].values[one.split.train]).tolist() == [2, 2]
        assert len(np.intersect1d(one.unlabelled, one.split.train)) == 0
        held = np.concatenate([one.split.validation, one.split.test])
        assert len(np.intersect1d(one.unlabelled, held)) == 0
    tested = config_of(small, split=split, evaluation=small["evaluation"] | {"few_shot_test": 5})
    assert {len(one.split.test) for one in make_conditions(inputs, tested)[4:]} == {5}


def test_baselines_are_named(small):
    config = config_of(small, evaluation={"baselines": ["magic"]})
    tasks = open_inputs(config).tasks
    with pytest.raises(ValueError, match="no baseline 'magic' for these tasks; there are: majority"):
        choose_baselines(config, tasks)
    every = choose_baselines(config_of(small, evaluation={}), tasks)
    assert {"majority", "l1_logistic", "linear_probe", "random_weights", "cnn", "bilstm"} <= set(every)
    assert "ridge" not in every, "a baseline of numbers"
    numbers = [replace(tasks[0], kind="regression", values=np.zeros(80), classes=())]
    assert "ridge" in choose_baselines(config_of(small, evaluation={}), numbers)


def test_the_two_of_a_matched_pair_lie_in_one_part(small):
    tasks = [{"name": "regulator", "level": "gene", "table": "regulators"}]
    config = config_of(small, tasks=tasks, split={"by": "random"}, evaluation={})
    inputs = open_inputs(config)
    split = inputs.splits[0]
    assert "no matched pair is in two parts" in split.rule
    for units in (split.train, split.validation, split.test):
        labels = inputs.tasks[0].values[units]
        assert labels.sum() * 2 == len(labels)
        assert len(np.unique(inputs.groups[units])) * 2 == len(units)
    by_family = config_of(small, tasks=tasks, split={"by": "family"}, evaluation={})
    assert by_family.split_rule().groups_are == "gene family or matched pair"
    for wrong, message in (
        ({"split": {"by": "donor"}}, "not by 'donor'"),
        ({"tasks": [*tasks, tasks[0] | {"name": "again"}]}, "goes alone"),
    ):
        with pytest.raises(ValueError, match=message):
            config_of(small, **{"tasks": tasks, "split": {"by": "random"}, "evaluation": {}} | wrong)


def test_a_unit_without_a_score_has_the_shares_of_training():
    task = Task("kind", "gene", "classification", np.array([0, 0, 0, 1, 1, 0]), ("a", "b"),
                gene_tokens=np.arange(6))  # fmt: skip
    split = Split(np.arange(4), np.array([4]), np.array([4, 5]), rule="")
    table = np.full((6, 2), 0.5)
    table[5] = np.nan
    found = _prediction(task, table, split, {"seconds": 1.0})
    assert found.scores.tolist() == [[0.5, 0.5], [0.75, 0.25]]
    assert found.details == {"seconds": 1.0, "n_without_score": 1}


def test_a_temperature_is_fitted_to_the_validation_part(run):
    from geneformer_grn.evaluation.calibration import with_temperature
    from geneformer_grn.model.head_files import load_finetuned, read_record

    out, found = run
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


def test_the_verb_card_takes_the_results(run, tmp_path):
    out, _ = run
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


def test_annotating_by_the_model_uses_its_temperature(run, labelled, tmp_path):
    import anndata

    from geneformer_grn.model.head_files import read_record
    from geneformer_grn.tl.annotate import annotate

    out, _ = run
    cells = {}
    temperature = read_record(out / "model")["calibration"]["cell_type"]["temperature"]
    for name, value in (("fitted", temperature), ("plain", 1.0)):
        folder = tmp_path / name
        shutil.copytree(out / "model", folder)
        heads = json.loads((folder / "heads.json").read_text())
        heads["record"]["calibration"]["cell_type"]["temperature"] = value
        (folder / "heads.json").write_text(json.dumps(heads))
        cells[name] = anndata.read_h5ad(labelled)
        annotate(cells[name], folder, "cell_type")
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


def test_genes_and_values_go_the_same_way(small, tiny_vocabulary, tmp_path):
    table = tmp_path / "genes.tsv"
    genes = tiny_vocabulary.ensembl_ids[5:65]
    labels = np.where(np.arange(60) % 2, "odd", "even")
    pd.DataFrame({"gene": genes, "parity": labels}).to_csv(table, sep="\t", index=False)
    quick = small["optim"] | {"epochs": 1}
    of_genes = config_of(
        small, tasks=[{"name": "parity", "level": "gene", "table": "genes.tsv"}], optim=quick,
        split={"by": "random"}, evaluation={"baselines": ["expression_logistic"], "bootstrap": 20},
    )  # fmt: skip
    found = run_finetuning(of_genes, tmp_path / "genes", files=[table])
    assert found.results["tasks"]["parity"]["methods"]["finetuned"]["n_units"] == len(
        found.inputs.splits[0].test
    )
    units = pd.read_parquet(tmp_path / "genes" / "predictions.parquet")["unit"]
    assert set(units) <= set(genes)
    several = config_of(
        small, tasks=[{"name": "counts", "kind": "regression"}, {"name": "partly"}], optim=quick,
        evaluation={"baselines": ["mean", "majority"], "bootstrap": 20},
    )  # fmt: skip
    tasks = run_finetuning(several, tmp_path / "several").results["tasks"]
    assert set(tasks["counts"]["methods"]) == {"finetuned", "mean"}
    assert set(tasks["partly"]["methods"]) == {"finetuned", "majority"}
