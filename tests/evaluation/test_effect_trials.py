"""From a run's tables to trials: readouts, baselines and measured responses to other perturbations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.linear_model import Ridge

from geneformer_grn.evaluation.effect_baselines import baselines_of, other_perturbations
from geneformer_grn.evaluation.effect_trials import (
    COMBINED,
    Rivals,
    TrialSettings,
    cards_of,
    predictions_of,
    rivals_of,
    trials_of,
    with_untrained,
)
from geneformer_grn.evaluation.effects import Measured
from geneformer_grn.evaluation.responders import differential_expression

GENES = np.array([f"g{i}" for i in range(40)], dtype=object)


@pytest.fixture(scope="module")
def expression():
    generator = np.random.default_rng(0)
    values = generator.poisson(generator.gamma(1.0, 1.0, 40), size=(120, 40)).astype(np.float32)
    values[:, 5] = 2 * values[:, 0]
    values[:, 7] = 0
    return sparse.csr_matrix(np.log1p(values))


def measured_of(gene, seed=0, group=""):
    generator = np.random.default_rng(seed)
    responds = generator.random(40) < 0.4
    return Measured(
        gene=gene, affected=GENES, effect=generator.normal(size=40), responds=responds, group=group
    )


def tables(genes=("g0", "g1"), groups=("all",), seed=0):
    generator = np.random.default_rng(seed)
    rows = pd.MultiIndex.from_product([genes, groups, GENES], names=["gene", "group", "affected"])
    frame = rows.to_frame(index=False).assign(kind="delete", n_cells=generator.integers(1, 30, len(rows)))
    expression = frame.assign(
        delta_nats=generator.normal(size=len(rows)),
        delta_nats_sd=generator.random(len(rows)),
        delta_rank=generator.normal(size=len(rows)),
    )
    shifts = frame.assign(shift=generator.random(len(rows)), signed_shift=generator.normal(size=len(rows)))
    shifts.loc[shifts["affected"] == "g9", "signed_shift"] = np.nan
    return expression, shifts


def test_baselines_are_numpys_and_scikit_learns(expression):
    dense = expression.toarray().astype(np.float64)
    found = baselines_of(expression, GENES, ["g0", "g3", "unknown"])
    np.testing.assert_allclose(found.genes["mean_expression"], dense.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.genes["variance"], dense.var(axis=0), rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(found.genes["detection"], (dense > 0).mean(axis=0))
    varying = dense.std(axis=0) > 0
    expected = np.corrcoef(dense[:, varying].T)[0]
    np.testing.assert_allclose(found.pairs["coexpression"].loc["g0"][varying], expected, atol=1e-6)
    assert found.pairs["coexpression"].loc["g0", "g7"] == 0.0
    standard = (dense - dense.mean(axis=0)) / np.where(varying, dense.std(axis=0), 1.0)
    errors = []
    for penalty in 10.0 ** np.arange(-2.0, 2.25, 0.5):
        fitted = Ridge(alpha=penalty * 120, fit_intercept=False).fit(standard[:, [0, 3]], standard[:, 10])
        errors.append(np.abs(fitted.coef_ - found.pairs["ridge"].loc[["g0", "g3"], "g10"]).max())
    assert min(errors) < 1e-5
    strength = found.strength("g0")
    assert strength.loc["g5", "coexpression"] == pytest.approx(
        np.corrcoef(dense[:, 0], dense[:, 5])[0, 1], abs=1e-6
    )
    assert (found.direction("g0", "knockout")["coexpression"] == -found.pairs["coexpression"].loc["g0"]).all()
    assert (found.direction("g0", "activate")["coexpression"] == found.pairs["coexpression"].loc["g0"]).all()
    assert (found.strength("unknown")["coexpression"] == 0.0).all()
    both = found.pairs["coexpression"].loc[["g0", "g3"]].mean()
    np.testing.assert_allclose(found.direction("g0+g3", "delete")["coexpression"], -both)


def test_other_perturbations_leave_the_gene_itself_out_and_count_genes_alike():
    first, again, second = measured_of("g1", 1), measured_of("g1", 2), measured_of("g2", 3)
    third = Measured(gene="g3", affected=GENES[:10], effect=np.ones(10), responds=np.ones(10, dtype=bool))
    share, effect = other_perturbations([first, again, second, third])
    of_g1 = (first.responds.astype(float) + again.responds) / 2
    expected = (of_g1[:10] + second.responds[:10]) / 2
    np.testing.assert_allclose(share.loc["g3", GENES[:10]], expected)
    np.testing.assert_allclose(share.loc["g2", GENES[20:]], of_g1[20:])
    np.testing.assert_allclose(effect.loc["g1", GENES[20:]], second.effect[20:])
    np.testing.assert_allclose(effect.loc["g2", GENES[:10]], ((first.effect + again.effect)[:10] / 2 + 1) / 2)


def test_readouts_of_a_run():
    expression, shifts = tables()
    found = predictions_of(expression, shifts)
    assert [(one.gene, one.kind, one.group) for one in found] == [
        ("g0", "delete", "all"),
        ("g1", "delete", "all"),
    ]
    rows = expression[expression["gene"] == "g1"].set_index("affected")
    one = found[1]
    np.testing.assert_allclose(one.strength["delta_nats"], rows["delta_nats"].abs())
    np.testing.assert_allclose(one.direction["delta_rank"], rows["delta_rank"])
    variance = rows["delta_nats_sd"] ** 2
    error = np.sqrt((variance + variance.median()) / rows["n_cells"])
    np.testing.assert_allclose(one.strength["delta_nats_moderated"], rows["delta_nats"].abs() / error)
    assert one.strength.loc["g9", "signed_shift"] == 0.0  # a gene without an axis says nothing
    assert list(predictions_of(None, shifts)[0].strength) == ["gene_shift", "signed_shift"]
    plain = expression.drop(columns=["delta_nats_sd", "delta_rank"])
    assert list(predictions_of(plain, None)[0].strength) == ["delta_nats"]


def test_what_all_perturbations_do_is_taken_off():
    expression, _ = tables(genes=("g0", "g1", "g2"))
    expression = expression[(expression["gene"] != "g2") | (expression["affected"] != "g4")]
    table = expression.pivot_table(index="affected", columns="gene", values="delta_rank")
    first, second, third = predictions_of(expression, None)
    expected = table["g0"] - table[["g1", "g2"]].mean(axis=1)
    found = first.direction["delta_rank_specific"]
    np.testing.assert_allclose(found, expected.loc[found.index], atol=1e-12)
    np.testing.assert_allclose(first.strength["delta_rank_specific"], found.abs())
    alone = table.loc["g4", "g1"] - table.loc["g4", "g0"]
    assert second.direction.loc["g4", "delta_rank_specific"] == pytest.approx(alone)
    assert len(third.strength) == 39


def test_cards_hold_every_contestant_on_the_same_genes(expression):
    measured = [measured_of("g0", 4), measured_of("g1", 5), measured_of("g2", 6)]
    predictions = with_untrained(predictions_of(*tables()), predictions_of(*tables(seed=9)))
    rivals = rivals_of(measured, {"": baselines_of(expression, GENES, ["g0", "g1"])})
    (card,) = cards_of(predictions, measured, rivals).values()
    names = {
        "delta_nats", "delta_nats_moderated", "delta_rank", "gene_shift", "signed_shift", COMBINED,
        "coexpression", "coexpression_signed", "ridge", "mean_expression", "variance", "detection",
        "other_perturbations", *(f"untrained_{name}" for name in predictions_of(*tables())[0].strength),
    }  # fmt: skip
    assert set(card["strength"]) == names
    assert card["n_perturbed_genes"] == 2
    assert card["n_genes"] == 39
    assert set(card["ahead_of"]["matched"]) == {
        name for name in card["strength"] if name.startswith(("delta", "gene_s", "signed"))
    }
    assert "untrained_delta_nats" in card["ahead_of"]["matched"]["delta_nats"]


def test_groups_meet_their_own_truth_and_their_own_cells(expression):
    predictions = predictions_of(*tables(genes=("g0",), groups=("T", "B")))
    measured = [measured_of("g0", 1, group="T"), measured_of("g0", 2, group="NK")]
    half = baselines_of(expression[:60], GENES, ["g0"])
    trials = trials_of(
        predictions, measured, Rivals(cells={"T": half, "": baselines_of(expression, GENES, ["g0"])})
    )
    assert [trial.group for trial in trials] == ["T"]
    kept = half.genes.loc[trials[0].strength.index, "variance"]
    np.testing.assert_allclose(trials[0].strength["variance"], kept)


def test_without_cells_genes_are_matched_on_the_cells_that_hold_them():
    predictions = predictions_of(*tables(genes=("g0",)))
    (trial,) = trials_of(predictions, [measured_of("g0")], Rivals())
    held = predictions[0].n_cells.loc[trial.strength.index]
    np.testing.assert_allclose(trial.traits[:, 0], held.rank(pct=True))
    assert "coexpression" not in trial.strength


def test_nothing_to_score_is_said():
    predictions = predictions_of(*tables(genes=("g0",)))
    with pytest.raises(
        ValueError, match=r"no gene was both perturbed and measured: g0 perturbed, g5 measured"
    ):
        cards_of(predictions, [measured_of("g5")], Rivals())
    with pytest.raises(ValueError, match="has 39 responders"):
        cards_of(predictions, [measured_of("g0")], Rivals(), TrialSettings(min_responders=39))


def test_differential_expression_equals_scanpys_wilcoxon(expression):
    import anndata
    import scanpy

    treated, control = expression[:50], expression[50:]
    effect, q_value = differential_expression(treated, control)
    np.testing.assert_allclose(effect, treated.toarray().mean(0) - control.toarray().mean(0), atol=1e-5)
    assert np.isnan(q_value[7])
    kept = np.delete(np.arange(40), 7)
    labels = pd.Categorical(np.where(np.arange(120) < 50, "t", "c"))
    cells = anndata.AnnData(
        expression[:, kept], obs=pd.DataFrame({"label": labels}, index=[str(i) for i in range(120)])
    )
    cells.var_names = GENES[kept].astype(str)
    scanpy.tl.rank_genes_groups(
        cells, "label", groups=["t"], reference="c", method="wilcoxon", tie_correct=True
    )
    found = cells.uns["rank_genes_groups"]
    expected = pd.Series(found["pvals_adj"]["t"], index=found["names"]["t"]).loc[GENES[kept]]
    # scipy corrects for continuity, scanpy does not
    np.testing.assert_allclose(q_value[kept], expected, atol=0.02)
    with pytest.raises(ValueError, match="0 treated and 70 control"):
        differential_expression(treated[:0], control)
