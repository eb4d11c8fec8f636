"""Pairs and anchors, on toy readouts whose interaction is known and on a real model."""

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.perturbation.combinations import anchored_sets, contrasts, pair_sets
from geneformer_grn.perturbation.effects import prepare, reader_of, run_screen
from geneformer_grn.perturbation.engine import perturb_cells
from geneformer_grn.perturbation.requests import PerturbSettings, Request
from geneformer_grn.perturbation.screen import PerturbationPlan, Screen

GENES = (10, 20, 30)
WEIGHT = {10: 0.1, 20: 0.03, 30: 0.2}


@dataclass
class ToyEncoder:
    """A model whose <cls> state turns by a known amount when genes are missing: 1 - cosine = their weights.

    Parameters
    ----------
    vocabulary
        Of the tokens.
    together
        What is added where 10 and 20 are both missing.
    """

    vocabulary: Any
    together: float = 0.0
    n_layers: int = 1  # the layer before it is the input: no passes to share
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def require_layer(self, encoder_layer):
        return self.n_layers + encoder_layer

    def hidden_states(self, batch, *, encoder_layer):
        cuts = batch.cu_seqlens.tolist()
        states = torch.ones((cuts[-1], 2))
        for start, end in pairwise(cuts):
            missing = set(GENES) - set(batch.input_ids[0, start:end].tolist())
            shift = sum(WEIGHT[gene] for gene in missing) + self.together * ({10, 20} <= missing)
            states[start] = torch.tensor([1 - shift, np.sqrt(1 - (1 - shift) ** 2)])
        return states


def cells_of(*tokens):
    offsets = np.concatenate([[0], np.cumsum([len(cell) for cell in tokens])])
    flat = np.concatenate(tokens).astype(np.uint16)
    return RankedCells(tokens=flat, offsets=offsets, n_counts=np.ones(len(tokens)))


@pytest.fixture(scope="module")
def whole():
    """Four cells that hold all three genes among others."""
    rng = np.random.default_rng(0)
    return cells_of(*(rng.permutation([*GENES, 40, 41, 42, 43]) for _ in range(4)))


def screen(encoder, ranked, sets, *, groups=None, kind="delete"):
    plan = PerturbationPlan(kind=kind, n_null=0, tested_cells="all")
    return run_screen(encoder, ranked, groups, sets, plan, settings=PerturbSettings(pooling="cls"))


def with_contrasts(plain, readout):
    """The result with the rows of `contrasts` behind its own; every gene set of a group is a request."""
    number = plain.cells.groupby(["gene", "group"], sort=False).ngroup()
    requests, names = [], []
    for _, part in plain.cells[plain.cells["state"] == plain.cells["state"].iloc[0]].groupby(number):
        gene, kind, group = part[["gene", "kind", "group"]].iloc[0]
        tokens = tuple(int(name.removeprefix("ENSG")) for name in gene.split("+"))
        requests.append(Request(genes=tokens, kind=kind, cells=part["cell_id"].to_numpy(), group=group))
        names.append(gene)
    nulls = {i: [] for i in range(len(requests))}
    found = list(
        contrasts(
            Screen(cells_per_gene=1, n_null=0, requests=requests, nulls=nulls),
            np.array(names, dtype=object), reader_of(plain.cells.assign(request=number)), readout,
        )
    )  # fmt: skip
    columns = plain.effects.columns
    effects = [part.reindex(columns=columns).astype(plain.effects.dtypes) for _, part in found]
    return replace(
        plain,
        cells=pd.concat([plain.cells, *(cells for cells, _ in found)], ignore_index=True),
        effects=pd.concat([plain.effects, *effects], ignore_index=True),
    )


@pytest.mark.parametrize("kind", ["delete", "knockout"])
@pytest.mark.parametrize("together", [0.0, 0.25, -0.02])
def test_the_interaction_is_what_the_toy_adds_for_a_pair(tiny_vocabulary, whole, together, kind):
    encoder = ToyEncoder(tiny_vocabulary, together)
    plain = screen(encoder, whole, pair_sets(GENES), kind=kind)
    result = with_contrasts(plain, "interaction")
    ids = tiny_vocabulary.ensembl_ids
    effects = result.effects[result.effects["readout"] == "interaction"].set_index("gene")
    assert effects.index.tolist() == [f"{ids[10]}+{ids[20]}", f"{ids[10]}+{ids[30]}", f"{ids[20]}+{ids[30]}"]
    np.testing.assert_allclose(effects["shift"], [together, 0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(effects["ci_low"], effects["ci_high"], atol=1e-6)
    assert effects["n_cells"].tolist() == [4, 4, 4]
    assert effects[["p_value", "q_value"]].isna().all(axis=None)
    assert set(effects["kind"]) == {kind}
    pd.testing.assert_frame_equal(result.effects.iloc[: len(plain.effects)], plain.effects)
    pd.testing.assert_frame_equal(result.cells.iloc[: len(plain.cells)], plain.cells)
    assert result.effects.dtypes.tolist() == plain.effects.dtypes.tolist()


def test_only_cells_that_hold_both_have_an_interaction(tiny_vocabulary):
    # missing genes turn a cell before anything is deleted, so the numbers here come from their formula
    held = [(10, 20, 30, 40), (10, 30, 41), (20, 42, 30), (40, 41), (30, 20, 10)]
    ranked = cells_of(*(np.array(cell) for cell in held))
    groups = np.array(["a", "a", "b", "b", "b"])
    result = with_contrasts(
        screen(ToyEncoder(tiny_vocabulary), ranked, pair_sets(GENES), groups=groups), "interaction"
    )
    ids = tiny_vocabulary.ensembl_ids
    cells = result.cells[result.cells["readout"] == "interaction"].set_index(["gene", "cell_id"])
    assert cells["cosine"].isna().all()
    for first, second in [(10, 20), (10, 30), (20, 30)]:
        name = f"{ids[first]}+{ids[second]}"
        for number, cell in enumerate(held):
            before = sum(WEIGHT[gene] for gene in GENES if gene not in cell)

            def shift(*genes, before=before):
                return 1 - np.cos(
                    np.arccos(1 - before - sum(WEIGHT[g] for g in genes)) - np.arccos(1 - before)
                )

            expected = np.nan
            if {first, second} <= set(cell):
                expected = shift(first, second) - shift(first) - shift(second)
            np.testing.assert_allclose(cells.loc[(name, number), "shift"], expected, atol=1e-6)
            assert cells.loc[(name, number), "group"] == groups[number]
    effects = result.effects[result.effects["readout"] == "interaction"].set_index(["gene", "group"])
    assert effects.loc[(f"{ids[10]}+{ids[20]}", "a"), "n_cells"] == 1
    assert np.isnan(effects.loc[(f"{ids[10]}+{ids[20]}", "a"), "ci_low"])
    assert effects.loc[(f"{ids[20]}+{ids[30]}", "b"), "n_cells"] == 2


def test_an_anchor_is_taken_off_each_gene_with_it(tiny_vocabulary, whole):
    result = with_contrasts(
        screen(ToyEncoder(tiny_vocabulary, 0.25), whole, anchored_sets(20, GENES)), "beyond_anchor"
    )
    ids = tiny_vocabulary.ensembl_ids
    effects = result.effects.set_index(["readout", "gene"])["shift"]
    assert effects.index.tolist() == [
        ("cell", ids[20]),
        ("cell", f"{ids[20]}+{ids[10]}"),
        ("cell", f"{ids[20]}+{ids[30]}"),
        ("beyond_anchor", f"{ids[20]}+{ids[10]}"),
        ("beyond_anchor", f"{ids[20]}+{ids[30]}"),
    ]
    np.testing.assert_allclose(effects, [0.03, 0.38, 0.23, 0.35, 0.2], atol=1e-6)


def test_interactions_towards_states_and_of_a_real_model(tiny_encoder, tiny_vocabulary, whole):
    rng = np.random.default_rng(1)
    states = {"start": rng.normal(size=32), "goal": rng.normal(size=32)}
    plan = PerturbationPlan(kind="overexpress", n_null=3, cells_per_gene=2, tested_cells="all")
    settings = PerturbSettings(readouts=("cell", "state"))
    plain = run_screen(tiny_encoder, whole, None, pair_sets((10, 50)), plan, settings=settings, states=states)
    result = with_contrasts(plain, "interaction")
    ids = tiny_vocabulary.ensembl_ids
    wide = plain.effects.pivot(index="state", columns="gene", values="shift")
    expected = wide[f"{ids[10]}+{ids[50]}"] - wide[ids[10]] - wide[ids[50]]
    found = result.effects[result.effects["readout"] == "interaction"].set_index("state")
    assert found.index.tolist() == ["", "start", "goal"]
    np.testing.assert_allclose(found["shift"], expected.loc[found.index], atol=1e-12)
    assert (found["n_cells"] == 4).all()
    assert (found["ci_low"] < found["ci_high"]).all()


def test_no_cell_with_a_pair_gives_a_row_of_nothing(tiny_vocabulary):
    ranked = cells_of(np.array([10, 40]), np.array([20, 40]))
    result = with_contrasts(screen(ToyEncoder(tiny_vocabulary), ranked, pair_sets((10, 20))), "interaction")
    (row,) = result.effects[result.effects["readout"] == "interaction"].itertuples()
    assert row.n_cells == 0
    assert np.isnan(row.shift)


def test_an_anchor_that_meets_no_gene_adds_no_row(tiny_vocabulary):
    ranked = cells_of(np.array([10, 40]), np.array([20, 41]))
    plan = PerturbationPlan(n_null=0, tested_cells="holders")
    settings = PerturbSettings(pooling="cls")
    plain = run_screen(
        ToyEncoder(tiny_vocabulary), ranked, None, anchored_sets(10, (20, 41)), plan, settings=settings
    )
    result = with_contrasts(plain, "beyond_anchor")
    pd.testing.assert_frame_equal(result.effects, plain.effects)
    pd.testing.assert_frame_equal(result.cells, plain.cells)


def test_sets_of_pairs_and_anchors():
    assert pair_sets([7, 9, 7, 8]) == [(7,), (9,), (8,), (7, 9), (7, 8), (9, 8)]
    assert anchored_sets(9, [7, 9, 8, 7]) == [(9,), (9, 7), (9, 8)]
    with pytest.raises(ValueError, match="at least two known genes, got 1"):
        pair_sets([7, 7])
    with pytest.raises(ValueError, match="only the anchor itself"):
        anchored_sets(7, [7])


@pytest.mark.parametrize("readout", ["interaction", "beyond_anchor"])
@pytest.mark.parametrize("slice_size", [10**6, 9])
def test_pairs_in_slices_are_those_of_the_whole_table(
    tiny_encoder, tiny_vocabulary, readout, slice_size, monkeypatch
):
    rng = np.random.default_rng(4)
    ranked = cells_of(*(rng.permutation(np.arange(10, 30))[:14] for _ in range(8)))
    sets = pair_sets((10, 20, 25)) if readout == "interaction" else anchored_sets(10, (20, 25))
    groups = np.repeat(["a", "b"], 4)
    settings = PerturbSettings(readouts=("cell", "state"))
    plan = PerturbationPlan(n_null=2, cells_per_gene=2, tested_cells="all")
    states = {"goal": rng.normal(size=32)}
    plain = run_screen(tiny_encoder, ranked, groups, sets, plan, settings=settings, states=states)
    whole = with_contrasts(plain, readout)
    prepared = prepare(ranked, groups, sets, tiny_vocabulary, plan)
    cells = perturb_cells(tiny_encoder, ranked, prepared.screen.requests, settings, states=states).cells
    asked = []

    def read(numbers):
        asked.append(numbers)
        return reader_of(cells)(numbers)

    monkeypatch.setattr("geneformer_grn.perturbation.effects_table._SLICE", slice_size)
    slices = list(contrasts(prepared.screen, prepared.names, read, readout))
    assert (
        len(slices)
        == len(asked)
        == (1 if slice_size > 9 else {"interaction": 3, "beyond_anchor": 2}[readout])
    )
    assert not any(prepared.screen.requests[number].is_null for numbers in asked for number in numbers)
    keys = ["group", "gene", "state"]
    for found, expected in (
        (pd.concat([part for part, _ in slices]), whole.cells.iloc[len(plain.cells) :]),
        (pd.concat([part for _, part in slices]), whole.effects.iloc[len(plain.effects) :]),
    ):
        order = [*keys, "cell_id"] if "cell_id" in expected else keys
        found, expected = (t.sort_values(order, ignore_index=True) for t in (found, expected))
        assert len(found) > 0
        pd.testing.assert_frame_equal(found, expected[found.columns], check_dtype=False)
