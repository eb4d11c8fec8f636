"""The screen against perturb: what it runs is equal, what it counts adds up, what it has not it refuses."""

import logging

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.cells.counts import ReadSettings, read_counts
from geneformer_grn.workflows.perturb import perturb_counts
from geneformer_grn.workflows.perturb_options import PerturbOptions
from geneformer_grn.workflows.screen import ScreenOptions, screen_counts
from geneformer_grn.workflows.screen_report import recall_facts, tell

KEYS = ["gene", "group", "readout", "state"]


@pytest.fixture(scope="module")
def counts(tiny_adata, tiny_encoder):
    adata = tiny_adata[np.r_[0:8, 40:48]].copy()
    return read_counts(adata, tiny_encoder.vocabulary, ReadSettings())


def asked(**more):
    return PerturbOptions(**{"genes": "all", "kind": "knockout", "n_null": 0, "groups": "cell_type", **more})


def screened(encoder, counts, *, share=0.2, audit=0.2, least_saving=0.0, **more):
    options = ScreenOptions(
        perturb=asked(**more), share=share, audit=audit, effort=0.4, least_saving=least_saving
    )
    return screen_counts(encoder, counts, options)


@pytest.fixture(scope="module")
def found(tiny_encoder, counts):
    return screened(tiny_encoder, counts)


@pytest.fixture(scope="module")
def everything(tiny_encoder, counts):
    return perturb_counts(tiny_encoder, counts, asked())


def test_what_is_run_is_what_perturb_finds(found, everything):
    both = found.effects.merge(everything.effects, on=KEYS, suffixes=("", "_all"), validate="one_to_one")
    assert len(both) == len(found.effects) < len(everything.effects)
    np.testing.assert_allclose(both["shift"], both["shift_all"], atol=1e-7)
    np.testing.assert_array_equal(both["n_cells"], both["n_cells_all"])
    assert both["p_value"].isna().all()
    run = found.genes[found.genes["listed"] | found.genes["audited"]]
    assert set(zip(run["gene"], run["group"], strict=True)) == set(
        zip(found.effects["gene"], found.effects["group"], strict=True)
    )


def test_every_gene_has_an_estimate_and_its_cells(found, everything):
    both = found.genes.merge(everything.effects, on=["gene", "group"], suffixes=("", "_all"))
    held = both[both["n_cells_all"] > 0]
    np.testing.assert_array_equal(both["n_cells"], both["n_cells_all"])
    assert held["estimate"].notna().all()
    assert held["estimate"].corr(held["shift_all"], method="spearman") > 0.7
    known = held[held["shift"].notna()]
    np.testing.assert_allclose(known["shift"], known["shift_all"], atol=1e-7)


def test_the_top_of_each_group_is_listed(found):
    for _, part in found.genes.groupby("group"):
        held = part[part["n_cells"] > 0]
        assert held["listed"].sum() == int(np.ceil(0.2 * len(held)))
        assert held.loc[held["listed"], "estimate"].min() >= held.loc[~held["listed"], "estimate"].max()
        assert held["rank"].tolist() == list(range(1, len(held) + 1))


def test_passes_and_recall_add_up(found, everything):
    facts = found.facts
    pairs = int(everything.effects["n_cells"].sum())
    assert facts["n_passes_exact_run"] == everything.facts["n_passes"] == pairs + 16
    run = int(found.effects["n_cells"].sum())
    assert facts["n_passes"] - facts["n_passes_estimate"] <= run + 16
    assert facts["times_fewer_passes"] == pytest.approx(facts["n_passes_exact_run"] / facts["n_passes"])
    audited = found.genes[found.genes["audited"]]
    hits = total = 0
    for _, part in audited.groupby("group"):
        top = part.nlargest(int(np.ceil(0.1 * len(part))), "shift")
        hits, total = hits + int(top["listed"].sum()), total + len(top)
    assert facts["recall"] == hits / total
    assert facts["n_genes_audited"] == len(audited)
    assert facts["recall_low"] <= facts["recall"] <= facts["recall_high"]


def test_towards_a_goal_ranks_by_that(tiny_encoder, counts):
    states = {"groups": None, "states": "cell_type", "start": "A", "goal": "B"}
    found = screened(tiny_encoder, counts, kind="delete", **states)
    assert set(found.effects["readout"]) == {"cell", "state"}
    shift = found.effects.query("state == 'B'").set_index("gene")["shift"]
    table = found.genes.set_index("gene")
    pd.testing.assert_series_equal(
        table["shift"].dropna().sort_index(), shift.sort_index(), check_names=False
    )
    everything = perturb_counts(tiny_encoder, counts, asked(kind="delete", **states)).effects
    truth = everything.query("state == 'B'").set_index("gene")["shift"]
    both = table[["estimate"]].join(truth, how="inner").dropna()
    assert both["estimate"].corr(both["shift"], method="spearman") > 0.6  # of four cuts


def test_where_it_does_not_pay_every_gene_is_run(tiny_encoder, counts, everything, caplog):
    with caplog.at_level(logging.WARNING, logger="geneformer_grn"):
        found = screened(tiny_encoder, counts, share=None, least_saving=3.0)
    assert "every gene is run" in caplog.text
    assert not found.facts["is_estimated"]
    assert found.facts["times_fewer_passes"] == 1.0
    assert found.facts["n_passes_exact_run"] == found.facts["n_passes"] == everything.facts["n_passes"]
    assert "recall" not in found.facts
    assert len(found.effects) == len(everything.effects)
    assert found.genes["estimate"].isna().all()


def test_a_share_that_is_asked_for_is_obeyed_whatever_it_saves(tiny_encoder, counts, found, caplog):
    with caplog.at_level(logging.INFO, logger="geneformer_grn"):
        again = screened(tiny_encoder, counts, least_saving=3.0)
    pd.testing.assert_frame_equal(again.genes, found.genes)
    assert "not 3 times fewer, but a share was asked for" in caplog.text
    assert f"{again.facts['times_fewer_passes']:.1f} times fewer" in caplog.text


def test_genes_that_no_cell_holds_save_nothing(tiny_encoder, counts, caplog):
    tokens = np.setdiff1d(np.arange(tiny_encoder.vocabulary.n_special, 65), counts.column_tokens)
    held = np.asarray(counts.matrix.sum(axis=0)).ravel() > 0
    tokens = np.concatenate([tokens, counts.column_tokens[~held]])
    names = tuple(tiny_encoder.vocabulary.ensembl_ids[tokens[:2]])
    assert names
    for share in (None, 0.2):
        facts = screened(tiny_encoder, counts, genes=names, share=share).facts
        assert (facts["n_passes"], facts["n_passes_exact_run"]) == (0, 0)
        assert facts["times_fewer_passes"] == 1.0
        assert not facts["is_estimated"]
    assert "there is nothing to run" in caplog.text


def test_a_recall_of_few_genes_is_too_few_to_tell(caplog):
    facts = {
        "n_passes": 50, "n_passes_estimate": 10, "n_passes_exact_run": 25, "times_fewer_passes": 0.5,
        "recall": 0.5, "recall_low": 0.1, "recall_high": 0.9, "n_genes_audited": 190,
    }  # fmt: skip
    with caplog.at_level(logging.INFO, logger="geneformer_grn"):
        tell({**facts, "recall_n_true": 19, "recall_can_be_told": False})
        assert "too few to tell" in caplog.text
        assert "95 % interval 0.100 to 0.900" in caplog.text
        assert "2.0 times as many" in caplog.text
        caplog.clear()
        tell({**facts, "recall_n_true": 20, "recall_can_be_told": True})
        assert "too few" not in caplog.text
        assert "measured recall of the true top 10 %: 0.500" in caplog.text


@pytest.mark.parametrize(("n_genes", "can_be_told"), [(190, False), (191, True)])
def test_recall_is_told_from_twenty_genes_on(n_genes, can_be_told):
    genes = pd.DataFrame(
        {"audited": True, "group": "all", "listed": True, "shift": np.arange(float(n_genes))}
    )
    assert recall_facts(genes)["recall_n_true"] == (20 if can_be_told else 19)
    assert recall_facts(genes)["recall_can_be_told"] is can_be_told


def test_named_genes_in_cells_that_lack_them(tiny_encoder, counts, everything):
    names = tuple(everything.effects["gene"].unique()[:20])
    found = screened(tiny_encoder, counts, genes=names)
    table = found.genes.merge(everything.effects, on=["gene", "group"], how="left", suffixes=("", "_all"))
    assert len(table) == 2 * len(names)
    np.testing.assert_array_equal(table["n_cells"], table["n_cells_all"].fillna(0))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"genes": ("A", "B"), "together": True}, "one at a time"),
        ({"n_null": 200}, "no null genes"),
        ({"readouts": ("cell", "genes")}, "no readout genes"),
    ],
)
def test_what_a_screen_does_not_have_is_refused(more, message):
    with pytest.raises(ValueError, match=message):
        ScreenOptions(perturb=asked(**more))


@pytest.mark.parametrize("more", [{"share": 0.0}, {"audit": -0.1}, {"effort": 1.5}])
def test_shares_are_checked(more):
    with pytest.raises(ValueError, match="share"):
        ScreenOptions(perturb=asked(), **more)


def test_other_kinds_are_refused_before_any_work(tiny_encoder):
    with pytest.raises(ValueError, match="overexpress"):
        screen_counts(tiny_encoder, None, ScreenOptions(perturb=asked(kind="overexpress")))


def test_an_open_share_fills_the_passes_it_may_take(tiny_encoder, counts):
    options = ScreenOptions(perturb=asked(), effort=0.3, audit=0.05, least_saving=1.5)
    found = screen_counts(tiny_encoder, counts, options)
    assert found.facts["is_estimated"]
    assert found.facts["times_fewer_passes"] >= 1.5
    assert found.facts["n_genes_listed"] > 0.15 * len(found.genes)
    left = found.facts["n_passes_exact_run"] / 1.5 - found.facts["n_passes"]
    assert 0 <= left < 40  # the next thousandth, one gene in each group, would not fit
