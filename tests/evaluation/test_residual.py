import numpy as np
import pandas as pd
import pytest

from geneformer_grn.evaluation.networks import judged_pairs
from geneformer_grn.evaluation.residual import Covariates, gene_level_scores, residual, target_degree
from geneformer_grn.network.truth import truth_of


def a_case(*, n_regulators=30, n_targets=60, seed=0):
    """Edges that follow |r| and something else; the covariates know |r| only."""
    rng = np.random.default_rng(seed)
    correlation, other = rng.random((2, n_regulators, n_targets))
    odds = 4 * correlation + 4 * other - 6
    known = rng.random(odds.shape) < 1 / (1 + np.exp(-odds))
    regulators = [f"r{number:02}" for number in range(n_regulators)]
    targets = [f"t{number:02}" for number in range(n_targets)]
    rows = [(regulators[i], targets[j], 0) for i, j in zip(*np.nonzero(known), strict=True)]
    truth = truth_of(pd.DataFrame(rows, columns=["source", "target", "sign"]), name="truth")
    pairs = judged_pairs(regulators, targets, truth)
    kept = np.ix_(
        [regulators.index(gene) for gene in pairs.regulators], [targets.index(gene) for gene in pairs.targets]
    )
    noise = rng.random((3, len(pairs.targets)))
    covariates = Covariates(
        correlation=correlation[kept], mean=noise[0], variance=noise[1], detection=noise[2]
    )
    return pairs, covariates, other[kept]


def test_a_score_that_knows_more_gains_and_one_that_repeats_does_not():
    pairs, covariates, other = a_case()
    more = residual(other, pairs, covariates, n=200)
    assert more["auprc_gain_low"] > 0.05
    assert more["log_loss_gain_low"] > 0
    same = residual(covariates.correlation**3, pairs, covariates, n=200)
    assert abs(same["auprc_gain"]) < 0.01
    assert same["auprc_gain_low"] <= 0 <= same["auprc_gain_high"] or abs(same["auprc_gain"]) < 0.003


def test_what_is_learned_of_popular_targets_is_no_gain():
    """A score that only counts a target's regulators adds nothing to the degree among other regulators."""
    rng = np.random.default_rng(1)
    popular = rng.random(60) < 0.3
    known = rng.random((30, 60)) < np.where(popular, 0.5, 0.05)
    rows = [(f"r{i:02}", f"t{j:02}", 0) for i, j in zip(*np.nonzero(known), strict=True)]
    truth = truth_of(pd.DataFrame(rows, columns=["source", "target", "sign"]), name="truth")
    pairs = judged_pairs([f"r{i:02}" for i in range(30)], [f"t{j:02}" for j in range(60)], truth)
    noise = rng.random((3, len(pairs.targets)))
    covariates = Covariates(
        correlation=rng.random(pairs.known.shape), mean=noise[0], variance=noise[1], detection=noise[2]
    )
    of_target = popular[[int(target[1:]) for target in pairs.targets]].astype(float)
    found = residual(np.broadcast_to(of_target, pairs.known.shape), pairs, covariates, n=100)
    assert found["auprc_covariates"] > 1.8 * pairs.density
    assert abs(found["auprc_gain"]) < 0.06


def test_few_regulators_give_no_interval_and_fewer_no_residual():
    pairs, covariates, other = a_case(n_regulators=10)
    found = residual(other, pairs, covariates)
    assert "auprc_gain" in found
    assert "auprc_gain_low" not in found
    pairs, covariates, other = a_case(n_regulators=4)
    assert residual(other, pairs, covariates) == {}


def test_degree_counts_other_regulators_alone():
    """Whatever a regulator's own edges are, the degrees it is scored by stay; popular targets are found."""
    rng = np.random.default_rng(3)
    popular = np.arange(40) < 8
    known = rng.random((25, 40)) < np.where(popular, 0.9, 0.25)
    names = [f"simulated_r{i:02}" for i in range(25)], [f"simulated_t{j:02}" for j in range(40)]

    def degree(known):
        rows = [(names[0][i], names[1][j], 0) for i, j in zip(*np.nonzero(known), strict=True)]
        truth = truth_of(pd.DataFrame(rows, columns=["source", "target", "sign"]), name="truth")
        pairs = judged_pairs(*names, truth)
        return pairs, target_degree(pairs)["target degree"]

    pairs, first = degree(known)
    assert first.shape == (25, 40)
    assert first[:, popular].mean() > 2 * first[:, ~popular].mean()
    other = known.copy()
    other[4] = known[4][::-1]  # as many edges, so that the folds stay
    np.testing.assert_array_equal(degree(other)[1][4], first[4])
    n_known = pairs.known.sum(axis=0)
    assert (first < n_known).any()
    assert (first <= n_known).all()
    few, _, _ = a_case(n_regulators=4)
    assert target_degree(few) == {}


def test_gene_level_rankings_place_unknown_pairs_last():
    pairs, covariates, _ = a_case(n_regulators=6)
    covariates.correlation[0, 0] = np.nan
    scores = gene_level_scores(covariates, pairs)
    assert scores["|r|"][0, 0] == -1
    assert all(score.shape == pairs.known.shape for score in scores.values())
    assert scores["target mean"][3].tolist() == pytest.approx(covariates.mean.tolist())
