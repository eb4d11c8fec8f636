"""Trees against scikit-learn's own, importances counted cell by cell, and explained variance."""

import numpy as np
import pytest
from scipy import sparse

from geneformer_grn.network import trees
from geneformer_grn.network.boosting import BoostingSettings, boosted_importances, grnboost_edges
from geneformer_grn.network.tree_targets import MIN_CELLS
from geneformer_grn.network.trees import ForestSettings, forest_importances, genie3_edges

N_CELLS, N_GENES = 120, 8
GENES = np.array([f"G{i}" for i in range(N_GENES)], dtype=object)
REGULATORS, TARGETS = ["G6", "G0", "G3", "G1"], ["G1", "G0", "G5", "G2"]
METHODS = [genie3_edges, grnboost_edges]


@pytest.fixture(scope="module")
def expression() -> np.ndarray:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(N_CELLS, 2)) @ generator.normal(size=(2, N_GENES))
    values = np.maximum(values + generator.normal(size=values.shape), 0.0)
    values[:, 3], values[:, 5] = 1.1, 0.0
    return values


def by_walking(tree, inputs: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The squared error that each input's splits take off, cells sent down a fitted tree one at a time."""
    left, right, feature, threshold = (
        tree.tree_.children_left, tree.tree_.children_right, tree.tree_.feature, tree.tree_.threshold
    )  # fmt: skip
    found = np.zeros(inputs.shape[1])
    waiting = [(0, np.arange(len(target)))]
    while waiting:
        node, cells = waiting.pop()
        if left[node] < 0:
            continue
        goes_left = inputs[cells, feature[node]] <= threshold[node]
        parts = (cells[goes_left], cells[~goes_left])
        error, *after = [((target[part] - target[part].mean()) ** 2).sum() for part in (cells, *parts)]
        found[feature[node]] += (error - sum(after)) / len(target)
        waiting += [(left[node], parts[0]), (right[node], parts[1])]
    return found


def test_genie3_is_the_mean_over_trees_counted_cell_by_cell(expression):
    from sklearn.tree import ExtraTreeRegressor

    settings = ForestSettings(n_trees=4, max_features=2)
    pairs = genie3_edges(expression, GENES, regulators=REGULATORS, targets=TARGETS, settings=settings, seed=7)
    for j, target in enumerate(int(gene[1:]) for gene in TARGETS):
        used = [gene for gene in (6, 0, 1) if gene != target]  # 3 does not vary
        if target == 5:
            assert np.isnan(pairs.weights[:, j]).all()
            continue
        values = (expression[:, target] - expression[:, target].mean()) / expression[:, target].std()
        inputs = expression[:, used].astype(np.float32)
        parts = []
        for number in range(4):
            seed = int(np.random.SeedSequence([7, target, number]).generate_state(1)[0] // 2)
            tree = ExtraTreeRegressor(max_features=2, random_state=seed).fit(inputs, values)
            parts.append(by_walking(tree, inputs, values))
        expected = dict(zip(used, np.mean(parts, axis=0), strict=True))
        for i, regulator in enumerate(int(gene[1:]) for gene in REGULATORS):
            if regulator in expected:
                assert pairs.weights[i, j] == pytest.approx(expected[regulator], rel=1e-5)
            else:
                assert np.isnan(pairs.weights[i, j])
            both = (expression[:, regulator] > 0) & (expression[:, target] > 0)
            assert pairs.support[i, j] == both.sum()
    assert not pairs.signed
    assert pairs.p_values is None


@pytest.mark.parametrize("kind", ["extra_trees", "random_forest"])
def test_genie3_agrees_with_the_forests_of_scikit_learn(kind, monkeypatch):
    """The very trees, given their seeds; bootstrap samples of other numbers have the same expectation."""
    from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor

    generator = np.random.default_rng(3)
    inputs = generator.normal(size=(100, 5)).astype(np.float32)
    target = inputs @ [1.0, 0.5, 0.0, 0.0, -0.3] + 0.5 * generator.normal(size=100)
    target = (target - target.mean()) / target.std()
    forest = {"extra_trees": ExtraTreesRegressor, "random_forest": RandomForestRegressor}[kind]
    theirs = forest(100, max_features=2, min_samples_leaf=3, random_state=0).fit(inputs, target).estimators_
    expected = np.mean([tree.tree_.compute_feature_importances(normalize=False) for tree in theirs], axis=0)
    monkeypatch.setattr(trees, "seed_of", lambda _seed, _gene, tree: theirs[tree].random_state)
    settings = ForestSettings(kind=kind, n_trees=100, max_features=2, min_leaf=3)
    apart = 1e-9 if kind == "extra_trees" else 0.06
    np.testing.assert_allclose(forest_importances(settings, 0)(inputs, target, 0), expected, atol=apart)


def test_boosting_explains_what_the_model_explains():
    """Without bagging and thresholds on gain, importances sum to the R² of the model in its own cells."""
    import lightgbm

    generator = np.random.default_rng(1)
    inputs = generator.normal(size=(300, 3)).astype(np.float32)
    target = inputs[:, 0] + np.abs(inputs[:, 1]) + 0.3 * generator.normal(size=300)
    target = (target - target.mean()) / target.std()
    settings = BoostingSettings(bagged=1.0, min_gain=0.0, max_trees=40, patience=40, rate=0.1)
    found = boosted_importances(settings, 0)(inputs, target, 5)

    shuffled = np.random.default_rng([0, 300]).permutation(300)
    kept, held = np.sort(shuffled[30:]), np.sort(shuffled[:30])
    model = lightgbm.LGBMRegressor(
        n_estimators=40, learning_rate=0.1, num_leaves=8, min_child_samples=15, min_split_gain=0.0,
        n_jobs=1, verbosity=-1,
    ).fit(inputs[kept], target[kept])  # fmt: skip
    errors = [
        ((model.predict(inputs[held], num_iteration=n) - target[held]) ** 2).mean() for n in range(1, 41)
    ]
    best = int(np.argmin(errors)) + 1
    left = (target[kept] - model.predict(inputs[kept], num_iteration=best)) ** 2
    around = (target[kept] - target[kept].mean()) ** 2
    assert found.sum() == pytest.approx((around.sum() - left.sum()) / len(kept), rel=1e-3)
    assert found[2] < 0.05 < min(found[:2])


def planted(n_cells: int = 400) -> tuple[np.ndarray, dict[str, list[str]]]:
    """G5 follows G0, G6 |G1|, G7 an interaction of G2 and G3; G4 is noise."""
    cells = np.random.default_rng(2).normal(size=(n_cells, N_GENES))
    cells[:, 5] = cells[:, 0] + 0.3 * cells[:, 5]
    cells[:, 6] = np.abs(cells[:, 1]) + 0.3 * cells[:, 6]
    cells[:, 7] = (cells[:, 2] > 0) * (cells[:, 3] > 0) + 0.1 * cells[:, 7]
    return cells, {"regulators": ["G0", "G1", "G2", "G3", "G4"], "targets": ["G5", "G6", "G7"]}


@pytest.mark.parametrize("method", METHODS)
def test_a_network_that_is_no_straight_line_is_found(method):
    cells, call = planted()
    weights = method(cells, GENES, **call).weights
    assert np.argmax(weights, axis=0)[:2].tolist() == [0, 1]
    assert sorted(np.argsort(weights[:, 2])[-2:].tolist()) == [2, 3]
    assert (weights[4] < 0.5 * weights[[0, 1, 2], [0, 1, 2]]).all()
    correlation = np.corrcoef(cells, rowvar=False)[:5, 6]
    assert abs(correlation[1]) < 0.2


@pytest.mark.parametrize("method", METHODS)
def test_the_same_scores_whatever_the_threads_units_and_other_targets(method):
    cells, call = planted(80)
    one = method(cells, GENES, **call, threads=1)
    scaled = cells * 2.0 ** np.arange(-3, 5)
    for other in (
        method(sparse.csr_matrix(cells), GENES, **call, threads=3),
        method(scaled, GENES, **call),
    ):
        np.testing.assert_allclose(other.weights, one.weights, atol=1e-6)
    alone = method(cells, GENES, regulators=call["regulators"], targets=["G7"])
    np.testing.assert_array_equal(alone.weights[:, 0], one.weights[:, 2])
    assert not np.array_equal(method(cells, GENES, **call, seed=1).weights, one.weights)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (genie3_edges, ForestSettings(max_cells=60, n_trees=100)),
        (grnboost_edges, BoostingSettings(max_cells=150)),
    ],
)
def test_fewer_cells_for_each_tree_find_the_same(method, settings):
    cells, call = planted()
    found = method(cells, GENES, **call, settings=settings)
    assert np.argmax(found.weights, axis=0)[:2].tolist() == [0, 1]
    assert not np.allclose(found.weights, method(cells, GENES, **call).weights, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_varies_or_too_few_cells(method, expression):
    pairs = method(expression, GENES, regulators=["G5"], targets=["G3", "G0"])
    assert np.isnan(pairs.weights).all()
    with pytest.raises(ValueError, match=rf"needs at least {MIN_CELLS} cells, got 19"):
        method(expression[:19], GENES, regulators=["G0"], targets=["G1"])
    with pytest.raises(ValueError, match="first: 'NONE'"):
        method(expression, GENES, regulators=["NONE"], targets=["G1"])


def test_bad_settings():
    for wrong in ({"n_trees": 0}, {"max_features": 0}, {"min_leaf": 0}, {"max_cells": 0}):
        with pytest.raises(ValueError, match="must be at least 1, got 0"):
            ForestSettings(**wrong)
    with pytest.raises(ValueError, match="not 'oak'"):
        ForestSettings(kind="oak")
    for wrong in ({"max_trees": 0}, {"patience": 0}, {"max_cells": 0}):
        with pytest.raises(ValueError, match="must be at least 1, got 0"):
            BoostingSettings(**wrong)
    for wrong in ({"leaves": 1}, {"min_gain": -1}):
        with pytest.raises(ValueError, match="2 leaves or more and a gain of 0 or more"):
            BoostingSettings(**wrong)
    for wrong in ({"rate": 0}, {"bagged": 1.1}, {"held_out": 1}):
        with pytest.raises(ValueError, match="above 0 and up to 1, held_out below 1"):
            BoostingSettings(**wrong)
