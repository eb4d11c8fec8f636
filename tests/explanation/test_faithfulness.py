"""Deletion curves: right sets are taken away, faithful scores show, random ones do not."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.explanation.attributions import empty_attributions
from geneformer_grn.explanation.faithfulness import (
    deletion_curve,
    deletion_table,
    set_sizes,
    shuffled_nearby,
)
from geneformer_grn.explanation.occlusion import occlusion
from geneformer_grn.explanation.settings import DeletionSettings
from geneformer_grn.explanation.target import Explained
from geneformer_grn.model.heads import HeadSpec


@pytest.fixture(scope="module")
def counting(tiny_encoder):
    """A model whose output is the sum of fixed weights of the genes that a cell holds, and the weights."""
    weights = torch.randn(len(tiny_encoder.vocabulary), generator=torch.Generator().manual_seed(1)).double()
    weights[: tiny_encoder.vocabulary.n_special] = 0.0

    def outputs(batch, *, inputs_embeds=None):
        cell_of = torch.repeat_interleave(torch.arange(len(batch)), batch.cu_seqlens.diff())
        sums = torch.zeros(len(batch), dtype=torch.float64)
        return {"age": sums.index_add(0, cell_of, weights[batch.input_ids[0]])[:, None]}

    spec = HeadSpec("age", "cell", "regression")
    model = SimpleNamespace(encoder=tiny_encoder, specs=(spec,), max_length=None, outputs=outputs)
    return Explained(model, spec), weights.numpy()


@pytest.fixture(scope="module")
def many(tiny_vocabulary):
    """60 random cells of 40 genes."""
    rng = np.random.default_rng(5)
    genes = np.arange(tiny_vocabulary.n_special, len(tiny_vocabulary), dtype=np.uint16)
    rows = [rng.permutation(genes)[:40] for _ in range(60)]
    return RankedCells(np.concatenate(rows), np.arange(61) * 40, np.ones(60))


def blank(explained, ranked):
    cells = np.arange(len(ranked))
    return empty_attributions("m", explained, ranked, cells, np.zeros(len(cells), dtype=int))


def test_the_named_genes_are_taken_away(counting, many):
    """A sum falls by exactly the weights of what is gone."""
    explained, weights = counting
    true = blank(explained, many)
    true = true.with_scores(weights[true.tokens])
    found = deletion_curve(explained, many, true, DeletionSettings(shares=(0.1, 0.5)))
    for number in range(len(many)):
        largest = np.sort(weights[many.cell(number)])[::-1]
        expected = [largest[:4].sum(), largest[:20].sum()]
        np.testing.assert_allclose(found.intact[number] - found.named[number], expected, atol=1e-5)
    table = deletion_table(found)
    assert (table["excess_low"] > 0).tolist() == [False, True, True]
    assert table["area_low"].iloc[-1] > 0
    assert "probability_named" not in table  # a value has none


def test_scores_that_say_nothing_show_nothing(counting, many):
    explained, _ = counting
    none = blank(explained, many)
    rng = np.random.default_rng(8)
    found = deletion_curve(explained, many, none.with_scores(rng.normal(size=len(none.scores))))
    last = deletion_table(found).iloc[-1]
    assert last["area_low"] < 0 < last["area_high"]


def test_rank_alone_shows_nothing(counting, many):
    """Scores that fall with rank, on a model in which rank says something: the control takes it out."""
    explained, _ = counting
    blank_scores = blank(explained, many)
    by_rank = blank_scores.with_scores(-np.tile(np.arange(40) // 10, 60).astype(float))

    def outputs(batch, *, inputs_embeds=None):
        cell_of = torch.repeat_interleave(torch.arange(len(batch)), batch.cu_seqlens.diff())
        early = (batch.position_ids[0] < 11).float() * (batch.input_ids[0] % 7)
        return {"age": torch.zeros(len(batch)).index_add(0, cell_of, early)[:, None]}

    model = SimpleNamespace(**{**vars(explained.model), "outputs": outputs})
    settings = DeletionSettings(shares=(0.25,), kind="knockout", n_random=2, n_bins=4)
    found = deletion_curve(Explained(model, explained.spec), many, by_rank, settings)
    assert (found.intact > found.named[:, 0]).mean() > 0.9  # it does hurt
    np.testing.assert_allclose(found.excess, 0.0, atol=1e-6)  # and no more than any genes of that rank


def test_exact_occlusion_is_faithful(by_mean, many):
    cells, targets = np.arange(12), np.arange(12) % 3
    scores = occlusion(by_mean, many, cells, targets)
    table = deletion_table(deletion_curve(by_mean, many, scores))
    assert table["area_low"].iloc[-1] > 0
    assert (table["probability_named"].diff().iloc[1:] < 0.05).all()
    assert table["probability_named"].iloc[0] == table["probability_random"].iloc[0]
    opposite = deletion_curve(by_mean, many, scores.with_scores(-scores.scores))
    assert deletion_table(opposite)["area_high"].iloc[-1] < 0


def test_shuffling_keeps_each_neighbourhood():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=95)
    moved = shuffled_nearby(scores, 20, rng)
    bins = np.arange(95) * 9 // 95  # of ten genes at least
    assert (moved != scores).mean() > 0.5
    for number in range(9):
        np.testing.assert_array_equal(np.sort(moved[bins == number]), np.sort(scores[bins == number]))


def test_intervals_over_donors_are_wider(counting, many):
    """Cells of a donor fall alike: 60 cells of three donors are not 60 independent ones."""
    explained, weights = counting
    true = blank(explained, many)
    found = deletion_curve(explained, many, true.with_scores(weights[true.tokens]))
    donors = np.repeat(["a", "b", "c"], 20)
    found.named[:] -= (np.repeat([0.0, 3.0, 6.0], 20))[:, None]
    by_cell, by_donor = deletion_table(found), deletion_table(found, groups=donors)
    width = [table["excess_high"].iloc[-1] - table["excess_low"].iloc[-1] for table in (by_cell, by_donor)]
    assert width[1] > 2 * width[0]


@pytest.mark.parametrize(("n_genes", "sizes"), [(2, [1, 1, 1]), (10, [1, 1, 5]), (100, [1, 10, 50])])
def test_set_sizes(n_genes, sizes):
    assert set_sizes(n_genes, (0.01, 0.1, 0.5)) == sizes


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"shares": (0.2, 0.1)}, "ascend"),
        ({"shares": ()}, "ascend"),
        ({"shares": (0.5, 1.0)}, "between 0 and 1"),
        ({"kind": "activate"}, "kind 'activate' is unknown"),
        ({"n_random": 0}, "n_random"),
    ],
)
def test_settings_that_make_no_sense(asked, message):
    with pytest.raises(ValueError, match=message):
        DeletionSettings(**asked)
