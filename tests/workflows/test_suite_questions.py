"""The arithmetic behind the suite's questions, each against a plainer way of doing it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.cells.counts import log_normalised, read_counts
from geneformer_grn.evaluation.effects import Measured
from geneformer_grn.evaluation.masked_genes import prepare
from geneformer_grn.network.truth import truth_of
from geneformer_grn.workflows.suite_annotation import LABELS_A_CLASS, _few
from geneformer_grn.workflows.suite_bench import Bench, labelled
from geneformer_grn.workflows.suite_effects import requests_of, scorable
from geneformer_grn.workflows.suite_genes import aurocs_with_gains, regulator_rows
from geneformer_grn.workflows.suite_networks import edge_rows
from geneformer_grn.workflows.suite_robustness import (
    NEIGHBOURS,
    across,
    agreement,
    components,
    cosines,
    thinned,
)
from geneformer_grn.workflows.suite_stimulus import typed_cells


@pytest.fixture
def bench(tiny_encoder):
    return Bench(contestants=prepare(tiny_encoder, None, seed=1), folder=None, listed={})


@pytest.fixture
def counts(tiny_adata, tiny_vocabulary):
    return read_counts(tiny_adata, tiny_vocabulary)


def test_agreement_is_a_vote_of_the_nearest():
    rng = np.random.default_rng(0)
    reference, query = rng.normal(size=(60, 5)), rng.normal(size=(20, 5))
    labels, truth = rng.choice(["a", "b", "c"], 60), rng.choice(["a", "b", "c"], 20)
    found = agreement(reference, query, labels, truth)
    middle = reference.mean(axis=0)
    for number in range(20):
        v = query[number] - middle
        near = [v @ (row - middle) / np.linalg.norm(v) / np.linalg.norm(row - middle) for row in reference]
        votes = labels[np.argsort(near)[-NEIGHBOURS:]].tolist()
        best = max(sorted(set(votes)), key=votes.count)
        assert found[number] == (best == truth[number])


def test_a_cell_does_not_vote_for_itself():
    values = np.array([[1.0, 0], [0.9, 0.1], [-1, 0], [-0.9, 0.1]])
    labels = np.array(["a", "b", "c", "c"])
    # three others are asked: a has b, c, c around it
    found = agreement(values, values, labels, labels, own=np.arange(4))
    assert found.tolist() == [0, 0, 0, 0]


def test_cosines_are_one_with_oneself_and_need_the_centre_off():
    rng = np.random.default_rng(0)
    reference = 100 + rng.normal(size=(50, 4))
    assert cosines(reference, reference) == pytest.approx(np.ones(50))
    assert abs(cosines(reference, rng.permutation(reference)).mean()) < 0.3


def test_thinned_counts_are_binomial(counts):
    fewer = thinned(counts, 0.25, np.random.default_rng(0))
    assert fewer.matrix.shape == counts.matrix.shape
    assert (fewer.matrix.data > 0).all()
    kept = fewer.matrix.sum() / counts.matrix.sum()
    assert kept == pytest.approx(0.25, abs=4 * float(np.sqrt(0.25 * 0.75 / counts.matrix.sum())))
    assert (counts.matrix - fewer.matrix).min() >= 0
    np.testing.assert_allclose(fewer.n_counts, np.maximum(fewer.matrix.sum(axis=1).A1, 1))
    assert counts.matrix.nnz > fewer.matrix.nnz, "the input stays"


def test_molecules_outside_the_vocabulary_are_thinned_too(counts):
    more = replace(counts, n_counts=counts.n_counts + 10_000)
    fewer = thinned(more, 0.1, np.random.default_rng(0))
    assert fewer.n_counts.mean() == pytest.approx(more.n_counts.mean() / 10, rel=0.05)


def test_components_are_learnt_from_the_reference_alone(counts):
    first, second = (_rows(counts, slice(start, None, 2)) for start in (0, 1))
    reference, query = components(first, second, seed=0)
    again, other = components(first, _rows(counts, slice(1, 21, 2)), seed=0)
    np.testing.assert_allclose(np.abs(reference), np.abs(again), atol=1e-4)
    np.testing.assert_allclose(np.abs(query[:10]), np.abs(other), atol=1e-4)


def _rows(counts, chosen):
    from geneformer_grn.workflows.suite_bench import rows_of

    return rows_of(counts, np.arange(len(counts))[chosen])


def test_across_asks_the_other_batches_only(bench, counts, monkeypatch):
    """With labels that are the batches, nobody's neighbours agree."""
    batches = np.tile(["x", "y"], 40)
    named = replace(counts, obs=counts.obs.assign(cell_type=batches))
    units, order = across(bench, named, batches)
    assert set(units) == {"model", "untrained", "hvg_pca"}
    assert order.tolist() == ["x"] * 40 + ["y"] * 40
    assert all(not values.any() for values in units.values())
    units, _ = across(bench, counts, batches)
    assert units["hvg_pca"].mean() > 0.9, "two kinds of cells that components tell apart"


def test_few_labels_are_drawn_from_the_units_given():
    values, units = np.repeat([0, 1, 2], 20), np.arange(0, 43)
    few = _few(values, units, np.random.default_rng(0))
    assert set(few) <= set(units)
    assert np.bincount(values[few]).tolist() == [LABELS_A_CLASS, LABELS_A_CLASS, 3]


def test_rare_and_unknown_labels_are_left_out(counts):
    names = np.array(["A"] * 40 + ["unknown"] * 20 + ["B"] * 15 + ["rare"] * 5, dtype=object)
    rows = labelled(replace(counts, obs=counts.obs.assign(cell_type=names)))
    assert set(names[rows]) == {"A", "B"}


def test_aurocs_are_compared_group_by_group():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    groups, positive = np.repeat(np.arange(30), 10).astype(str), np.tile([True, False], 150)
    scores = {"model": positive + rng.normal(0, 1, 300), "other": positive + rng.normal(0, 3, 300)}
    values, ahead = aurocs_with_gains(positive, scores, groups, seed=0)
    for name, score in scores.items():
        assert values[name] == pytest.approx(roc_auc_score(positive, score))
    gain = ahead["other"]
    assert gain["mean"] == pytest.approx(values["model"] - values["other"])
    assert 0 < gain["low"] < gain["mean"] < gain["high"]
    assert aurocs_with_gains(positive, {"a": scores["model"], "b": scores["model"]}, groups, seed=0)[1] == {
        "b": {"mean": 0.0, "low": 0.0, "high": 0.0}
    }


def test_every_method_scores_the_same_regulators_and_partners(bench, tiny_encoder, tiny_adata):
    vocabulary = tiny_encoder.vocabulary
    letters = [f"{chr(65 + n // 26)}{chr(65 + n % 26)}Q{n}" for n in range(len(vocabulary))]
    named = replace(vocabulary, symbols=np.array(letters, dtype=object))  # every gene a family of its own
    encoder = replace(tiny_encoder, vocabulary=named)
    bench = replace(bench, contestants=replace(bench.contestants, model=encoder))
    (row,) = regulator_rows(bench, read_counts(tiny_adata, named), "tiny")
    assert row["n"] == 2 * vocabulary.is_regulator.sum(), "each regulator with a partner"
    assert set(row["baselines"]) == {"expression", "coexpression", "expression_and_coexpression"}
    assert row["ahead_of_untrained"]["mean"] == pytest.approx(row["model"] - row["untrained"])
    for name, value in row["baselines"].items():
        assert 0 <= value <= 1
        assert row["ahead_of"][name]["mean"] == pytest.approx(row["model"] - value)
    assert row["note"].startswith("3 blocks of families, 3 folds")


def test_a_planted_network_is_found_by_correlation(bench, counts):
    """Each regulator's counts are written over three targets: correlation 1."""
    import pandas as pd

    tokens = counts.column_tokens.astype(np.int64)
    vocabulary = bench.encoder.vocabulary
    regulators = tokens[vocabulary.is_regulator[tokens]]
    others = tokens[~vocabulary.is_regulator[tokens]]
    matrix, edges = counts.matrix.toarray(), []
    place = {token: number for number, token in enumerate(tokens)}
    for number, regulator in enumerate(regulators):
        for target in others[3 * number : 3 * number + 3]:
            matrix[:, place[target]] = matrix[:, place[regulator]]
            edges.append((vocabulary.ensembl_ids[regulator], vocabulary.ensembl_ids[target], 0))
    planted = replace(counts, matrix=type(counts.matrix)(matrix), n_counts=matrix.sum(axis=1))
    assert log_normalised(planted).shape == counts.matrix.shape
    truth = truth_of(pd.DataFrame(edges, columns=["source", "target", "sign"]), name="planted")
    rows = edge_rows(bench, planted, {"planted": truth}, regulators=regulators, targets=tokens, n_cells=30)
    by_measure = {row["measure"]: row for row in rows}
    assert by_measure["AUROC"]["baselines"]["correlation"] > 0.95
    assert by_measure["AUROC"]["ahead_of"]["correlation"]["mean"] == pytest.approx(
        by_measure["AUROC"]["model"] - by_measure["AUROC"]["baselines"]["correlation"]
    )
    # no target has two regulators, so that the others' edges tell nothing good
    assert by_measure["AUROC"]["baselines"]["target_degree"] <= 0.5
    assert by_measure["AUROC"]["ahead_of_baseline"]["low"] is None, "12 regulators: no interval"


def test_knock_outs_are_of_genes_that_cells_hold(bench, counts):
    ranked = bench.ranked(counts)
    genes = bench.encoder.vocabulary.ensembl_ids[[10, 11, 12]].tolist()
    requests = requests_of(bench, ranked, [*genes, genes[0], "ENSG_unknown"], n_genes=9, n_cells=7)
    assert sorted(request.genes[0] for request in requests) == [10, 11, 12]
    for request in requests:
        assert 3 <= len(request.cells) <= 7
        assert all(request.genes[0] in ranked.cell(cell)[:46] for cell in request.cells)
        assert len(set(request.cells)) == len(request.cells)


def test_a_knock_out_that_no_cell_holds_is_refused(bench, counts):
    few = bench.ranked(_rows(counts, slice(0, 2)))
    genes = bench.encoder.vocabulary.ensembl_ids[[10, 11]].tolist()
    with pytest.raises(ValueError, match="none of 2 perturbed genes with enough responders"):
        requests_of(bench, few, genes, n_genes=9, n_cells=7)


def test_genes_with_enough_responders_are_asked_once():
    def measured(gene, n):
        return Measured(gene=gene, affected=np.arange(9), effect=np.ones(9), responds=np.arange(9) < n)

    parts = [measured("b", 5), measured("a", 4), measured("c", 0), measured("c", 9), measured("b", 6)]
    assert scorable(parts) == ["b", "c"]


def test_types_of_stimulated_cells_are_found_where_the_stimulus_is_quiet(counts):
    """B looks stimulated all along, so that over all genes a stimulated A would be taken for one."""
    rng = np.random.default_rng(0)
    truth, stimulated = np.tile(["A", "B"], 60), np.repeat([False, True], 60)
    rates = np.full((120, 60), 3.0)
    on = stimulated | (truth == "B")
    rates[:, :10], rates[:, 10:20] = np.where(on, 10, 2)[:, None], np.where(on, 2, 10)[:, None]
    is_b = truth == "B"
    rates[:, 20:30], rates[:, 30:40] = np.where(is_b, 6, 2)[:, None], np.where(is_b, 2, 6)[:, None]
    matrix = type(counts.matrix)(rng.poisson(rates).astype(np.float32))
    obs = pd.DataFrame(
        {
            "condition": np.where(stimulated, "IFNB", "ctrl"),
            "cell_type": np.where(stimulated, "unknown", truth),
        }
    )
    cells = replace(counts, matrix=matrix, n_counts=matrix.sum(axis=1).A1, obs=obs, kept=np.arange(120))
    typed = typed_cells(cells, log_normalised(cells), seed=0)
    assert typed.accuracy > 0.95
    assert (typed.types == truth).mean() > 0.95
    assert (
        typed.rows("A", stimulated=True).tolist()
        == np.flatnonzero((typed.types == "A") & stimulated).tolist()
    )
    with pytest.raises(ValueError, match="needs IFNB cells"):
        typed_cells(_rows(cells, slice(0, 60)), log_normalised(_rows(cells, slice(0, 60))), seed=0)
