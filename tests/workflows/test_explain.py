"""Explaining cells in memory: which cells, which class, and that the tables say what the methods found."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from geneformer_grn.cells.counts import read_counts
from geneformer_grn.cells.ranking import rank_cells
from geneformer_grn.evaluation.responders import differential_expression
from geneformer_grn.explanation.drivers import DRIVER_COLUMNS
from geneformer_grn.explanation.occlusion import occlusion
from geneformer_grn.explanation.settings import DeletionSettings
from geneformer_grn.explanation.target import choose_head
from geneformer_grn.model.heads import Finetuned, HeadSpec, TaskHead
from geneformer_grn.workflows.explain import explain_counts
from geneformer_grn.workflows.explain_cells import _even_sizes, choose_cells, expression_ranks
from geneformer_grn.workflows.explain_options import METHOD_NAMES, ExplainOptions

QUICK = DeletionSettings(shares=(0.1, 0.3), n_random=1)
SPEC = HeadSpec("cell_type", "cell", "classification", ("A", "B"))


def model(encoder, *specs: HeadSpec, seed: int = 0) -> Finetuned:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = torch.nn.ModuleList(TaskHead(spec, encoder.hidden_size) for spec in specs)
    return Finetuned(encoder, heads.eval(), specs)


@pytest.fixture(scope="module")
def counts(tiny_adata, tiny_vocabulary):
    adata = tiny_adata.copy()
    adata.obs["donor"] = ["d1", "d2"] * 40
    adata.obs["age"] = np.arange(80.0)
    return read_counts(adata, tiny_vocabulary)


@pytest.fixture(scope="module")
def two(tiny_encoder):
    return [model(tiny_encoder, SPEC), model(tiny_encoder, SPEC, seed=1)]


@pytest.fixture(scope="module")
def found(two, counts):
    options = ExplainOptions(
        label="cell_type",
        methods=("occlusion", "attention"),
        n_cells=8,
        n_top=5,
        donors="donor",
        deletion=QUICK,
    )
    return explain_counts(two, counts, options)


def test_every_method_is_known_by_one_name():
    from geneformer_grn.explanation.methods import METHODS

    assert tuple(METHODS) == METHOD_NAMES


def test_the_scores_are_the_mean_over_the_models(found, two, counts, tiny_vocabulary):
    rows = found.scores[found.scores["method"] == "occlusion"]
    cell, name = rows.iloc[0][["cell_id", "class"]]
    ranked = rank_cells(counts, tiny_vocabulary)
    each = [
        occlusion(choose_head(one), ranked, np.array([cell]), np.array([SPEC.classes.index(name)]))
        for one in two
    ]
    part = rows[rows["cell_id"] == cell]
    np.testing.assert_allclose(part["score"], (each[0].scores + each[1].scores) / 2, atol=1e-5)
    assert part["gene"].tolist() == tiny_vocabulary.ensembl_ids[each[0].tokens].tolist()


def test_cells_are_of_their_class_and_as_many_of_each(found, counts):
    cells = found.cells[found.cells["method"] == "occlusion"]
    assert cells["class"].value_counts().to_dict() == {"A": 4, "B": 4}
    assert (counts.obs["cell_type"].astype(str).to_numpy()[cells["cell_id"]] == cells["class"]).all()
    assert found.facts["n_cells"] == 8


def test_the_drivers_stand_beside_the_other_lists(found):
    assert set(DRIVER_COLUMNS) <= set(found.drivers)
    assert found.drivers["fold_share"].isin([0.0, 0.5, 1.0]).all()
    assert found.drivers["de_rank"].notna().all()
    assert set(found.agreement) >= {"method", "class", "jaccard", "spearman", "overlap", "expected"}
    # Genes 1 to 15 are six times higher in B: the test has to put them first.
    of_b = found.drivers[(found.drivers["class"] == "B") & (found.drivers["method"] == "occlusion")]
    higher = of_b[of_b["gene"].isin([f"ENSG{i:011d}" for i in range(1, 16)])]
    assert higher["de_rank"].median() < of_b["de_rank"].median() / 2


def test_the_curves_are_of_every_method_ranking_and_class(found):
    combinations = set(
        map(tuple, found.deletion[["method", "ranking", "class"]].drop_duplicates().to_numpy())
    )
    own = {(m, r, c) for m in ("occlusion", "attention") for r in ("cell", "class") for c in ("", "A", "B")}
    assert combinations == own | {("differential_expression", "class", c) for c in ("", "A", "B")}
    assert found.deletion["share"].unique().tolist() == [0.0, 0.1, 0.3]
    figures = found.facts["methods"]["occlusion"]["cell"]
    row = found.deletion.query(
        "method == 'occlusion' and ranking == 'cell' and `class` == '' and share == 0.1"
    )
    assert figures["excess"] == pytest.approx(row["excess"].item())


def test_a_class_of_one_explained_cell_has_no_curve_of_its_list(two, counts, caplog):
    """Its genes were found in no other cell: it would count as an excess of exactly nothing."""
    options = ExplainOptions(label="cell_type", methods=("gradient_x_input",), n_cells=3, deletion=QUICK)
    deletion = explain_counts(two[:1], counts, options).deletion
    assert "one cell is explained of: A;" in caplog.text
    by_class = deletion[(deletion["ranking"] == "class") & (deletion["method"] == "gradient_x_input")]
    assert set(by_class["class"]) == {"", "B"}
    assert set(by_class["n_cells"]) == {2}
    assert set(deletion.loc[deletion["ranking"] == "cell", "class"]) == {"", "A", "B"}
    alone = explain_counts(two[:1], counts, dataclasses.replace(options, n_cells=2)).deletion
    assert set(alone["ranking"]) == {"cell"}


def test_integrated_gradients_report_their_completeness(tiny_encoder, counts):
    options = ExplainOptions(label="cell_type", n_cells=2, deletion=QUICK)
    found = explain_counts([model(tiny_encoder, SPEC)], counts, options)
    assert found.facts["methods"]["integrated_gradients"]["share_complete"] == 1.0
    assert (found.cells["completeness_error"] <= 0.01).all()
    assert "fold_share" not in found.drivers


def test_without_labels_the_predictions_are_explained(tiny_encoder, counts, tiny_vocabulary):
    one = model(tiny_encoder, SPEC)
    found = explain_counts(
        [one], counts, ExplainOptions(methods=("gradient_x_input",), n_cells=6, deletion=QUICK)
    )
    predicted = one.predict(rank_cells(counts, tiny_vocabulary))["cell_type"].argmax(axis=1)
    np.testing.assert_array_equal(
        np.array(SPEC.classes)[predicted[found.cells["cell_id"]]], found.cells["class"].to_numpy(dtype=str)
    )


def test_labels_that_are_numbers_are_the_classes_that_were_learnt(tiny_encoder, counts):
    """A column of numbers with a gap is one of floats: 1.0 there is the class 1."""
    grades = np.where(np.arange(80) % 2, 1.0, 2.0)
    grades[3] = np.nan
    counts = dataclasses.replace(counts, obs=counts.obs.assign(grade=grades))
    heads = [choose_head(model(tiny_encoder, HeadSpec("grade", "cell", "classification", ("1", "2"))))]
    ranked = rank_cells(counts, heads[0].vocabulary)
    chosen = choose_cells(heads, counts, ranked, ExplainOptions(label="grade", n_cells=6))
    assert chosen.targets.tolist() == (grades[chosen.cells] - 1).tolist()
    assert chosen.labels[3] == -1


def test_a_regression_has_one_list(tiny_encoder, counts):
    one = model(tiny_encoder, HeadSpec("age", "cell", "regression"))
    options = ExplainOptions(label="age", methods=("gradient_x_input",), n_cells=6, deletion=QUICK)
    found = explain_counts([one], counts, options)
    assert found.drivers["class"].unique().tolist() == ["age"]
    assert found.deletion["method"].unique().tolist() == ["gradient_x_input"]  # no classes, no rank-sum test
    assert len(found.cells) == 6


def test_a_seed_is_the_same_run(two, counts):
    options = ExplainOptions(label="cell_type", methods=("gradient_x_input",), n_cells=4, deletion=QUICK)
    first, second = (explain_counts(two[:1], counts, options) for _ in range(2))
    for name in ("drivers", "deletion", "scores"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(second, name))


def test_expression_ranks_follow_the_rank_sum_test(two, counts, tiny_vocabulary):
    heads = [choose_head(one) for one in two]
    chosen = choose_cells(
        heads, counts, rank_cells(counts, tiny_vocabulary), ExplainOptions(label="cell_type", n_cells=4)
    )
    table = expression_ranks(counts, chosen, SPEC.classes, tiny_vocabulary.ensembl_ids, seed=0)
    from geneformer_grn.cells.counts import log_normalised

    own = counts.obs["cell_type"].astype(str).to_numpy() == "B"
    expression = log_normalised(counts)
    effect, q_value = differential_expression(expression[own], expression[~own])
    of_b = table[table["class"] == "B"].set_index("gene")
    ids = tiny_vocabulary.ensembl_ids[counts.column_tokens]
    np.testing.assert_allclose(of_b.loc[ids, "difference"], effect)
    best = ids[np.lexsort((-effect, np.where(effect > 0, q_value, 2.0)))[0]]
    assert of_b["rank"].idxmin() == best


@pytest.mark.parametrize(
    ("available", "total", "sizes"),
    [([9, 9], 6, [3, 3]), ([1, 9], 6, [1, 5]), ([2, 2], 9, [2, 2]), ([5, 5, 5], 1, [1, 1, 1]), ([4], 3, [3])],
)
def test_sizes_are_even(available, total, sizes):
    assert _even_sizes(available, total) == sizes


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"label": "nothing"}, "no obs column 'nothing' for --label; the AnnData has: cell_type"),
        ({"label": "donor"}, "no cell of the AnnData has a class that the model knows: 'donor' holds d1, d2"),
        ({"label": "cell_type", "classes": ("Z",)}, "no class 'Z' of 'cell_type'; it knows A, B"),
        ({"label": "cell_type", "task": "sex"}, "no task 'sex'"),
        ({"label": "cell_type", "donors": "who"}, "no obs column 'who' for --donors"),
    ],
)
def test_what_cannot_be_explained(two, counts, asked, message):
    with pytest.raises(ValueError, match=message):
        explain_counts(two[:1], dataclasses.replace(counts, name="the AnnData"), ExplainOptions(**asked))


def test_a_class_without_cells_is_named(tiny_encoder, counts):
    three = model(tiny_encoder, dataclasses.replace(SPEC, classes=("A", "B", "C")))
    options = ExplainOptions(label="cell_type", classes=("A", "C"))
    with pytest.raises(ValueError, match="no cell of class C in the column 'cell_type'"):
        explain_counts([three], counts, options)


def test_models_of_different_tasks_are_refused(two, tiny_encoder, counts):
    other = model(tiny_encoder, dataclasses.replace(SPEC, classes=("A", "X")))
    with pytest.raises(
        ValueError, match=r"predict different things: cell_type \(A, B\) and cell_type \(A, X\)"
    ):
        explain_counts([two[0], other], counts, ExplainOptions(label="cell_type"))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"methods": ("lime",)}, "method lime; choose from integrated_gradients"),
        ({"methods": ()}, "method missing"),
        ({"methods": ("occlusion", "occlusion")}, "named twice"),
        ({"n_cells": 0}, "n_cells must be at least 1"),
    ],
)
def test_options_that_make_no_sense(asked, message):
    with pytest.raises(ValueError, match=message):
        ExplainOptions(**asked)
