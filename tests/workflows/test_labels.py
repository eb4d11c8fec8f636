from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.training.finetune_config import TaskSection
from geneformer_grn.training.supervision import MISSING, Task
from geneformer_grn.workflows.confounding import require_unconfounded
from geneformer_grn.workflows.labels import cell_task, column_groups, gene_task


def obs_of(values: list, name: str = "label") -> pd.DataFrame:
    return pd.DataFrame({name: values})


def section(**keys) -> TaskSection:
    return TaskSection(**({"name": "label"} | keys))


def test_class_ids_do_not_depend_on_the_order_of_rows():
    values = ["b", "a", "c", "b", "a", "c", "c", "a", "b"]
    order = np.random.default_rng(0).permutation(len(values))
    task = cell_task(obs_of(values), section())
    shuffled = cell_task(obs_of([values[place] for place in order]), section())
    assert task.classes == shuffled.classes == ("a", "b", "c")
    assert np.array_equal(task.values[order], shuffled.values)
    categories = pd.Categorical(values, categories=["c", "b", "a"])
    assert cell_task(pd.DataFrame({"label": categories}), section()).classes == ("a", "b", "c")


def test_missing_labels_are_missing():
    task = cell_task(obs_of(["a", None, "b", "Unknown", "a", "b", float("nan"), "a", "b", "NA"]), section())
    assert task.classes == ("a", "b")
    assert task.values.tolist() == [0, MISSING, 1, MISSING, 0, 1, MISSING, 0, 1, MISSING]
    assert task.labelled.sum() == 6


def test_a_class_of_one_cell_is_left_out_and_named(caplog):
    with caplog.at_level(logging.WARNING):
        task = cell_task(obs_of(["a"] * 5 + ["b"] * 5 + ["once"]), section())
    assert task.classes == ("a", "b")
    assert task.values[-1] == MISSING
    assert "once (1)" in caplog.text
    with pytest.raises(ValueError, match=r"has 1 class with at least 3 labels \(a\)"):
        cell_task(obs_of(["a"] * 5 + ["once"]), section())


def test_numbers_are_what_the_config_says():
    values = [1.0, 2.0, 10.0, 2.0, 1.0, 10.0, np.nan, 1.0, 2.0, 10.0]
    with pytest.raises(ValueError, match=r"are numbers \(3 different ones\); say kind ="):
        cell_task(obs_of(values), section())
    regression = cell_task(obs_of(values), section(kind="regression"))
    assert np.array_equal(regression.values, values, equal_nan=True)
    classes = cell_task(obs_of(values), section(kind="classification"))
    assert classes.classes == ("1", "10", "2"), "names, without a fraction"
    ordinal = cell_task(obs_of(values), section(kind="ordinal"))
    assert ordinal.classes == ("1", "2", "10"), "ascending"
    assert ordinal.values[2] == 2


def test_words_are_no_numbers():
    with pytest.raises(ValueError, match="is a regression, and its labels hold 'old'"):
        cell_task(obs_of(["1", "2", "old", "4"]), section(kind="regression"))
    text = cell_task(obs_of(["1.5", "2", "unknown", "4"]), section(kind="regression"))
    assert np.array_equal(text.values, [1.5, 2, np.nan, 4], equal_nan=True)
    with pytest.raises(ValueError, match="list its classes in ascending order"):
        cell_task(obs_of(["low", "high"] * 4), section(kind="ordinal"))
    asked = section(kind="ordinal", classes=("low", "mid", "high"))
    task = cell_task(obs_of(["low", "mid", "high"] * 3), asked)
    assert task.classes == ("low", "mid", "high")
    with pytest.raises(ValueError, match="'huge' not among its ordered classes"):
        cell_task(obs_of(["low", "mid", "high", "huge"] * 3), asked)


def test_classes_can_be_chosen():
    task = cell_task(obs_of(["a", "b", "c"] * 4), section(classes=("c", "a")))
    assert task.classes == ("a", "c")
    assert (task.values == MISSING).sum() == 4
    with pytest.raises(ValueError, match="no label is 'd'"):
        cell_task(obs_of(["a", "b"] * 4), section(classes=("a", "d")))


def test_a_column_of_names_is_no_label():
    with pytest.raises(ValueError, match="has 300 classes"):
        cell_task(obs_of([f"cell{number}" for number in range(300)]), section(min_units=1))
    with pytest.raises(ValueError, match=r"no obs column 'label'.*the cells have: other"):
        cell_task(obs_of(["a"], name="other"), section())


def test_genes_are_labelled_by_a_table(tiny_vocabulary, tmp_path, caplog):
    table = tmp_path / "genes.tsv"
    genes = ["GENE5", "ENSG00000000002", "GENE9", "GENE1", "GENE7", "GENE5", "NOTAGENE1", "GENE3"]
    labels = ["x", "y", "x", "y", "x", "x", "y", "y"]
    pd.DataFrame({"gene": genes, "label": labels}).to_csv(table, sep="\t", index=False)
    asked = section(level="gene", table="genes.tsv")
    with caplog.at_level(logging.WARNING):
        task = gene_task(table, asked, tiny_vocabulary)
    symbols = tiny_vocabulary.symbols[task.gene_tokens]
    named = dict(zip(symbols.tolist(), [task.classes[value] for value in task.values], strict=True))
    assert named == {"GENE1": "y", "GENE2": "y", "GENE3": "y", "GENE5": "x", "GENE7": "x", "GENE9": "x"}
    assert np.all(np.diff(task.gene_tokens) > 0)
    assert "1 of 8 genes" in caplog.text
    labels[5] = "y"
    pd.DataFrame({"gene": genes, "label": labels}).to_csv(table, sep="\t", index=False)
    with pytest.raises(ValueError, match="gives GENE5 two labels"):
        gene_task(table, asked, tiny_vocabulary)
    pd.DataFrame({"name": genes}).to_csv(table, sep="\t", index=False)
    with pytest.raises(ValueError, match="no column 'gene'"):
        gene_task(table, asked, tiny_vocabulary)


def test_groups_of_a_column():
    obs = pd.DataFrame({"donor": [101.0, 1016.0, np.nan], "batch": ["a", "unknown", " b"]})
    assert column_groups(obs, "donor", ()).tolist() == ["101", "1016", ""]
    assert column_groups(obs, "batch", ("unknown",)).tolist() == ["a", "", "b"]
    with pytest.raises(ValueError, match="no obs column 'site'"):
        column_groups(obs, "site", ())


def disease(labels: list[int]) -> Task:
    return Task("disease", "cell", "classification", np.array(labels), ("healthy", "ill"))


def test_a_disease_seen_in_few_donors_is_refused():
    donors = np.repeat(["a", "b", "c", "d", "e", "f"], 4)
    state = disease(np.repeat([0, 0, 0, 1, 1, 1], 4).tolist())
    assert require_unconfounded(state, {"donor": donors}) == ["donor"], (
        "three each is enough; donors decide it"
    )
    alone = disease(np.repeat([0, 0, 0, 0, 0, 1], 4).tolist())
    with pytest.raises(ValueError, match=r"'disease' is confounded with 'donor'.*ill \(1\)"):
        require_unconfounded(alone, {"donor": donors})


def test_a_study_of_each_state_is_refused():
    state = disease([0] * 12 + [1] * 12)
    study = np.repeat(["old", "new"], 12)
    with pytest.raises(ValueError, match=r"confounded with 'study'.*healthy \(1\), ill \(1\)"):
        require_unconfounded(state, {"study": study})
    assert require_unconfounded(state, {"study": np.tile(["old", "new"], 12)}) == []
    with pytest.raises(ValueError, match="no labelled cell has a site"):
        require_unconfounded(state, {"site": np.full(24, "")})
