"""What both faces of perturb rest on: genes, states and groups resolved."""

import logging

import numpy as np
import pytest

from geneformer_grn.cells.counts import read_counts
from geneformer_grn.cells.ranking import rank_cells
from geneformer_grn.embedding import EmbedSettings, embed_cells
from geneformer_grn.perturbation.readouts import GENE_SHIFT_COLUMNS
from geneformer_grn.workflows.perturb import (
    PerturbOptions,
    parse_genes,
    perturb_counts,
    split_names,
)


@pytest.fixture(scope="module")
def counts(tiny_adata, tiny_vocabulary):
    return read_counts(tiny_adata, tiny_vocabulary)


def quick(**changes):
    return PerturbOptions(**{"genes": ("GENE3",), "n_null": 0, "pooling": "mean", **changes})


def test_named_genes_are_perturbed_in_every_cell(tiny_encoder, counts):
    result = perturb_counts(tiny_encoder, counts, quick(genes=("gene3", "ENSG00000000009")))
    ranked = rank_cells(counts, tiny_encoder.vocabulary)
    for gene, part in result.cells.groupby("gene"):
        token = tiny_encoder.vocabulary.token_of[gene]
        assert sorted(part["cell_id"]) == sorted(counts.obs.index)
        held = [token in ranked.cell(row)[:46] for row in range(len(ranked))]
        by_cell = part.set_index("cell_id")["shift"].loc[counts.obs.index]
        np.testing.assert_array_equal(by_cell.notna(), held)
        assert (by_cell.dropna() > 0).all()
    assert result.effects["p_value"].isna().all()


def test_unknown_genes_are_reported_and_the_others_done(tiny_encoder, counts, caplog):
    with caplog.at_level(logging.WARNING, "geneformer_grn"):
        result = perturb_counts(tiny_encoder, counts, quick(genes=("GENE3", "NOSUCH")))
    assert result.facts["genes_unknown"] == ["NOSUCH"]
    assert "NOSUCH" in caplog.text
    assert len(result.effects) == 1


@pytest.mark.parametrize(
    "options", [{"genes": ("NOSUCH",)}, {"genes": ("GENE3", "NOSUCH"), "together": True}]
)
def test_no_known_gene_or_half_a_set_is_refused(tiny_encoder, counts, options):
    with pytest.raises(ValueError, match="NOSUCH"):
        perturb_counts(tiny_encoder, counts, quick(**options))


def test_together_needs_cells_that_hold_all(tiny_encoder, counts):
    result = perturb_counts(tiny_encoder, counts, quick(genes=("GENE3", "GENE5"), together=True))
    assert result.effects["gene"].tolist() == ["ENSG00000000003+ENSG00000000005"]
    single = perturb_counts(tiny_encoder, counts, quick(genes=("GENE3", "GENE5")))
    both = single.cells.pivot(index="cell_id", columns="gene", values="shift").notna().all(axis=1)
    assert result.effects["n_cells"].tolist() == [both.sum()]


def test_all_and_regulators_list_only_cells_that_hold_the_gene(tiny_encoder, counts):
    few = read_counts_head(counts, 4)
    every = perturb_counts(tiny_encoder, few, quick(genes="all"))
    assert every.cells["shift"].notna().all()
    ranked = rank_cells(few, tiny_encoder.vocabulary)
    assert len(every.cells) == sum(min(int(length), 46) for length in ranked.lengths)
    regulators = perturb_counts(tiny_encoder, few, quick(genes="regulators"))
    vocabulary = tiny_encoder.vocabulary
    assert set(regulators.effects["gene"]) <= set(vocabulary.ensembl_ids[vocabulary.is_regulator])
    assert set(regulators.effects["gene"]) < set(every.effects["gene"])


def read_counts_head(counts, n):
    from dataclasses import replace

    return replace(
        counts,
        matrix=counts.matrix[:n],
        n_counts=counts.n_counts[:n],
        obs=counts.obs.iloc[:n],
        kept=counts.kept[:n],
    )


def test_overexpressing_all_skips_the_gene_in_front(tiny_encoder, counts):
    few = read_counts_head(counts, 3)
    ranked = rank_cells(few, tiny_encoder.vocabulary)
    result = perturb_counts(tiny_encoder, few, quick(genes="all", kind="overexpress"))
    assert len(result.cells) == sum(min(int(length), 46) - 1 for length in ranked.lengths)


@pytest.mark.parametrize("kind", ["inhibit", "activate"])
def test_moves_by_quartiles_leave_out_cells_without_the_gene(tiny_encoder, counts, kind):
    ranked = rank_cells(counts, tiny_encoder.vocabulary)
    token = tiny_encoder.vocabulary.token_of["ENSG00000000003"]
    shifts = {}
    for quartiles in (1, 3):
        result = perturb_counts(tiny_encoder, counts, quick(kind=kind, quartiles=quartiles))
        by_cell = result.cells.set_index("cell_id")["shift"].loc[counts.obs.index]
        held = np.array([token in ranked.cell(row)[:46] for row in range(len(ranked))])
        np.testing.assert_array_equal(by_cell.notna(), held)
        assert result.effects["n_cells"].tolist() == [held.sum()]
        assert result.facts["n_pairs_without_gene"] == (~held).sum() > 0
        assert result.effects["kind"].tolist() == [kind]
        shifts[quartiles] = by_cell[held].to_numpy()
    # by three quartiles every gene ends up first or last; by one, those near the middle do not
    at_the_edge = [
        np.searchsorted(
            [0.25, 0.75],
            ranked.cell(row)[:46].tolist().index(token) / min(len(ranked.cell(row)), 46),
            "right",
        )
        == (2 if kind == "inhibit" else 0)
        for row in np.flatnonzero(held)
    ]
    np.testing.assert_allclose(shifts[1][at_the_edge], shifts[3][at_the_edge], atol=1e-6)
    assert not np.allclose(shifts[1], shifts[3], atol=1e-6)


def test_pairs_come_with_their_interaction(tiny_encoder, counts):
    result = perturb_counts(tiny_encoder, counts, quick(genes=("GENE3", "NOSUCH", "GENE5"), pairs=True))
    first, second = "ENSG00000000003", "ENSG00000000005"
    pair = f"{first}+{second}"
    assert result.effects[["gene", "readout"]].to_numpy().tolist() == [
        [first, "cell"], [second, "cell"], [pair, "cell"], [pair, "interaction"],
    ]  # fmt: skip
    wide = result.cells[result.cells["readout"] == "cell"].pivot(
        index="cell_id", columns="gene", values="shift"
    )
    expected = wide[pair] - wide[first] - wide[second]
    found = result.cells[result.cells["readout"] == "interaction"].set_index("cell_id")["shift"]
    np.testing.assert_array_equal(found.loc[expected.index], expected)
    both = wide[[first, second]].notna().all(axis=1)
    np.testing.assert_array_equal(expected.notna(), both)
    row = result.effects.iloc[3]
    assert row["n_cells"] == both.sum()
    assert row["shift"] == pytest.approx(expected.mean())
    assert row["ci_low"] < row["shift"] < row["ci_high"]
    assert result.facts["genes_unknown"] == ["NOSUCH"]


def test_an_anchor_with_every_gene(tiny_encoder, counts):
    few = read_counts_head(counts, 3)
    result = perturb_counts(tiny_encoder, few, quick(genes="all", anchor="GENE1"))
    anchor = "ENSG00000000001"
    ranked = rank_cells(few, tiny_encoder.vocabulary)
    token = tiny_encoder.vocabulary.token_of[anchor]
    cells = result.cells[result.cells["readout"] == "beyond_anchor"]
    holding = [ranked.cell(row)[:46] for row in range(3) if token in ranked.cell(row)[:46]]
    assert len(cells) == sum(len(cell) - 1 for cell in holding) > 0
    assert cells["shift"].notna().all()
    assert cells["gene"].str.startswith(f"{anchor}+").all()
    joint = result.cells[result.cells["readout"] == "cell"].set_index(["gene", "cell_id"])["shift"]
    for row in cells.sample(20, random_state=0).itertuples():
        expected = joint[row.gene, row.cell_id] - joint[anchor, row.cell_id]
        assert row.shift == pytest.approx(expected, abs=1e-12)


def test_an_unexpressed_gene_is_overexpressed_at_full_length(tiny_encoder, counts):
    """Cells of 46 genes or more fill the model's 48 places; the last gene makes room."""
    result = perturb_counts(tiny_encoder, counts, quick(kind="overexpress", genes=("GENE3",)))
    ranked = rank_cells(counts, tiny_encoder.vocabulary)
    token = tiny_encoder.vocabulary.token_of["ENSG00000000003"]
    by_cell = result.cells.set_index("cell_id")["shift"].loc[counts.obs.index].to_numpy()
    assert np.isfinite(by_cell).all()
    lacking = [row for row in range(len(ranked)) if token not in ranked.cell(row)[:46]]
    assert lacking
    assert (by_cell[lacking] > 0).all()


def test_states_perturb_the_start_cells_towards_the_goal(tiny_encoder, counts):
    result = perturb_counts(tiny_encoder, counts, quick(states="cell_type", start="A", goal="B"))
    in_start = counts.obs.index[counts.obs["cell_type"] == "A"]
    assert set(result.cells["cell_id"]) == set(in_start)
    assert result.effects[["readout", "state"]].to_numpy().tolist() == [
        ["cell", ""],
        ["state", "A"],
        ["state", "B"],
    ]
    # the same by hand for the first cell: pooled states and means of embeddings
    vocabulary = tiny_encoder.vocabulary
    ranked = rank_cells(counts, vocabulary)
    embedded = embed_cells(tiny_encoder, ranked, EmbedSettings()).astype(np.float64)
    goal = embedded[(counts.obs["cell_type"] == "B").to_numpy()].mean(axis=0)
    gene = vocabulary.token_of["ENSG00000000003"]
    row = next(i for i in range(40) if gene in ranked.cell(i) and len(ranked.cell(i)) <= 46)
    without = ranked.cell(row)[ranked.cell(row) != gene]
    from geneformer_grn.cells.ranking import RankedCells

    edited = RankedCells(tokens=without, offsets=np.array([0, len(without)]), n_counts=np.ones(1))
    (after,) = embed_cells(tiny_encoder, edited, EmbedSettings()).astype(np.float64)
    before = embedded[row]
    unit = goal / np.linalg.norm(goal)
    expected = after @ unit / np.linalg.norm(after) - before @ unit / np.linalg.norm(before)
    found = result.cells[(result.cells["cell_id"] == counts.obs.index[row]) & (result.cells["state"] == "B")]
    np.testing.assert_allclose(found["shift"], [expected], atol=1e-5)


def test_genes_readout_comes_with_cells(tiny_encoder, counts):
    result = perturb_counts(tiny_encoder, counts, quick(readouts=("genes",), groups="cell_type"))
    assert tuple(result.gene_shifts.columns) == GENE_SHIFT_COLUMNS
    assert set(result.gene_shifts["group"]) == {"A", "B"}
    assert set(result.cells["readout"]) == {"cell"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"states": "cell_type", "start": "A"}, "a start and a goal state"),
        ({"alternatives": ("A",)}, "need the obs column"),
        ({"genes": "all", "together": True}, "names none"),
        ({"states": "cell_type", "start": "A", "goal": "A"}, "named twice"),
        ({"states": "nowhere", "start": "A", "goal": "B"}, "no obs column 'nowhere'"),
        ({"states": "cell_type", "start": "A", "goal": "C"}, "no cell is in state 'C'"),
        ({"groups": "nowhere"}, "nowhere"),
        ({"kind": "silence"}, "delete, overexpress, inhibit, activate, knockout"),
        ({"kind": "inhibit", "quartiles": 4}, "1, 2 or 3 quartiles, not by 4"),
        ({"quartiles": 2}, "inhibit and activate do"),
        ({"genes": "all", "pairs": True}, "'pairs' combines named genes; 'all' names none"),
        ({"pairs": True}, "at least two known genes, got 1"),
        ({"genes": ("GENE3", "NOSUCH"), "pairs": True}, "at least two known genes, got 1"),
        ({"pairs": True, "anchor": "GENE4"}, "pairs and an anchor combine genes in different ways"),
        ({"anchor": "GENE3"}, "only the anchor itself"),
        ({"anchor": "NOSUCH"}, "NOSUCH"),
        ({"readouts": ("velocity",)}, "choose from cell, state, genes, expression"),
        ({"donors": "nowhere"}, "no obs column 'nowhere' for --donors"),
        ({"statistics": ("bayes",)}, "bayes are unknown; choose reference"),
        ({"part_tokens": 0}, "at least 1 token"),
        ({"readouts": ("state",)}, "start and a goal"),
        ({"max_passes": 3}, "passes"),
    ],
)
def test_wrong_calls_say_what_is_wrong(tiny_encoder, counts, changes, message):
    with pytest.raises(ValueError, match=message):
        perturb_counts(tiny_encoder, counts, quick(**changes))


def test_parse_genes():
    assert parse_genes("CD74, B2M,CD74") == ("CD74", "B2M")
    assert parse_genes(["CD74"]) == ("CD74",)
    assert parse_genes("ALL") == "all"
    assert parse_genes("regulators") == "regulators"
    with pytest.raises(ValueError, match="no gene"):
        parse_genes(" , ")


def test_record_holds_single_values(tiny_encoder, counts):
    options = quick()
    noted = perturb_counts(tiny_encoder, counts, options).record
    assert noted["parameters"]["genes"] == "GENE3"
    assert noted["found"]["n_passes"] > 0
    for section in ("parameters", "found", "cells"):
        assert all(isinstance(value, str | bool | int | float) for value in noted[section].values())


def test_names_with_blanks_after_the_commas():
    assert split_names("cell, state ,") == ("cell", "state")
    assert split_names(["B cells", " odd"]) == ("B cells", " odd")
    assert split_names("") == ()
