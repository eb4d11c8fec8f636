"""Scores of predicted effects against scipy and loops, baselines against their definitions."""

import numpy as np
import pytest
from scipy.spatial.distance import cityblock
from scipy.stats import pearsonr
from sklearn.decomposition import PCA

from geneformer_grn.evaluation import propagation_metrics as scored
from geneformer_grn.evaluation.propagation import counted_genes, score_predictions
from geneformer_grn.evaluation.propagation_baselines import (
    additive,
    linear_on_components,
    mean_of_others,
    nearest_by_embedding,
    no_change,
)


@pytest.fixture
def effects() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predicted, measured and perturbed: 24 perturbations of the first genes of 30."""
    rng = np.random.default_rng(0)
    measured = rng.normal(size=(24, 30)) * (rng.random((24, 30)) < 0.5)
    measured[3, :] = 0.0
    return measured + rng.normal(size=measured.shape), measured, np.arange(24)


def test_measures_equal_scipy_and_loops(effects):
    predicted, measured, perturbed = effects
    predicted[5, 10] = 0.0
    measured[5, 10] = 1.0
    where = counted_genes(measured.shape, perturbed)
    assert where.sum(axis=1).tolist() == [29] * 24
    r = scored.correlations(predicted, measured, where)
    beyond = scored.correlations_beyond_mean(predicted, measured, where)
    sign = scored.sign_accuracies(predicted, measured, where)
    error = scored.absolute_errors(predicted, measured, where)
    pds = scored.discrimination_scores(predicted, measured, where)
    for row in range(24):
        others = np.delete(np.arange(30), row)
        p, m = predicted[row, others], measured[row, others]
        assert error[row] == pytest.approx(np.mean(np.abs(p - m)))
        mean = np.delete(measured, row, axis=0).mean(axis=0)[others]
        assert beyond[row] == pytest.approx(pearsonr(p - mean, m - mean)[0])
        own, won = cityblock(p, m) / 29, []
        for other in range(24):
            if other != row:
                both = np.setdiff1d(np.arange(30), [row, other])
                won.append(cityblock(predicted[row, both], measured[other, both]) / 28 > own)
        assert pds[row] == pytest.approx(np.mean(won))
        if row == 3:
            assert np.isnan([r[row], sign[row]]).all()
            continue
        assert r[row] == pytest.approx(pearsonr(p, m)[0])
        right = [0.5 if a == 0 else float(a * b > 0) for a, b in zip(p, m, strict=True) if b != 0]
        assert sign[row] == pytest.approx(np.mean(right))


def test_overlap_of_the_strongest():
    measured = np.array([[0.0, 3.0, -2.0, 0.5, 0.0]])
    where = counted_genes(measured.shape, np.array([0]))
    found = [
        scored.top_overlaps(np.array([prediction]), measured, where, top=2)[0]
        for prediction in ([9.0, -1.0, 1.0, 0.0, 0.0], [9.0, 1.0, 0.0, 2.0, 0.0], [9.0, 0.0, 0.0, 0.0, 0.0])
    ]
    assert found == [1.0, 0.5, 0.5]  # of four tied genes, two are expected to hold one of the two
    assert np.isnan(scored.top_overlaps(measured, 0 * measured, where, top=2)).all()
    # as many as changed, where fewer did
    assert scored.top_overlaps(measured, measured, where, top=9).tolist() == [1.0]


def test_edge_cases_of_correlations():
    one = np.array([[1.0, 2.0, 3.0]])
    everywhere = np.ones((1, 3), dtype=bool)
    assert scored.correlations(0 * one, one, everywhere).tolist() == [0.0]
    assert np.isnan(scored.correlations(one, 0 * one, everywhere)).all()
    assert np.isnan(scored.correlations_beyond_mean(one, one, everywhere)).all()
    assert np.isnan(scored.discrimination_scores(one, one, everywhere)).all()
    three = np.array([[1.0, 0.0], [1.0, 0.0], [5.0, 5.0]])
    # the first two cannot be told apart: half for the one, a whole for the third
    assert scored.discrimination_scores(three, three, np.ones((3, 2), dtype=bool)).tolist() == [0.75, 0.75, 1]


def test_saying_the_same_for_all_is_nothing_beyond_the_mean(effects):
    _, measured, perturbed = effects
    common = measured + 5 * np.linspace(-1, 1, 30)
    where = counted_genes(measured.shape, perturbed)
    same = mean_of_others(common)
    assert np.nanmean(scored.correlations(same, common, where)) > 0.9
    assert np.nanmax(np.abs(scored.correlations_beyond_mean(same, common, where))) < 1e-12
    assert abs(np.mean(scored.discrimination_scores(same, common, where)) - 0.5) < 0.5


def test_card(effects):
    predicted, measured, perturbed = effects
    methods = {"mine": predicted, "nothing": no_change(measured), "order": np.abs(predicted)}
    card = score_predictions(
        methods, measured, perturbed=perturbed, control="nothing", ranks_only=frozenset({"order"})
    )
    assert card["n_perturbations"] == 24
    assert card["n_with_effect"] == 23
    where = counted_genes(measured.shape, perturbed)
    r = scored.correlations(predicted, measured, where)
    mine = card["methods"]["mine"]["r"]
    assert mine["mean"] == pytest.approx(np.nanmean(r))
    assert mine["n"] == 23
    low, high = mine["interval"]
    assert low < mine["mean"] < high
    half = 1.96 * np.nanstd(r) / np.sqrt(23)
    assert high - low == pytest.approx(2 * half, rel=0.15)
    assert card["methods"]["nothing"]["r"]["mean"] == 0
    assert card["against_control"]["mine"]["r"]["mean"] == pytest.approx(mine["mean"])
    error = scored.absolute_errors(predicted, measured, where) - np.mean(
        np.abs(measured), axis=1, where=where
    )
    assert card["against_control"]["mine"]["mae"]["mean"] == pytest.approx(error.mean())
    assert set(card["methods"]["order"]) == {"top_overlap"}
    assert "nothing" not in card["against_control"]
    few = score_predictions({"mine": predicted[:5]}, measured[:5], perturbed=perturbed[:5], control="mine")
    assert few["methods"]["mine"]["r"]["interval"] is None


def test_card_refuses(effects):
    predicted, measured, perturbed = effects
    with pytest.raises(ValueError, match="control 'x' is not among the methods: mine"):
        score_predictions({"mine": predicted}, measured, perturbed=perturbed, control="x")
    with pytest.raises(ValueError, match=r"mine predicts \(24, 29\)"):
        score_predictions({"mine": predicted[:, 1:]}, measured, perturbed=perturbed, control="mine")
    with pytest.raises(ValueError, match="no finite number"):
        score_predictions({"mine": predicted * np.nan}, measured, perturbed=perturbed, control="mine")


def test_combinations_leave_out_all_their_genes():
    where = counted_genes((2, 4), np.array([[0, 2], [1, -1]]))
    assert where.tolist() == [[False, True, False, True], [True, False, True, True]]


def test_simple_baselines(effects):
    _, measured, _ = effects
    assert not no_change(measured).any()
    np.testing.assert_allclose(mean_of_others(measured)[4], np.delete(measured, 4, axis=0).mean(axis=0))
    assert mean_of_others(measured[:1]).tolist() == [[0.0] * 30]
    np.testing.assert_array_equal(additive(measured, [(0, 2), (5,)])[0], measured[0] + measured[2])
    assert additive(measured, []).shape == (0, 30)


def test_linear_model_equals_its_normal_equations(effects):
    _, measured, perturbed = effects
    found = linear_on_components(measured, perturbed, n_components=4, ridge=0.3)
    for row in (0, 7):
        training = np.delete(measured, row, axis=0)
        bias = training.mean(axis=0)
        pca = PCA(4).fit(training)
        genes = (pca.singular_values_[:, None] * pca.components_).T
        profiles = genes[np.delete(perturbed, row)]
        # argmin of the two ridges in turn, as vec(W) of a Kronecker system
        system = np.kron(profiles.T @ profiles + 0.3 * np.eye(4), genes.T @ genes + 0.3 * np.eye(4))
        right = (genes.T @ (training - bias).T @ profiles).ravel(order="F")
        weights = np.linalg.solve(system, right).reshape(4, 4, order="F")
        np.testing.assert_allclose(found[row], bias + genes @ weights @ genes[perturbed[row]], atol=1e-8)
    changed = measured.copy()
    changed[0] += 100.0
    np.testing.assert_array_equal(
        linear_on_components(changed, perturbed)[0], linear_on_components(measured, perturbed)[0]
    )
    unknown = np.append(-1, perturbed[1:])
    np.testing.assert_allclose(linear_on_components(measured, unknown)[0], mean_of_others(measured)[0])


def test_nearest_gene():
    measured = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [5.0, 0.0]])
    embeddings = np.array([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [np.nan, 0.0]])
    found = nearest_by_embedding(measured, embeddings)
    assert found[0].tolist() == [0.0, 1.0]
    assert found[1].tolist() == [1.0, 0.0]
    assert found[2].tolist() == [0.0, 1.0]
    assert found[3].tolist() == [1.0, 1.0]  # like nothing: the mean of the others
    with pytest.raises(ValueError, match="as many embeddings"):
        nearest_by_embedding(measured, embeddings[:2])
