"""Training batches: every cell once, the same batches for any number of processes, and from any place on."""

from dataclasses import replace
from itertools import zip_longest

import numpy as np
import pytest
import torch

from geneformer_grn.cells.batches import (
    BatchSettings,
    balanced_copies,
    crop,
    n_training_batches,
    plan_epoch,
    training_batches,
)
from geneformer_grn.genes.vocabulary import VocabularyMismatchError

SETTINGS = BatchSettings(token_budget=150, seed=4)


def batches(corpus, vocabulary, *, settings=SETTINGS, epoch=1, **kwargs):
    return list(training_batches(corpus, vocabulary, settings, epoch=epoch, **kwargs))


def same(first, second):
    return torch.equal(first.input_ids, second.input_ids) and torch.equal(first.labels, second.labels)


def test_a_plan_holds_every_cell_once_within_the_budget():
    lengths = np.random.default_rng(0).integers(1, 100, 500)
    plan = plan_epoch(lengths, BatchSettings(token_budget=1000), epoch=0)
    np.testing.assert_array_equal(np.sort(np.concatenate(plan)), np.arange(500))
    fills = np.array([lengths[batch].sum() for batch in plan])
    assert fills.max() <= 1000
    assert fills.sum() / (1000 * len(plan)) > 0.95


def test_a_plan_depends_on_seed_and_epoch_only():
    lengths = np.random.default_rng(0).integers(1, 100, 200)

    def plan(seed, epoch):
        return np.concatenate(plan_epoch(lengths, BatchSettings(token_budget=500, seed=seed), epoch=epoch))

    np.testing.assert_array_equal(plan(1, 2), plan(1, 2))
    assert (plan(1, 2) != plan(1, 3)).any()
    assert (plan(1, 2) != plan(2, 2)).any()


def test_a_plan_of_some_cells():
    plan = plan_epoch(np.full(50, 10), BatchSettings(token_budget=100), epoch=0, cells=np.arange(20, 31))
    np.testing.assert_array_equal(np.sort(np.concatenate(plan)), np.arange(20, 31))


def test_plans_that_cannot_be_made():
    with pytest.raises(ValueError, match="longest cell, 20 tokens"):
        plan_epoch(np.array([5, 20]), BatchSettings(token_budget=10), epoch=0)
    with pytest.raises(ValueError, match="no cells"):
        plan_epoch(np.array([5, 20]), BatchSettings(), epoch=0, cells=np.array([], dtype=int))


def test_batches_hold_the_masked_cells(tiny_corpus, tiny_vocabulary):
    """What they ask for is what the corpus holds; `test_batch_kernels` checks the draws."""
    seen = []
    for batch in batches(tiny_corpus, tiny_vocabulary):
        assert batch.n_tokens <= 150
        for place, cell in enumerate(batch.cell_index.tolist()):
            part = slice(*batch.cu_seqlens[place : place + 2].tolist())
            ids, labels = batch.input_ids[0, part].numpy(), batch.labels[0, part].numpy()
            asked = labels >= 0
            assert asked.any()
            np.testing.assert_array_equal(np.where(asked, labels, ids), tiny_corpus.cell(cell))
            seen.append(cell)
    assert sorted(seen) == list(range(80))


@pytest.mark.parametrize("max_length", [None, 20])
def test_the_mask_of_a_cell_is_its_own(tiny_corpus, tiny_vocabulary, max_length):
    """In whatever batches the cells come, with whatever neighbours."""
    asked = []
    for budget, cells in ((60, None), (150, None), (700, np.arange(10, 60))):
        settings = replace(SETTINGS, token_budget=budget, max_length=max_length)
        found = {}
        for batch in batches(tiny_corpus, tiny_vocabulary, settings=settings, cells=cells):
            rows = zip(batch.input_ids[0].split(batch.cell_lengths.tolist()),
                       batch.labels[0].split(batch.cell_lengths.tolist()), strict=True)  # fmt: skip
            found |= {
                cell: (ids.tolist(), labels.tolist())
                for cell, (ids, labels) in zip(batch.cell_index.tolist(), rows, strict=True)
            }
        asked.append(found)
    assert asked[0] == asked[1]
    assert asked[2] == {cell: asked[0][cell] for cell in range(10, 60)}


@pytest.mark.gpu
@pytest.mark.parametrize("static", [False, True])
def test_batches_for_a_gpu_lie_in_page_locked_memory(tiny_corpus, tiny_vocabulary, static):
    for batch in batches(
        tiny_corpus, tiny_vocabulary, settings=replace(SETTINGS, pinned=True, static=static)
    ):
        tensors = (batch.input_ids, batch.labels, batch.position_ids, batch.cu_seqlens, batch.masked_index)
        assert all(tensor.is_pinned() for tensor in tensors)


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_processes_share_the_batches_of_one(tiny_corpus, tiny_vocabulary, world_size):
    alone = batches(tiny_corpus, tiny_vocabulary)
    ranks = [
        batches(tiny_corpus, tiny_vocabulary, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    assert {len(rank) for rank in ranks} == {n_training_batches(len(alone), world_size)}
    together = [batch for step in zip(*ranks, strict=True) for batch in step]
    for expected, batch in zip_longest(alone, together):
        if expected is None:  # only keeps its process busy
            assert len(batch.masked_index) == 0
            assert batch.cell_index.tolist() == [-1]
        else:
            assert same(expected, batch)


@pytest.mark.parametrize("start", [1, 4])
def test_resuming_gives_the_batches_that_were_left(tiny_corpus, tiny_vocabulary, start):
    whole = batches(tiny_corpus, tiny_vocabulary, rank=1, world_size=2)
    rest = batches(tiny_corpus, tiny_vocabulary, rank=1, world_size=2, start_batch=start)
    assert len(rest) == len(whole) - start
    assert all(same(a, b) for a, b in zip(whole[start:], rest, strict=True))


def test_shorter_cells_on_request(tiny_corpus, tiny_vocabulary):
    settings = BatchSettings(token_budget=100, max_length=20)
    for batch in batches(tiny_corpus, tiny_vocabulary, settings=settings):
        assert batch.max_seqlen <= 20
        assert (batch.input_ids[0, batch.cu_seqlens[1:].long() - 1] == 3).all()


def test_another_vocabulary_is_refused(tiny_corpus, tiny_vocabulary):
    other = replace(tiny_vocabulary, max_length=40)
    with pytest.raises(VocabularyMismatchError, match="corpus corpus"):
        batches(tiny_corpus, other)


def test_crop(tiny_vocabulary):
    ids = np.array([2, 7, 8, 9, 3], dtype=np.uint16)
    assert crop(ids, tiny_vocabulary, 4).tolist() == [2, 7, 8, 3]
    assert crop(ids, tiny_vocabulary, 5) is ids


@pytest.mark.parametrize("world_size", [1, 3])
def test_static_batches_ask_the_same_in_one_shape(tiny_corpus, tiny_vocabulary, world_size):
    static = replace(SETTINGS, static=True)
    shapes = set()
    for rank in range(world_size):
        part = {"rank": rank, "world_size": world_size}
        plain = batches(tiny_corpus, tiny_vocabulary, **part)
        filled = batches(tiny_corpus, tiny_vocabulary, settings=static, **part)
        for ours, theirs in zip(filled, plain, strict=True):
            assert torch.equal(ours.input_ids[:, : theirs.n_tokens], theirs.input_ids)
            assert torch.equal(ours.masked_index[: len(theirs.masked_index)], theirs.masked_index)
            assert (ours.masked_index[len(theirs.masked_index) :] == -100).all()
            assert ours.cell_lengths.tolist() == theirs.cell_lengths.tolist()
            tensors = (ours.input_ids, ours.labels, ours.cu_seqlens, ours.masked_index, ours.cell_index)
            shapes.add((*(tensor.shape for tensor in tensors), ours.max_seqlen))
    assert len(shapes) == 1


def test_a_curriculum_crops_the_cells_of_its_stages(tiny_corpus, tiny_vocabulary):
    staged = replace(SETTINGS, stages=((0.5, 10), (1.25, 20)))
    longest = []
    for epoch in range(3):
        made = batches(tiny_corpus, tiny_vocabulary, settings=staged, epoch=epoch)
        seen = np.concatenate([batch.cell_index for batch in made])
        np.testing.assert_array_equal(np.sort(seen), np.arange(80))
        by_limit = {limit: sum(len(b) for b in made if b.max_seqlen <= limit) for limit in (10, 20, 48)}
        longest.append([by_limit[limit] for limit in (10, 20, 48)])
    assert longest == [[40, 80, 80], [0, 20, 80], [0, 0, 80]]


def test_balanced_groups_come_as_often_as_asked():
    groups = np.array(["a"] * 900 + ["b"] * 90 + [None] * 10, dtype=object)
    np.testing.assert_allclose(balanced_copies(groups, evenness=0.0), 1.0)
    copies = balanced_copies(groups, evenness=0.5)
    roots = np.sqrt([900, 90, 10])
    per_group = [copies[:900].sum(), copies[900:990].sum(), copies[990:].sum()]
    np.testing.assert_allclose(per_group, 1000 * roots / roots.sum())
    settings = BatchSettings(token_budget=5000, copies=balanced_copies(groups, evenness=1.0))
    drawn = np.concatenate(
        [np.concatenate(plan_epoch(np.full(1000, 10), settings, epoch=epoch)) for epoch in range(5)]
    )
    counts = np.bincount(np.digitize(drawn % 1000, [900, 990]), minlength=3) / 5
    np.testing.assert_allclose(counts, 1000 / 3, rtol=0.05)
    last = np.sort(drawn[drawn % 1000 == 999])
    assert set(last // 1000) >= set(range(33)), "copies are numbered, so that each is masked anew"


def test_copies_are_masked_each_in_its_own_way(tiny_corpus, tiny_vocabulary):
    copies = np.zeros(80)
    copies[7] = 3.0
    made = batches(tiny_corpus, tiny_vocabulary, settings=replace(SETTINGS, copies=copies, token_budget=200))
    (batch,) = made
    assert batch.cell_index.tolist() == [7, 7, 7]
    asked = [
        batch.labels[0, s:e].tolist()
        for s, e in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True)
    ]
    assert len({tuple(labels) for labels in asked}) == 3


@pytest.mark.parametrize("token_budget", [8_192, 65_536])
def test_packing_wastes_less_than_three_percent_of_skewed_lengths(token_budget):
    """Log-normal as genes a cell are (median 1,100), cropped at 2,048."""
    lengths = np.minimum(np.random.default_rng(2).lognormal(7.0, 0.6, 20_000).astype(int) + 2, 2_048)
    plan = plan_epoch(lengths, BatchSettings(token_budget=token_budget), epoch=0)
    assert lengths.sum() / (len(plan) * token_budget) > 0.97
