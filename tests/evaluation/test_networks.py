import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from geneformer_grn.evaluation.networks import (
    compare,
    judged_pairs,
    lay_out,
    regulator_copies,
    resampled,
    score_signs,
    score_strengths,
)
from geneformer_grn.evaluation.null_networks import against_random_networks, random_networks
from geneformer_grn.metrics import early_precision_ratio
from geneformer_grn.network.truth import truth_of


def a_truth(edges, name="truth"):
    """Return a truth; single letters would be symbols, so tests write genes as "_a"."""
    rows = [edge if len(edge) == 3 else (*edge, 0) for edge in edges]
    return truth_of(pd.DataFrame(rows, columns=["source", "target", "sign"]), name=name)


@pytest.fixture(scope="module")
def many():
    """25 regulators × 40 targets, a fifth of the pairs known; scores that know a little, with many ties."""
    rng = np.random.default_rng(0)
    regulators = [f"r{number:02}" for number in range(25)]
    targets = [*regulators[:5], *(f"t{number:02}" for number in range(35))]
    known = rng.random((25, 40)) < 0.2
    truth = a_truth([(regulators[i], targets[j]) for i, j in zip(*np.nonzero(known), strict=True)])
    pairs = judged_pairs(regulators, targets, truth)
    strength = np.round(rng.random(pairs.known.shape) + 0.3 * pairs.known, 1)
    return pairs, strength


def test_only_genes_that_both_sides_know_are_judged():
    truth = a_truth([("_a", "_x"), ("_b", "_y"), ("_c", "_x"), ("_a", "_b")])
    pairs = judged_pairs(["_a", "_b", "elsewhere"], ["_x", "_b", "_z"], truth)
    assert pairs.regulators.tolist() == ["_a", "_b"]
    assert pairs.targets.tolist() == ["_b", "_x"]
    assert pairs.known.tolist() == [[True, True], [False, False]]
    assert pairs.judged.tolist() == [[True, True], [False, True]]
    assert pairs.density == pytest.approx(2 / 3)


def test_pairs_that_are_not_in_the_table_tie_for_the_last_place():
    truth = a_truth([("_a", "_x"), ("_a", "_y"), ("_b", "_z")])
    pairs = judged_pairs(["_a", "_b"], ["_x", "_y", "_z"], truth)
    edges = pd.DataFrame({"source": ["_a", "_b"], "target": ["_x", "_x"], "weight": [-2.0, 1.0]})
    strength, sign = lay_out(edges, pairs)
    assert strength.tolist() == [[2, -1, -1], [1, -1, -1]]
    assert sign.tolist() == [[-1, 0, 0], [1, 0, 0]]
    found = score_strengths(strength, pairs)
    labels = [1, 1, 0, 0, 0, 1]
    scores = [2, 0, 0, 1, 0, 0]
    assert found["auprc"] == pytest.approx(average_precision_score(labels, scores))
    assert found["auroc"] == pytest.approx(roc_auc_score(labels, scores))
    # of the top three: one true, one false, and one of four tied, two of which are true
    assert found["epr"] == pytest.approx((1 + 2 / 4) / 3 / (3 / 6))
    assert "auprc_low" not in found  # two regulators give no interval


def test_resamples_are_those_of_pairs_written_out(many):
    pairs, strength = many
    copies = regulator_copies(len(pairs.regulators), seed=3, n=5)
    found = resampled(strength, pairs, seed=3, n=5)
    for number, times in enumerate(copies):
        rows = np.repeat(np.arange(len(times)), times)
        judged = pairs.judged[rows]
        labels, scores = pairs.known[rows][judged], strength[rows][judged]
        assert found["auprc"][number] == pytest.approx(average_precision_score(labels, scores))
        assert found["auroc"][number] == pytest.approx(roc_auc_score(labels, scores))
        assert found["auprc_ratio"][number] == pytest.approx(found["auprc"][number] / labels.mean())
        assert found["epr"][number] == pytest.approx(early_precision_ratio(labels, scores))


def test_intervals_hold_the_score_and_paired_ones_are_narrower(many):
    pairs, strength = many
    found = score_strengths(strength, pairs)
    assert found["auprc_ratio_low"] < found["auprc_ratio"] < found["auprc_ratio_high"]
    noisy = strength + 0.01 * np.random.default_rng(1).random(strength.shape)
    paired = compare(strength, noisy, pairs)["auprc_ratio"]
    assert paired["low"] <= paired["difference"] <= paired["high"]
    assert paired["high"] - paired["low"] < found["auprc_ratio_high"] - found["auprc_ratio_low"]
    assert compare(strength, strength, pairs)["epr"] == {"difference": 0, "low": 0, "high": 0}


def test_signs_and_directions():
    truth = a_truth([("_a", "_b", 1), ("_a", "_c", -1), ("_c", "_b", 1), ("_b", "_c", 0), ("_c", "_a", 1)])
    pairs = judged_pairs(["_a", "_b", "_c"], ["_a", "_b", "_c"], truth)
    edges = pd.DataFrame(
        [("_a", "_b", 3.0), ("_b", "_a", -1.0), ("_a", "_c", 2.0), ("_c", "_a", 2.0)],
        columns=["source", "target", "weight"],
    )
    found = score_signs(*lay_out(edges, pairs), pairs)
    # signs known on both sides: a→b right, a→c wrong, c→a right
    assert (found["n_signed"], found["sign_accuracy"]) == (3, pytest.approx(2 / 3))
    assert found["sign_majority"] == pytest.approx(2 / 3)
    # one way only: a→b (stronger than b→a); b↔c and a↔c are known both ways
    assert (found["n_directed"], found["direction_accuracy"]) == (1, 1.0)


def test_random_networks_keep_all_degrees_and_forget_the_edges(many):
    pairs, strength = many
    networks = random_networks(pairs, n=20, seed=0)
    known = pairs.known & pairs.judged
    for network in networks:
        np.testing.assert_array_equal(network.sum(axis=0), known.sum(axis=0))
        np.testing.assert_array_equal(network.sum(axis=1), known.sum(axis=1))
        assert not (network & ~pairs.judged).any()
    kept = (networks & known).sum(axis=(1, 2)) / known.sum()
    assert kept.mean() < 2 * pairs.density
    found = against_random_networks(strength, pairs, networks)
    assert found["p_value"] == pytest.approx(1 / 21)
    assert found["auprc_ratio_mean"] == pytest.approx(1, abs=0.25)
    popular = np.broadcast_to(known.sum(axis=0).astype(float), known.shape)
    assert against_random_networks(popular, pairs, networks)["p_value"] > 0.05


@pytest.mark.parametrize(
    ("regulators", "targets", "message"),
    [
        (["_q"], ["_x"], "none of 1 regulators scored is a regulator in here"),
        (["_a"], ["_q"], "none of 1 targets"),
        (["_b"], ["_x"], "no pair is a known edge"),
        (["_a"], ["_x"], "every pair is a known edge"),
    ],
)
def test_nothing_to_tell_apart_is_refused(regulators, targets, message):
    with pytest.raises(ValueError, match=message):
        judged_pairs(regulators, targets, a_truth([("_a", "_x"), ("_b", "_y")], name="here"))
