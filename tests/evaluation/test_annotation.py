"""Temperatures and the bar for the unknown, against closed forms and planted classes."""

import numpy as np
import pytest

from geneformer_grn.evaluation.calibration import fit_temperature, with_temperature
from geneformer_grn.evaluation.novelty import Looks, NoveltyRule, fit_novelty


def test_the_temperature_that_blurred_logits_is_found():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 4))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = (rng.random(len(true))[:, None] > np.cumsum(true, axis=1)).sum(axis=1)
    sharp = with_temperature(true, 1 / 3)  # three times too sure of itself
    assert fit_temperature(sharp, truth) == pytest.approx(3, rel=0.05)
    assert fit_temperature(true, truth) == pytest.approx(1, rel=0.05)


def test_a_temperature_keeps_order_and_sums():
    scores = np.array([[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]])
    found = with_temperature(scores, 2.0)
    roots = np.sqrt(scores[0])
    assert found[0] == pytest.approx(roots / roots.sum())
    assert found.sum(axis=1) == pytest.approx([1, 1])
    assert with_temperature(scores, 1.0) == pytest.approx(scores, abs=1e-9)
    assert fit_temperature(np.empty((0, 3)), np.empty(0, dtype=int)) == 1.0


def looks(rng, n, sure, far):
    return Looks(rng.beta(sure, 2, n), rng.lognormal(far, 0.2, n))


def test_the_bar_loses_the_share_asked_for_and_finds_what_is_far():
    rng = np.random.default_rng(1)
    known = looks(rng, 4000, 20, 0.0)
    left_out = {name: looks(rng, 300, 6, 1.0) for name in "abc"}
    rule, found = fit_novelty(known, left_out, share=0.05)
    assert rule.unknown(known).mean() == pytest.approx(0.05, abs=0.002)
    assert min(found.values()) > 0.9
    assert rule.unknown(looks(rng, 1000, 6, 1.0)).mean() > 0.9
    assert rule.unknown(looks(rng, 1000, 20, 0.0)).mean() == pytest.approx(0.05, abs=0.02)


def test_left_out_shares_are_told_by_rules_that_did_not_see_the_class():
    rng = np.random.default_rng(2)
    known = looks(rng, 2000, 20, 0.0)
    left_out = {
        "near": looks(rng, 400, 20, 0.0),
        "far": looks(rng, 400, 20, 1.0),
        "unsure": looks(rng, 400, 1, 0),
    }
    _, found = fit_novelty(known, left_out, share=0.05)
    assert found["near"] < 0.1
    alone, _ = fit_novelty(known, {k: v for k, v in left_out.items() if k != "far"}, share=0.05)
    assert found["far"] == pytest.approx(alone.unknown(left_out["far"]).mean())


def test_with_too_few_classes_to_leave_out_distance_decides():
    rng = np.random.default_rng(3)
    known = looks(rng, 1000, 20, 0.0)
    rule, found = fit_novelty(known, {}, share=0.1)
    assert rule.weights == (0.0, 1.0)
    assert found == {}
    assert rule.bar == pytest.approx(np.quantile(np.log(known.distance), 0.9))


def test_surer_or_nearer_is_never_stranger():
    rng = np.random.default_rng(4)
    odd = {name: looks(rng, 300, 60, -1.0) for name in "ab"}  # strangers that look surer and nearer
    rule, _ = fit_novelty(looks(rng, 1000, 5, 0.0), odd, share=0.05)
    assert min(rule.weights) >= 0
    assert NoveltyRule((1.0, 1.0), 0.0).score(Looks(np.array([0.5]), np.array([1.0])))[0] == pytest.approx(0)
