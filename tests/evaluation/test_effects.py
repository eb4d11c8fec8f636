"""Score cards of effects against scikit-learn, brute force and cases made by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from geneformer_grn.evaluation.effects import (
    Measured,
    Trial,
    can_be_scored,
    contributions,
    make_trial,
    mean_with_interval,
    nearest_rivals,
    score_card,
)


def trial_of(gene="G", n=60, seed=0, signal=0.0) -> Trial:
    generator = np.random.default_rng(seed)
    responds = np.arange(n) < n // 3
    effect = np.where(responds, generator.choice([-1.0, 1.0], n), generator.normal(0, 0.1, n))
    strength = {"ours": generator.integers(0, 9, n) + signal * responds, "noise": generator.random(n)}
    direction = {"ours": effect + generator.normal(size=n), "flat": np.zeros(n)}
    return Trial(
        gene=gene,
        group="all",
        effect=effect,
        responds=responds,
        traits=generator.random((n, 2)),
        strength=pd.DataFrame(strength),
        direction=pd.DataFrame(direction),
    )


def test_all_genes_is_scikit_learns_auroc_and_signs_are_counted():
    trial = trial_of()
    found = contributions(trial)
    for name in ("ours", "noise"):
        expected = roc_auc_score(trial.responds, trial.strength[name])
        assert found["all_genes"][name].mean() == pytest.approx(expected, abs=1e-12)
    moved = trial.responds
    scores = trial.direction["ours"].to_numpy()[moved]
    assert found["sign_agreement"]["ours"].mean() == np.mean((scores > 0) == (trial.effect[moved] > 0))
    assert (found["sign_agreement"]["flat"] == 0.5).all()
    expected = roc_auc_score(trial.effect[moved] > 0, scores)
    assert found["up_over_down"]["ours"].mean() == pytest.approx(expected, abs=1e-12)
    assert found["up_over_down"]["flat"].mean() == 0.5


def test_matched_genes_are_the_nearest_that_did_not_respond_as_many_above_as_below():
    generator = np.random.default_rng(3)
    traits, responds = generator.random((80, 2)), generator.random(80) < 0.4
    traits[:, 0] = traits[:, 0].round(1)  # genes that are level in it
    rivals, chosen = nearest_rivals(traits, responds, 6, caliper=0.3)
    sizes = []
    for row, near, counted in zip(np.flatnonzero(responds), rivals, chosen, strict=True):
        others = [
            other for other in np.flatnonzero(~responds) if np.abs(traits[other] - traits[row]).sum() <= 0.3
        ]
        others.sort(key=lambda other: np.abs(traits[other] - traits[row]).sum())
        below = [other for other in others if traits[other, 0] < traits[row, 0]]
        above = [other for other in others if traits[other, 0] > traits[row, 0]]
        each = min(3, len(below), len(above))
        level = [other for other in others if traits[other, 0] == traits[row, 0]]
        assert set(near[counted]) == {*below[:each], *above[:each], *level[:6]}
        sizes.append(each)
    assert {0, 3} <= set(sizes)


def test_what_only_follows_expression_is_chance_among_matched_genes():
    """Responders are the highly expressed: expression finds them among all genes, and not among equals."""
    generator = np.random.default_rng(4)
    expression = generator.random(3000)
    responds = generator.random(3000) < expression**2
    scores = pd.DataFrame({"mean_expression": expression, "truth": responds + generator.normal(0, 0.3, 3000)})
    trial = Trial(
        gene="G", group="all", effect=np.where(responds, 1.0, 0.0), responds=responds,
        traits=pd.DataFrame(expression).rank(pct=True).to_numpy(), strength=scores,
        direction=pd.DataFrame(index=scores.index),
    )  # fmt: skip
    card = score_card([trial], ours=["truth"])
    assert card["strength"]["mean_expression"]["all_genes"]["mean"] > 0.7
    assert card["strength"]["mean_expression"]["matched"]["mean"] == pytest.approx(0.5, abs=0.02)
    assert card["strength"]["truth"]["matched"]["mean"] > 0.9
    ahead = card["ahead_of"]["matched"]["truth"]["mean_expression"]
    assert 0.3 < ahead["low"] < ahead["mean"] < ahead["high"]
    assert card["direction"] == {}
    assert card["unit"].startswith("responders")


def test_responders_without_an_equal_do_not_count_as_matched():
    trial = trial_of(n=12)
    traits = np.where(trial.responds, 0.0, 1.0)[:, None]
    traits[0] = 1.0  # one responder has equals
    found = contributions(Trial(**{**vars(trial), "traits": traits}))
    assert len(found["matched"]["ours"]) == 1
    assert len(found["all_genes"]["ours"]) == 4


def test_perturbed_genes_count_alike_and_are_the_unit():
    trials = [trial_of("A", seed=1, signal=5), trial_of("A", seed=2, signal=5), trial_of("B", seed=3, n=90)]
    card = score_card(trials, ours=["ours"], seed=5)
    by_trial = [contributions(trial)["all_genes"]["ours"].mean() for trial in trials]
    expected = (np.mean(by_trial[:2]) + by_trial[2]) / 2
    found = card["strength"]["ours"]["all_genes"]
    assert found["mean"] == pytest.approx(expected)
    assert found["low"] < found["mean"] < found["high"]
    assert card["n_perturbed_genes"] == 2
    assert card["n_trials"] == 3
    assert card["n_responders"] == 70
    moved = np.concatenate([trial.effect[trial.responds] for trial in trials])
    assert card["share_up"] == np.mean(moved > 0) != 0.5
    assert card["unit"] == "perturbed genes"
    ahead = card["ahead_of"]["matched"]["ours"]
    assert set(ahead) == {"noise"}
    matched = {name: card["strength"][name]["matched"]["mean"] for name in ("ours", "noise")}
    assert ahead["noise"]["mean"] == pytest.approx(matched["ours"] - matched["noise"])
    trials[2].strength["late"] = 1.0
    assert "late" not in score_card(trials, ours=["ours"])["strength"]
    with pytest.raises(ValueError, match="no measured perturbation"):
        score_card([], ours=[])


def test_trials_without_a_value_do_not_count():
    values = [np.array([0.2, 0.4]), np.empty(0), np.array([np.nan])]
    found = mean_with_interval(values, np.array(["A", "B", "C"], dtype=object), seed=0)
    assert found["mean"] == pytest.approx(0.3)
    nothing = mean_with_interval(values[1:], np.array(["B", "C"], dtype=object), seed=0)
    assert np.isnan(list(nothing.values())).all()


def test_a_trial_holds_genes_that_all_methods_score_and_not_the_perturbed_one():
    measured = Measured(
        gene="b+d",
        affected=np.array(list("abcdefg"), dtype=object),
        effect=np.array([1.0, 9.0, -1.0, 9.0, np.nan, 0.5, 0.1]),
        responds=np.array([True, True, True, True, False, False, False]),
    )
    strength = pd.DataFrame({"x": [3.0, 1.0, 2.0, 5.0, np.nan]}, index=list("fagcb"))
    traits = pd.DataFrame({"level": np.arange(7.0)}, index=list("gfedcba"))
    direction = pd.DataFrame({"y": [1.0, 2.0, -3.0]}, index=list("acf"))
    trial = make_trial(measured, strength, direction, traits, group="T")
    assert trial.strength.index.tolist() == ["a", "c", "f"]
    assert trial.strength["x"].tolist() == [1.0, 5.0, 3.0]
    assert trial.direction["y"].tolist() == [1.0, 2.0, -3.0]
    assert trial.effect.tolist() == [1.0, -1.0, 0.5]
    assert trial.traits.ravel().tolist() == pytest.approx([1.0, 2 / 3, 1 / 3])
    assert not can_be_scored(trial, min_responders=2)
    assert can_be_scored(trial, min_responders=1)
