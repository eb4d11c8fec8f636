from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from geneformer_grn.workflows.finetune_inputs import open_inputs
from geneformer_grn.workflows.finetune_rows import choose_baselines, make_conditions

N_DONORS = 8


def test_copies_of_a_cell_are_left_out_and_shared_cells_refused(finetune_config, labelled_cells, tmp_path):
    from anndata import concat, read_h5ad

    adata = read_h5ad(labelled_cells)
    twice = concat([adata, adata[:5]], index_unique="-")
    doubled = tmp_path / "doubled.h5ad"
    twice.write_h5ad(doubled)
    inputs = open_inputs(finetune_config(data={"files": [str(doubled)]}))
    assert len(inputs.counts) == adata.n_obs
    assert inputs.facts["n_copies_left_out"] == 5
    other = tmp_path / "other.h5ad"
    adata[10:].write_h5ad(other)
    with pytest.raises(ValueError, match=r"cells\.h5ad and other.h5ad share 70 cell names"):
        open_inputs(finetune_config(data={"files": [str(labelled_cells), str(other)]}))
    adata[10:20].write_h5ad(other)
    disjoint = tmp_path / "first.h5ad"
    adata[:10, ::-1].write_h5ad(disjoint)
    both = open_inputs(finetune_config(data={"files": [str(labelled_cells)]}, split={"by": "random"}))
    parts = finetune_config(data={"files": [str(disjoint), str(other)]}, split={"by": "random"},
                      tasks=[{"name": "counts", "kind": "regression"}], evaluation={})  # fmt: skip
    joined = open_inputs(parts)
    assert np.array_equal(joined.counts.matrix.toarray(), both.counts.matrix[:20].toarray())


def test_unlabelled_cells_are_left_out_and_tasks_share_a_split(finetune_config):
    one = open_inputs(finetune_config(tasks=[{"name": "partly"}]))
    assert len(one.counts) == 60
    two = finetune_config(tasks=[{"name": "partly"}, {"name": "cell_type"}], evaluation={})
    inputs = open_inputs(two)
    assert len(inputs.counts) == 80
    assert inputs.tasks[0].labelled.sum() == 60
    together = np.concatenate([inputs.splits[0].train, inputs.splits[0].validation, inputs.splits[0].test])
    assert np.array_equal(np.sort(together), np.arange(80))


def test_a_disease_of_donors_may_not_be_split_by_cells(finetune_config, labelled_cells, tmp_path):
    from anndata import read_h5ad

    adata = read_h5ad(labelled_cells)
    adata.obs["ill"] = np.where(adata.obs["donor"].isin(["d0", "d1", "d2", "d3"]), "yes", "no")
    path = tmp_path / "ill.h5ad"
    adata.write_h5ad(path)
    asked = {"data": {"files": [str(path)]}, "tasks": [{"name": "ill"}]}
    by_cell = finetune_config(**asked, split={"by": "random", "confounders": ["donor"]})
    with pytest.raises(ValueError, match=r"the split leaks: \d of the donors"):
        open_inputs(by_cell)
    by_donor = finetune_config(**asked, split={"by": "donor", "confounders": ["donor"]})
    assert open_inputs(by_donor).groups_are == "donor"


def test_a_given_split_is_checked_for_leaks(finetune_config, labelled_cells, tmp_path):
    from anndata import read_h5ad

    adata = read_h5ad(labelled_cells)
    by_donor = {f"d{number}": part for number, part in enumerate(["train"] * 4 + ["validation", "test"] * 2)}
    adata.obs["part"] = adata.obs["donor"].map(by_donor).astype(str)
    path = tmp_path / "given.h5ad"
    adata.write_h5ad(path)
    config = finetune_config(
        data={"files": [str(path)]}, split={"by": "given:part", "confounders": ["donor"]}
    )
    split = open_inputs(config).splits[0]
    assert set(adata.obs["donor"].iloc[split.train]) == {"d0", "d1", "d2", "d3"}
    with pytest.raises(ValueError, match="names no unit for 'train'"):
        open_inputs(
            config.model_copy(update={"split": config.split.model_copy(update={"by": "given:donor"})})
        )


def test_conditions_of_folds_and_few_labels(finetune_config, finetune_keys):
    split = {"by": "donor", "scheme": "kfold", "folds": 4}
    config = finetune_config(split=split)
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
    tested = finetune_config(split=split, evaluation=finetune_keys["evaluation"] | {"few_shot_test": 5})
    assert {len(one.split.test) for one in make_conditions(inputs, tested)[4:]} == {5}


def test_baselines_are_named(finetune_config):
    config = finetune_config(evaluation={"baselines": ["magic"]})
    tasks = open_inputs(config).tasks
    with pytest.raises(ValueError, match="no baseline 'magic' for these tasks; there are: majority"):
        choose_baselines(config, tasks)
    every = choose_baselines(finetune_config(evaluation={}), tasks)
    assert {"majority", "l1_logistic", "linear_probe", "random_weights", "cnn", "bilstm"} <= set(every)
    assert "ridge" not in every, "a baseline of numbers"
    numbers = [replace(tasks[0], kind="regression", values=np.zeros(80), classes=())]
    assert "ridge" in choose_baselines(finetune_config(evaluation={}), numbers)


def test_the_two_of_a_matched_pair_lie_in_one_part(finetune_config):
    tasks = [{"name": "regulator", "level": "gene", "table": "regulators"}]
    config = finetune_config(tasks=tasks, split={"by": "random"}, evaluation={})
    inputs = open_inputs(config)
    split = inputs.splits[0]
    assert "no matched pair is in two parts" in split.rule
    for units in (split.train, split.validation, split.test):
        labels = inputs.tasks[0].values[units]
        assert labels.sum() * 2 == len(labels)
        assert len(np.unique(inputs.groups[units])) * 2 == len(units)
    by_family = finetune_config(tasks=tasks, split={"by": "family"}, evaluation={})
    assert by_family.split_rule().groups_are == "gene family or matched pair"
    for wrong, message in (
        ({"split": {"by": "donor"}}, "not by 'donor'"),
        ({"tasks": [*tasks, tasks[0] | {"name": "again"}]}, "goes alone"),
    ):
        with pytest.raises(ValueError, match=message):
            finetune_config(**{"tasks": tasks, "split": {"by": "random"}, "evaluation": {}} | wrong)


def test_a_split_of_cells_says_what_it_does_to_donors(finetune_config, labelled_cells, tmp_path, caplog):
    from anndata import read_h5ad

    adata = read_h5ad(labelled_cells)
    adata.obs["ill"] = np.where(adata.obs["donor"].isin(["d0", "d1", "d2", "d3"]), "yes", "no")
    adata.obs["part"] = adata.obs["donor"].map(lambda d: {"d1": "validation", "d2": "test"}.get(d, "train"))
    path = tmp_path / "ill.h5ad"
    adata.write_h5ad(path)
    asked = {"data": {"files": [str(path)]}, "split": {"by": "random"}, "evaluation": {}}
    rule = open_inputs(finetune_config(**asked)).splits[0].rule
    assert rule.endswith("; cells of one donor are in several parts")
    assert "never varies" not in caplog.text
    rule = open_inputs(finetune_config(**asked, tasks=[{"name": "ill"}])).splits[0].rule
    assert rule.endswith("ill never varies within a donor: who knows the donor knows the answer")
    assert "use split.by = 'donor'" in caplog.text
    for by in ("donor", "given:part"):
        whole = finetune_config(**asked | {"split": {"by": by}})
        assert "several parts" not in open_inputs(whole).splits[0].rule


def test_a_class_that_a_given_split_only_scores_is_named(finetune_config, labelled_cells, tmp_path):
    from anndata import read_h5ad

    adata = read_h5ad(labelled_cells)
    adata.obs["part"] = np.resize(["train", "validation", "test"], adata.n_obs)
    adata.obs["kind"] = np.where(adata.obs["part"] == "test", "new", adata.obs["cell_type"].astype(str))
    path = tmp_path / "new.h5ad"
    adata.write_h5ad(path)
    config = finetune_config(
        data={"files": [str(path)]}, split={"by": "given:part"}, tasks=[{"name": "kind"}], evaluation={}
    )
    with pytest.raises(ValueError, match=r"kind 'new' is in the test part .* too few groups leave it out"):
        open_inputs(config)
