"""The combination on planted edges: what it must find, and what it must not be able to learn by heart."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, cross_val_predict

from geneformer_grn.metrics import average_precision
from geneformer_grn.network import combination, edge_models
from geneformer_grn.network.combination import (
    aggregate_ranks,
    best_source,
    combine_supervised,
    fit_combination,
)
from geneformer_grn.network.edge_models import calibration, probability, thinned
from geneformer_grn.network.folds import regulator_folds
from geneformer_grn.network.known_pairs import known_pairs
from geneformer_grn.network.pair_features import gene_traits, global_ranks, pair_features
from geneformer_grn.network.scored import ScoredPairs
from geneformer_grn.network.truth import truth_of

N_REGULATORS, N_TARGETS = 30, 80
REGULATORS = np.array([f"simulated_r{number:02}" for number in range(N_REGULATORS)], dtype=object)
TARGETS = np.array(
    [*REGULATORS, *(f"simulated_t{number:02}" for number in range(N_TARGETS - N_REGULATORS))], dtype=object
)


def scored(weights, method="a", regulators=REGULATORS, targets=TARGETS):
    weights = np.array(weights, dtype=np.float32)
    weights[np.equal.outer(regulators, targets)] = np.nan
    return ScoredPairs(
        regulators=regulators, targets=targets, weights=weights, method=method, signed=False,
        support=np.ones(weights.shape, dtype=np.int32),
    )  # fmt: skip


def truth_from(known, regulators=REGULATORS, targets=TARGETS):
    rows, columns = np.nonzero(known & ~np.equal.outer(regulators, targets))
    table = pd.DataFrame({"source": regulators[rows], "target": targets[columns], "sign": 0})
    return truth_of(table, name="planted")


def area(pairs, known):
    judged = ~np.equal.outer(pairs.regulators, pairs.targets)
    return average_precision(known[judged], np.nan_to_num(pairs.weights, nan=-1.0)[judged])


ALL_MODELS = dict(edge_models.MODELS)


@pytest.fixture(autouse=True)
def regression_only(monkeypatch):
    """Keep fits short; `combined`, made before, has all classifiers."""
    monkeypatch.setattr(combination, "MODELS", {"logistic": ALL_MODELS["logistic"]})


@pytest.fixture(scope="module")
def planted():
    """Two sources that each know half of what makes an edge, and one that knows nothing."""
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, N_REGULATORS, N_TARGETS))
    odds = 2 * one + 2 * two - 4
    known = rng.random(odds.shape) < 1 / (1 + np.exp(-odds))
    noise = rng.random(odds.shape)
    sources = {"one": scored(one - one.min()), "two": scored(two - two.min()), "noise": scored(noise)}
    return sources, known


@pytest.fixture(scope="module")
def combined(planted):
    sources, known = planted
    return fit_combination(sources, truth_from(known))


def test_two_halves_are_better_than_either(planted, combined):
    sources, known = planted
    found = {name: area(pairs, known) for name, pairs in sources.items()}
    assert area(combined.scores, known) > 1.3 * max(found.values())
    assert combined.scores.method == "combined"
    assert np.isnan(combined.scores.weights[np.equal.outer(REGULATORS, TARGETS)]).all()
    assert np.isfinite(combined.scores.weights).sum() == N_REGULATORS * (N_TARGETS - 1)


def test_probabilities_are_shares(planted, combined):
    """In five bins of equal numbers the mean probability is the share of true edges, within 5 points."""
    _, known = planted
    judged = ~np.equal.outer(REGULATORS, TARGETS)
    said, true = combined.scores.weights[judged], known[judged]
    for part in np.array_split(np.argsort(said), 5):
        assert said[part].mean() == pytest.approx(true[part].mean(), abs=0.05)


def test_what_only_recognises_regulators_does_not_help():
    """Hubs told by a code of their own: learned from other pairs of the same regulator, not from others."""
    rng = np.random.default_rng(1)
    hub = rng.permutation(np.arange(N_REGULATORS) < 6)
    known = rng.random((N_REGULATORS, N_TARGETS)) < np.where(hub, 0.6, 0.05)[:, None]
    code = np.broadcast_to(np.arange(N_REGULATORS, dtype=float)[:, None] + 1, known.shape)
    by_pairs = cross_val_predict(
        RandomForestClassifier(10, random_state=0), code.reshape(-1, 1), known.ravel(),
        cv=KFold(5, shuffle=True, random_state=0), method="predict_proba",
    )  # fmt: skip
    assert average_precision(known.ravel(), by_pairs[:, 1]) > 2.5 * known.mean()
    assert area(combine_supervised({"code": scored(code)}, truth_from(known)), known) < 1.3 * known.mean()


def test_a_regulators_own_edges_do_not_move_its_scores(planted):
    """Other labels for one regulator: its own scores stay, those of other folds move."""
    sources, known = planted
    first = fit_combination(sources, truth_from(known))
    fold = first.fold
    row = 4
    other = known.copy()
    other[row] = np.roll(known[row], 7)  # as many edges, so that folds stay; targets stay known to the truth
    changed = fit_combination(sources, truth_from(other))
    np.testing.assert_array_equal(changed.fold, fold)
    np.testing.assert_array_equal(changed.scores.weights[row], first.scores.weights[row])
    assert not np.allclose(
        np.nan_to_num(changed.scores.weights[fold != fold[row]]),
        np.nan_to_num(first.scores.weights[fold != fold[row]]),
        rtol=0, atol=1e-6,
    )  # fmt: skip


def test_popular_targets_are_found_without_counting_the_pair_itself():
    """Where only popularity makes edges, the combination nears the best there can be; shuffled, chance."""
    rng = np.random.default_rng(2)
    popular = rng.random(N_TARGETS) < 0.2
    known = rng.random((N_REGULATORS, N_TARGETS)) < np.where(popular, 0.5, 0.03)
    noise = {"noise": scored(rng.random(known.shape))}
    ceiling = average_precision(known.ravel(), np.broadcast_to(popular, known.shape).ravel().astype(float))
    assert area(combine_supervised(noise, truth_from(known)), known) > 0.85 * ceiling
    shuffled = np.stack([rng.permutation(row) for row in known])
    assert area(combine_supervised(noise, truth_from(shuffled)), shuffled) < 1.4 * shuffled.mean()


def test_regulators_that_the_truth_does_not_know_are_scored_too(planted):
    sources, known = planted
    fewer = known.copy()
    fewer[20:] = False
    found = fit_combination(sources, truth_from(fewer))
    assert (found.fold[20:] == -1).all()
    assert (found.fold[:20] >= 0).all()
    unseen = np.nan_to_num(found.scores.weights[20:], nan=-1.0)
    judged = ~np.equal.outer(REGULATORS, TARGETS)[20:]
    best = max(
        average_precision(known[20:][judged], np.nan_to_num(pairs.weights[20:], nan=-1.0)[judged])
        for pairs in sources.values()
    )
    assert average_precision(known[20:][judged], unseen[judged]) > 1.2 * best


def test_the_best_source_is_chosen_on_other_regulators(planted):
    sources, known = planted
    stronger = {**sources, "one": scored(np.nan_to_num(sources["one"].weights) + 2.0 * known)}
    found = best_source(stronger, truth_from(known))
    assert found.chosen == ("one",) * 5
    same = np.equal.outer(REGULATORS, TARGETS)
    assert np.isnan(found.scores.weights[same]).all()
    np.testing.assert_array_equal(found.scores.weights[~same], global_ranks(stronger["one"])[~same])
    # a source that is right for one fold only is not chosen there
    fold = found.fold
    cheating = np.where((fold == 0)[:, None], known.astype(float), 0.0)
    assert "cheat" not in best_source({**stronger, "cheat": scored(cheating)}, truth_from(known)).chosen[:1]


def test_mean_ranks_are_those_of_scipy(planted):
    sources, _ = planted
    holes = np.array(sources["two"].weights)
    holes[3, 5] = np.nan
    some = {"one": sources["one"], "two": scored(holes)}
    found = aggregate_ranks(some)
    n = N_REGULATORS * N_TARGETS
    expected = np.mean(
        [(rankdata(np.nan_to_num(pairs.weights, nan=-1.0)) - 1) / (n - 1) for pairs in some.values()], axis=0
    ).reshape(N_REGULATORS, N_TARGETS)
    scored_pairs = np.isfinite(found.weights)
    assert scored_pairs[3, 5]
    assert not scored_pairs[0, 0]
    np.testing.assert_allclose(found.weights[scored_pairs], expected[scored_pairs], rtol=1e-6)
    # magnitudes count, not signs
    flipped = {"one": scored(-np.nan_to_num(some["one"].weights)), "two": some["two"]}
    np.testing.assert_array_equal(aggregate_ranks(flipped).weights, found.weights)


def test_sources_over_other_pairs_are_refused(planted):
    sources, known = planted
    other = scored(np.ones((2, N_TARGETS)), regulators=REGULATORS[:2])
    for combine in (aggregate_ranks, lambda each: combine_supervised(each, truth_from(known))):
        with pytest.raises(ValueError, match="one covers 30 × 80 pairs and other 2 × 80"):
            combine({"one": sources["one"], "other": other})
        with pytest.raises(ValueError, match="at least one method"):
            combine({})


def test_too_few_known_regulators_are_refused(planted):
    sources, known = planted
    few = known.copy()
    few[4:] = False
    with pytest.raises(ValueError, match=r"4 of 30 regulators .* rank_aggregate"):
        combine_supervised(sources, truth_from(few))


def test_known_pairs_are_those_of_the_truth():
    known = np.zeros((N_REGULATORS, N_TARGETS), dtype=bool)
    known[:6, 40:46] = np.eye(6, dtype=bool)
    known[0, 41] = True
    found = known_pairs(scored(np.ones(known.shape)), truth_from(known))
    np.testing.assert_array_equal(found.known, known)
    assert found.judged.sum() == 36
    assert found.judged[:6, 40:46].all()


def test_folds_are_even_in_edges():
    n_known = np.random.default_rng(0).pareto(1.0, 43).round()
    n_known[:5] += 1
    folds = regulator_folds(n_known, np.random.default_rng(0))
    assert (
        np.bincount(folds).tolist() in ([9, 9, 9, 8, 8], [8, 8, 9, 9, 9]) or np.ptp(np.bincount(folds)) == 1
    )
    with pytest.raises(ValueError, match="5 folds need"):
        regulator_folds(np.array([1, 1, 0, 0, 0, 0]), np.random.default_rng(0))


def test_calibration_is_the_regression_of_labels_on_log_odds():
    rng = np.random.default_rng(0)
    odds = rng.normal(-2, 2, 5_000)
    labels = rng.random(5_000) < probability(0.5 * odds + 1.0)
    slope, intercept = calibration(odds, labels)
    oracle = LogisticRegression(C=np.inf, max_iter=1000).fit(odds[:, None], labels)
    assert slope == pytest.approx(oracle.coef_[0, 0], abs=2e-3)
    assert intercept == pytest.approx(oracle.intercept_[0], abs=5e-3)
    assert calibration(-odds, labels)[0] > 0  # the ranking is never turned round


def test_thinned_negatives_leave_the_log_odds(planted):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60_000, 1)).astype(np.float32)
    labels = rng.random(60_000) < probability(x[:, 0] - 4.0)
    rows, offset = thinned(labels, rng, most=12_000)
    assert labels[rows].sum() == labels.sum()
    assert len(rows) == 12_000
    fit = edge_models.logistic(x[rows], labels[rows], 0)
    np.testing.assert_allclose(fit(x[:100]) + offset, x[:100, 0] - 4.0, atol=0.3)
    assert thinned(labels[:50], rng, most=100)[1] == 0.0


def test_features_are_ranks_whatever_the_unit(planted):
    sources, _ = planted
    cubed = {name: scored(np.nan_to_num(pairs.weights) ** 3) for name, pairs in sources.items()}
    traits = gene_traits(np.random.default_rng(0).poisson(1.0, (50, N_TARGETS)).astype(float), TARGETS)
    one, other = (pair_features(each, traits) for each in (sources, cubed))
    np.testing.assert_array_equal(one.planes, other.planes)
    assert one.planes.shape == (9, N_REGULATORS, N_TARGETS)
    assert one.of_regulator.shape == (3, N_REGULATORS)
    assert one.of_target.shape == (4, N_TARGETS)
    assert one.of_target[3].tolist() == [1.0] * N_REGULATORS + [0.0] * (N_TARGETS - N_REGULATORS)
    row, column = np.array([1, 2]), np.array([5, 6])
    matrix = one.matrix(row, column, np.zeros((2, 1)))
    assert matrix.shape == (2, 17)
    assert matrix[0, 0] == one.planes[0, 1, 5]


def test_traits_against_numpy():
    values = np.random.default_rng(0).poisson(1.0, (40, 6)).astype(float)
    genes = np.array(list("ABCDEF"), dtype=object)
    traits = gene_traits(values, genes)
    np.testing.assert_allclose(traits.mean, values.mean(axis=0))
    np.testing.assert_allclose(traits.variance, values.var(axis=0))
    np.testing.assert_allclose(traits.detection, (values > 0).mean(axis=0))
    ranks = traits.of(np.array(["B", "unknown"], dtype=object))
    assert ranks[0, 0] == pytest.approx((rankdata(values.mean(axis=0))[1] - 1) / 5)
    assert ranks[:, 1].tolist() == [0.5] * 3


def test_equal_seeds_give_equal_scores(planted, combined):
    sources, known = planted
    first, again, other = (fit_combination(sources, truth_from(known), seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(again.scores.weights, first.scores.weights)
    assert not np.array_equal(other.fold, first.fold)
    assert set(combined.chosen) <= {*ALL_MODELS, combination.BOTH}


def test_a_fit_is_taken_where_it_is_ahead_in_most_folds():
    """Ahead over all folds by one alone, it is luck; what needs no fit is taken then."""
    labels = [np.array([True, False, False, False])] * 4
    right, wrong = np.array([4.0, 3.0, 2.0, 1.0]), np.array([3.0, 4.0, 2.0, 1.0])
    weak = [np.array([1.0, 0.9, 0.8, 0.0])] * 4
    scores = {"fit": [right, right, right, wrong], "rank": [wrong] * 4, "other": [wrong[::-1]] * 4}
    assert combination._choice(scores, labels, rankings=("rank", "other")) == "fit"
    scores = {"fit": [right, right, wrong, wrong], "rank": [wrong] * 4, "other": [wrong[::-1]] * 4}
    assert combination._choice(scores, labels, rankings=("rank", "other")) == "rank"
    scores = {"fit": [wrong] * 4, "rank": weak}
    assert combination._choice(scores, labels, rankings=("rank",)) == "rank"


def test_where_nothing_but_popularity_tells_the_combination_is_popularity():
    """Many sources of noise make every fit worse than the count of a target's other regulators."""
    rng = np.random.default_rng(5)
    share = rng.beta(0.4, 4.0, N_TARGETS)
    known = rng.random((N_REGULATORS, N_TARGETS)) < share
    sources = {f"noise{number}": scored(rng.random(known.shape)) for number in range(12)}
    found = fit_combination(sources, truth_from(known))
    pairs = known_pairs(sources["noise0"], truth_from(known))
    degree = np.stack([(pairs.known & pairs.judged)[pairs.fold != fold].sum(axis=0) for fold in pairs.fold])
    labels, said = pairs.known[pairs.judged], found.scores.weights[pairs.judged]
    alone = average_precision(labels, degree[pairs.judged].astype(float))
    assert found.chosen.count("popularity") >= 4
    assert average_precision(labels, said) > 0.97 * alone > 1.4 * labels.mean()
    assert said.mean() == pytest.approx(labels.mean(), rel=0.1)


def test_with_few_known_edges_a_good_source_is_left_alone():
    """Ten edges cannot weigh 30 noisy sources; one that is right is seen to be."""
    rng = np.random.default_rng(5)
    known = np.zeros((N_REGULATORS, N_TARGETS), dtype=bool)
    known[np.arange(10), 40 + np.arange(10)] = True
    sources = {f"noise {number}": scored(rng.random(known.shape)) for number in range(30)}
    sources["good"] = scored(rng.random(known.shape) + known)
    found = fit_combination(sources, truth_from(known))
    assert found.chosen.count("good") >= 4


def test_boosted_trees_find_what_a_regression_cannot():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3_000, 2)).astype(np.float32)
    labels = features[:, 0] * features[:, 1] > 0
    trees, line = (ALL_MODELS[name](features, labels, 0) for name in ("boosted", "logistic"))
    new = rng.normal(size=(1_000, 2)).astype(np.float32)
    true = new[:, 0] * new[:, 1] > 0
    assert average_precision(true, trees(new)) > 0.95
    assert average_precision(true, line(new)) < 0.65
    np.testing.assert_array_equal(trees(new), ALL_MODELS["boosted"](features, labels, 0)(new))
