"""evaluate effects: the three forms of truth give the same measured responses, and nothing is misread."""

from __future__ import annotations

import json
from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import roc_auc_score

from geneformer_grn.cells.counts import ReadSettings, log_normalised, read_counts
from geneformer_grn.evaluation.responders import differential_expression
from geneformer_grn.genes.vocabulary import VocabularyMismatchError
from geneformer_grn.workflows.effect_names import perturbed_genes
from geneformer_grn.workflows.effect_truth import TruthSettings, read_effect_truth
from geneformer_grn.workflows.evaluate_effects import (
    EvaluateEffectsSettings,
    effects_text,
    evaluate_effects,
)

N = 60


@pytest.fixture(scope="module")
def genes(tiny_vocabulary):
    return tiny_vocabulary.ensembl_ids[tiny_vocabulary.n_special :].astype(str)


@pytest.fixture(scope="module")
def screen(genes):
    """90 cells: 30 controls, 30 where gene 0 and 30 where gene 1 was perturbed, ten genes following each."""
    generator = np.random.default_rng(0)
    rates = np.tile(generator.gamma(2.0, 3.0, N), (90, 1))
    rates[30:60, 10:20] *= 5
    rates[60:, 30:40] /= 6
    obs = pd.DataFrame(
        {
            "target": np.repeat(["non-targeting", "GENE1", "GENE2"], 30),
            "quality": np.tile([1.0, 0.0, 1.0], 30),
        },
        index=[f"c{i}" for i in range(90)],
    )
    counts = sparse.csr_matrix(generator.poisson(rates).astype(np.float32))
    return anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=pd.Index(genes)))


@pytest.fixture
def screen_file(screen, tmp_path):
    path = tmp_path / "screen.h5ad"
    screen.write_h5ad(path)
    return path


@pytest.fixture
def run(genes, tmp_path):
    """A run's folder in which the readout expression knows both genes' responders, and genes that of one."""
    generator = np.random.default_rng(1)
    parts = []
    for number, members in ((0, range(10, 20)), (1, range(30, 40))):
        follows = np.isin(np.arange(N), list(members))
        delta = generator.normal(0, 0.1, N) + np.where(follows, 1.0 if number == 0 else -1.0, 0.0)
        parts.append(
            pd.DataFrame(
                {
                    "gene": genes[number], "affected": genes, "kind": "knockout", "group": "all",
                    "delta_nats": delta, "delta_nats_sd": 0.1, "delta_rank": delta, "n_cells": 20,
                    "shift": np.abs(delta) if number == 0 else generator.random(N),
                }
            )
        )  # fmt: skip
    table = pd.concat(parts, ignore_index=True)
    folder = tmp_path / "run"
    folder.mkdir()
    table.drop(columns="shift").to_parquet(folder / "expression.parquet")
    table[["gene", "affected", "kind", "group", "shift", "n_cells"]].to_parquet(
        folder / "gene_shifts.parquet"
    )
    effects = pd.DataFrame({"gene": genes[:2], "readout": "cell", "shift": [0.2, 0.1]})
    effects.to_parquet(folder / "effects.parquet")
    note(folder)
    return folder


def note(folder, readouts="cell,expression,genes", **more):
    """Write the parameters of a run into its folder."""
    record = {"model": "elsewhere", "file": "cells.h5ad", "found": {"readouts": readouts}, **more}
    (folder / "parameters.json").write_text(json.dumps(record))


@pytest.fixture
def settings(tiny_checkpoint):
    # raising some genes lowers the share of all others, which respond too, but less
    return EvaluateEffectsSettings(truth=TruthSettings(min_effect=0.9), model=str(tiny_checkpoint))


def truth_table(screen, vocabulary) -> pd.DataFrame:
    expression = log_normalised(read_counts(screen, vocabulary))
    target, parts = screen.obs["target"].to_numpy(), []
    for name in ("GENE1", "GENE2"):
        effect, q_value = differential_expression(
            expression[target == name], expression[target == "non-targeting"]
        )
        parts.append(
            pd.DataFrame({"gene": name, "affected": screen.var_names, "effect": effect, "q_value": q_value})
        )
    return pd.concat(parts, ignore_index=True)


def same(left, right) -> None:
    assert [one.gene for one in left] == [one.gene for one in right]
    for one, other in zip(left, right, strict=True):
        columns = pd.DataFrame({"effect": one.effect, "responds": one.responds}, one.affected).sort_index()
        expected = pd.DataFrame({"effect": other.effect, "responds": other.responds}, other.affected)
        pd.testing.assert_frame_equal(columns, expected.sort_index())


def test_three_forms_of_the_same_truth(screen, screen_file, tiny_vocabulary, tmp_path):
    cells = read_effect_truth(screen_file, tiny_vocabulary)
    assert len(cells.controls) == 30
    assert cells.facts["control"] == "non-targeting"
    table = truth_table(screen, tiny_vocabulary)
    for name in ("truth.tsv", "truth.csv.gz", "truth.parquet"):
        path = tmp_path / name
        if name.endswith("parquet"):
            table.to_parquet(path)
        else:
            table.to_csv(path, index=False, sep="," if "csv" in name else "\t")
        same(read_effect_truth(path, tiny_vocabulary).measured, cells.measured)
    effect = table.pivot_table(index="gene", columns="affected", values="effect")
    q_value = table.pivot_table(index="gene", columns="affected", values="q_value")
    contrasts = anndata.AnnData(
        effect.to_numpy(),
        obs=pd.DataFrame({"ko_gene": [*effect.index]}, index=["a", "b"]),
        var=pd.DataFrame(index=effect.columns),
        layers={"padj": q_value.to_numpy(), "tested": np.ones(effect.shape)},
    )
    contrasts.write_h5ad(tmp_path / "contrasts.h5ad")
    same(read_effect_truth(tmp_path / "contrasts.h5ad", tiny_vocabulary).measured, cells.measured)
    contrasts.layers["tested"][:, :25] = 0
    contrasts.write_h5ad(tmp_path / "contrasts.h5ad")
    where = TruthSettings(read=ReadSettings(where="ko_gene == 'GENE2'"))
    (one,) = read_effect_truth(tmp_path / "contrasts.h5ad", tiny_vocabulary, where).measured
    assert one.affected.tolist() == effect.columns[25:].tolist()


def test_targets_are_found_by_symbol_also_where_files_need_ids(tiny_vocabulary):
    """As in the oldest published vocabulary, whose own mapping holds no symbol."""
    vocabulary = replace(tiny_vocabulary, aliases={})
    first, second = vocabulary.ensembl_ids[vocabulary.n_special + np.array([2, 3])]
    names = ["GENE3", "non-targeting", "gene3", first, "GENE4+gene3", "GENE3+NoGene"]
    found, n_unknown = perturbed_genes(names, vocabulary, "truth.h5ad")
    assert found == [first, None, first, first, "+".join(sorted([first, second])), None]
    assert n_unknown == 2


def test_what_a_responder_is_can_be_chosen(screen_file, tiny_vocabulary):
    loose = read_effect_truth(screen_file, tiny_vocabulary).measured[0]
    strict = read_effect_truth(screen_file, tiny_vocabulary, TruthSettings(min_effect=0.8)).measured[0]
    assert (strict.responds == (loose.responds & (np.abs(loose.effect) >= 0.8))).all()
    assert 0 < strict.responds.sum() < loose.responds.sum()
    few = TruthSettings(read=ReadSettings(where="quality > 0"), min_cells=20)
    assert len(read_effect_truth(screen_file, tiny_vocabulary, few).controls) == 20
    with pytest.raises(ValueError, match="FDR lies between"):
        TruthSettings(fdr=0)


def test_a_run_that_knows_the_responders_wins_and_the_file_says_so(run, screen_file, settings, tmp_path):
    out = tmp_path / "results.json"
    results = evaluate_effects(run, screen_file, settings, out=out)
    card = results["cards"]["knockout"]
    assert card["n_perturbed_genes"] == 2
    strength = card["strength"]
    assert strength["delta_nats"]["all_genes"]["mean"] > 0.8
    assert strength["gene_shift"]["all_genes"]["mean"] < strength["delta_nats"]["all_genes"]["mean"]
    assert {
        "coexpression",
        "ridge",
        "mean_expression",
        "variance",
        "detection",
        "other_perturbations",
    } <= set(strength)
    assert card["direction"]["delta_rank"]["sign_agreement"]["mean"] > 0.8
    assert card["ahead_of"]["matched"]["delta_nats"]["detection"]["low"] > 0
    assert results["caveats"] == []
    assert results["sizes"]["n_perturbed_genes"] == 2
    written = json.loads(out.read_text(), parse_constant=pytest.fail)
    assert written["cards"]["knockout"]["n_responders"] == card["n_responders"]
    assert str(tmp_path.parent) not in out.read_text()
    text = effects_text(results)
    assert f"{strength['delta_nats']['matched']['mean']:.3f}" in text
    assert text.index("expression, nats") < text.index("| detection")


def test_all_genes_agrees_with_scikit_learn_on_the_files(run, screen, screen_file, settings, tiny_vocabulary):
    measured = read_effect_truth(screen_file, tiny_vocabulary, settings.truth).measured
    table = pd.read_parquet(run / "expression.parquet")
    expected = []
    for one in measured:
        kept = one.affected != one.gene
        scores = table[table["gene"] == one.gene].set_index("affected")["delta_rank"].abs()
        expected.append(roc_auc_score(one.responds[kept], scores.loc[one.affected[kept]]))
    card = evaluate_effects(run, screen_file, settings)["cards"]["knockout"]
    assert card["strength"]["delta_rank"]["all_genes"]["mean"] == pytest.approx(np.mean(expected))


def test_without_cells_the_results_say_what_is_missing(
    run, screen, screen_file, settings, tiny_vocabulary, tmp_path
):
    path = tmp_path / "truth.tsv"
    truth_table(screen, tiny_vocabulary).to_csv(path, sep="\t", index=False)
    results = evaluate_effects(run, path, settings)
    assert "--cells" in results["caveats"][0]
    assert "coexpression" not in results["cards"]["knockout"]["strength"]
    results = evaluate_effects(run, path, settings, cells=screen_file)
    assert "coexpression" in results["cards"]["knockout"]["strength"]
    assert "screen.h5ad" in results["caveats"][0]


def test_members_of_a_set_may_be_in_any_order(run, screen, settings, tiny_vocabulary, genes, tmp_path):
    table = pd.read_parquet(run / "expression.parquet")
    table["gene"] = f"{genes[1]}+{genes[0]}"
    table.drop_duplicates("affected").to_parquet(run / "expression.parquet")
    (run / "gene_shifts.parquet").unlink()
    truth = truth_table(screen, tiny_vocabulary).iloc[:N].assign(gene="GENE1+GENE2")
    truth.to_csv(tmp_path / "truth.tsv", sep="\t", index=False)
    card = evaluate_effects(run, tmp_path / "truth.tsv", settings)["cards"]["knockout"]
    assert card["n_trials"] == 1


def bad_tables(table):
    yield table.drop(columns=["effect"]), "lacks the column effect"
    yield (
        table.assign(affected=[f"X{i}" for i in range(len(table))]),
        r"none of the 120 measured genes .* is known",
    )
    yield table.assign(gene="NOBODY"), r"no perturbation of truth\.tsv is of a known gene \(found: 'NOBODY'"
    yield table.assign(gene="GENE9"), "no gene was both perturbed and measured"
    yield table.assign(effect="high"), "must be numbers"
    yield table.drop(columns="q_value").assign(effect=1.0), "nothing to compare them with"
    yield table.assign(q_value=1.0), "lower --min-responders"


@pytest.mark.parametrize("case", range(7))
def test_bad_tables_are_refused_with_the_way_out(case, run, screen, settings, tiny_vocabulary, tmp_path):
    table, message = list(bad_tables(truth_table(screen, tiny_vocabulary)))[case]
    table.to_csv(tmp_path / "truth.tsv", sep="\t", index=False)
    with pytest.raises(ValueError, match=message):
        evaluate_effects(run, tmp_path / "truth.tsv", settings, out=tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_cells_without_controls_or_targets_are_refused(screen, tiny_vocabulary, tmp_path):
    path = tmp_path / "cells.h5ad"
    screen[30:].copy().write_h5ad(path)
    with pytest.raises(ValueError, match=r"no cells 'control' .*GENE1.*--control"):
        read_effect_truth(path, tiny_vocabulary)
    with pytest.raises(ValueError, match="no cells 'wild type'"):
        read_effect_truth(path, tiny_vocabulary, TruthSettings(control="wild type"))
    plain = screen.copy()
    plain.obs = plain.obs[["quality"]]
    plain.write_h5ad(path)
    with pytest.raises(ValueError, match=r"no obs column 'perturbation' .*quality.*--perturbation-column"):
        read_effect_truth(path, tiny_vocabulary)


def test_a_folder_that_is_no_run_is_refused(run, screen_file, settings, tmp_path):
    with pytest.raises(FileNotFoundError, match="give the folder that 'perturb --out' wrote"):
        evaluate_effects(tmp_path / "none", screen_file, settings)
    with pytest.raises(FileNotFoundError, match="no truth at"):
        evaluate_effects(run, tmp_path / "none.tsv", settings)
    with pytest.raises(FileNotFoundError, match=r"model 'elsewhere' that is not here.*--model"):
        evaluate_effects(run, screen_file)
    table = pd.read_parquet(run / "expression.parquet").drop(columns="delta_nats")
    table.to_parquet(run / "expression.parquet")
    with pytest.raises(ValueError, match=r"expression\.parquet of the run lacks the column delta_nats"):
        evaluate_effects(run, screen_file, settings)
    for name in ("expression.parquet", "gene_shifts.parquet"):
        (run / name).unlink()
    with pytest.raises(FileNotFoundError, match="--readout expression,genes"):
        evaluate_effects(run, screen_file, settings)


@pytest.mark.parametrize(
    ("readouts", "table"),
    [("cell,expression", "gene_shifts"), ("cell,genes", "expression"), ("cell", "expression")],
)
def test_a_table_of_another_run_is_refused(run, screen_file, settings, readouts, table):
    note(run, readouts)
    with pytest.raises(ValueError, match=f"{table}.parquet is not of the run .* readouts {readouts}; delete"):
        evaluate_effects(run, screen_file, settings)
    (run / "expression.parquet").unlink()
    if "genes" in readouts:
        evaluate_effects(run, screen_file, settings)  # with what is left, all of which is named


def test_a_run_of_another_vocabulary_is_refused(run, screen_file, settings, tiny_vocabulary):
    note(run, vocabulary_fingerprint="0123456789abcdef")
    with pytest.raises(VocabularyMismatchError) as refusal:
        evaluate_effects(run, screen_file, settings)
    assert "run was made with vocabulary 0123456789ab," in str(refusal.value)
    assert f"has {tiny_vocabulary.fingerprint[:12]}" in str(refusal.value)
    note(run, vocabulary_fingerprint=tiny_vocabulary.fingerprint)
    evaluate_effects(run, screen_file, settings)
