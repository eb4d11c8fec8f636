"""Training masks against the same draws in plain Python, their statistics, and the filling of batches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from geneformer_grn.cells.batch_kernels import cell_keys, fill_batches, mixed
from geneformer_grn.cells.batches import BatchSettings, MaskSettings, training_batches
from geneformer_grn.cells.masking import IGNORED

GAMMA, ALL = 0x9E3779B97F4A7C15, (1 << 64) - 1
# The first outputs of the authors' splitmix64.c for the seed 1234567.
PUBLISHED = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]


def splitmix(state: int) -> int:
    """One output of SplitMix64 in Python's integers: Steele, Lea & Flood (2014), Figure 17."""
    state = (state + GAMMA) & ALL
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & ALL
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & ALL
    return state ^ (state >> 31)


def key_of(*numbers: int) -> int:
    key = 0
    for number in numbers:
        key = splitmix(key ^ number)
    return key


def masked(ids, vocabulary, mask, *, seed, epoch, copy, cell):
    """One cell's input and labels, gene by gene."""
    key = key_of(seed, epoch, copy, cell)
    ids = [int(token) for token in ids]
    labels = [IGNORED] * len(ids)
    draws = [splitmix(key + 2 * place * GAMMA) / 2**64 for place in range(len(ids))]
    genes = [place for place, token in enumerate(ids) if token >= vocabulary.n_special]
    asked = [place for place in genes if draws[place] < mask.rate] or [min(genes, key=draws.__getitem__)]
    for place in asked:
        labels[place] = ids[place]
        fate = draws[place] / mask.rate
        if fate >= mask.keep + mask.random:
            ids[place] = vocabulary.token_of["<mask>"]
        elif fate >= mask.keep:
            high = splitmix(key + (2 * place + 1) * GAMMA) >> 32
            n_genes = len(vocabulary) - vocabulary.n_special
            ids[place] = vocabulary.n_special + int(high / 2**32 * n_genes)
    return ids, labels


class Cells:
    """What the batches read of a corpus, in one record batch or several."""

    def __init__(self, sequences, *, chunks):
        self.cells = [np.asarray(sequence, dtype=np.uint16) for sequence in sequences]
        self.lengths = np.array([len(cell) for cell in self.cells])
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        starts = range(0, len(self), -(-len(self) // chunks))
        self.values = [np.concatenate(self.cells[start : start + starts.step]) for start in starts]

    def __len__(self):
        return len(self.cells)

    def cell(self, index):
        return self.cells[index]

    def require_vocabulary(self, vocabulary):
        pass


def all_masked(sequences, vocabulary, *, chunks=1, epoch=0, **options):
    """{number of the cell in its epoch: (input, labels)} of all batches; position ids are checked here."""
    cells = Cells(sequences, chunks=chunks)
    found = {}
    for batch in training_batches(cells, vocabulary, BatchSettings(**options), epoch=epoch):
        ends = batch.cu_seqlens.tolist()
        asked = torch.nonzero(batch.labels[0] != IGNORED)[:, 0]
        assert torch.equal(batch.masked_index[batch.masked_index >= 0], asked)
        for place, cell in enumerate(batch.cell_index.tolist()):
            if cell >= 0:
                part = slice(ends[place], ends[place + 1])
                assert batch.position_ids[0, part].tolist() == list(range(ends[place + 1] - ends[place]))
                found[cell] = batch.input_ids[0, part].tolist(), batch.labels[0, part].tolist()
    return found


def test_the_generator_is_the_published_one():
    states = [(1234567 + number * GAMMA) & ALL for number in range(1, 5)]
    assert [int(mixed(np.uint64(state))) for state in states] == PUBLISHED
    assert [splitmix(1234567 + number * GAMMA) for number in range(4)] == PUBLISHED


def test_keys_of_cells():
    found = cell_keys(3, 5, np.array([0, 0, 7]), np.array([0, 1, 2**40]))
    assert found.tolist() == [key_of(3, 5, 0, 0), key_of(3, 5, 0, 1), key_of(3, 5, 7, 2**40)]


@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("mask", [MaskSettings(), MaskSettings(rate=0.5, keep=0.3, random=0.6)])
def test_masks_are_those_drawn_gene_by_gene(tiny_vocabulary, mask, static, chunks):
    generator = np.random.default_rng(0)
    genes = np.arange(tiny_vocabulary.n_special, len(tiny_vocabulary))
    cells = [
        np.concatenate([[2], generator.choice(genes, n, replace=False), [3]])
        for n in generator.integers(1, 46, 70).tolist()
    ]
    found = all_masked(
        cells, tiny_vocabulary, chunks=chunks, epoch=2, token_budget=200, seed=9, mask=mask, static=static,
        max_length=30,
    )  # fmt: skip
    assert sorted(found) == list(range(70))
    for cell, own in found.items():
        cut = cells[cell] if len(cells[cell]) <= 30 else [*cells[cell][:29], 3]
        assert own == masked(cut, tiny_vocabulary, mask, seed=9, epoch=2, copy=0, cell=cell)


class PlainVocabulary:
    """Two special tokens, none of them around a cell."""

    n_special, n_wrapping, max_length = 2, 0, 6
    token_of = {"<pad>": 0, "<mask>": 1}  # noqa: RUF012

    def __len__(self):
        return 40


def test_without_special_tokens_cells_are_cut_at_their_end():
    plain = PlainVocabulary()
    found = all_masked([np.arange(10, 22)], plain, token_budget=50)
    assert found[0] == masked(range(10, 16), plain, MaskSettings(), seed=0, epoch=0, copy=0, cell=0)


def test_copies_are_masked_each_anew(tiny_corpus, tiny_vocabulary):
    options = BatchSettings(token_budget=200, copies=np.where(np.arange(80) == 7, 3.0, 0.0))
    (batch,) = training_batches(tiny_corpus, tiny_vocabulary, options, epoch=1)
    ends = batch.cu_seqlens.tolist()
    found = [batch.labels[0, slice(*ends[place : place + 2])].tolist() for place in range(3)]
    expected = [
        masked(tiny_corpus.cell(7), tiny_vocabulary, MaskSettings(), seed=0, epoch=1, copy=copy, cell=7)[1]
        for copy in range(3)
    ]
    assert sorted(found) == sorted(expected)


@pytest.fixture(scope="module")
def many(tiny_vocabulary):
    """Inputs and labels ``(4_000, 300)`` of equal cells, masked as usual."""
    cell = np.tile(np.arange(5, 65), 5)
    vocabulary = replace(tiny_vocabulary, max_length=400)
    found = all_masked([cell] * 4_000, vocabulary, token_budget=30_000, seed=1)
    ids, labels = (np.array([found[number][part] for number in range(4_000)]) for part in (0, 1))
    return cell, ids, labels


def test_shares_of_what_becomes_of_genes(many):
    cell, ids, labels = many
    asked = labels != IGNORED
    n_asked = int(asked.sum())
    assert stats.binomtest(n_asked, asked.size, 0.15).pvalue > 1e-4
    np.testing.assert_array_equal(labels[asked], np.broadcast_to(cell, ids.shape)[asked])
    np.testing.assert_array_equal(ids[~asked], np.broadcast_to(cell, ids.shape)[~asked])
    hidden, kept = ids[asked] == 1, ids[asked] == labels[asked]
    by_chance = 0.1 / 60  # a random gene may be the true one
    expected = np.array([0.8, 0.1 + by_chance, 0.1 - by_chance]) * n_asked
    fates = [hidden.sum(), kept.sum(), (~hidden & ~kept).sum()]
    assert stats.chisquare(fates, expected).pvalue > 1e-4
    random = ids[asked][~hidden & ~kept]
    assert stats.chisquare(np.bincount(random, minlength=65)[5:]).pvalue > 1e-4
    # Neither where a gene stands nor its being random says which gene it becomes.
    assert abs(np.corrcoef(np.nonzero(asked)[1], hidden)[0, 1]) < 0.01
    assert abs(np.corrcoef(labels[asked][~hidden & ~kept], random)[0, 1]) < 0.04


def test_every_place_and_every_cell_is_asked_for_alike(many):
    asked = many[2] != IGNORED
    for axis in (0, 1):
        n = asked.shape[axis]
        counts = np.bincount(asked.sum(axis=axis), minlength=n + 1)
        expected = stats.binom.pmf(np.arange(n + 1), n, 0.15) * counts.sum()
        common = expected > 5
        found = np.array([*counts[common], counts[~common].sum()])
        assert stats.chisquare(found, [*expected[common], expected[~common].sum()]).pvalue > 1e-4


def overlap_p_value(one, other):
    """How likely so many common places are if two sets of masks were drawn apart from each other."""
    return stats.binomtest(int((one & other).sum()), one.size, 0.15**2).pvalue


@pytest.mark.parametrize("distance", [1, 2, 64, 1024])
def test_masks_of_neighbouring_cells_are_independent(many, distance):
    asked = many[2] != IGNORED
    assert overlap_p_value(asked[:-distance], asked[distance:]) > 1e-4
    for shift in (1, 2, 7):  # nor is one a shifted other
        assert overlap_p_value(asked[:-distance, shift:], asked[distance:, :-shift]) > 1e-4


@pytest.mark.parametrize("change", [{"epoch": 1}, {"seed": 2}, {"seed": 0, "epoch": 1}])
def test_masks_of_epochs_and_seeds_are_independent(many, tiny_vocabulary, change):
    cell, _, labels = many
    options = {"seed": 1, "epoch": 0} | change
    vocabulary = replace(tiny_vocabulary, max_length=400)
    found = all_masked([cell] * 2_000, vocabulary, token_budget=30_000, **options)
    other = np.array([found[number][1] for number in range(2_000)])
    assert overlap_p_value(labels[:2_000] != IGNORED, other != IGNORED) > 1e-4


def test_draws_are_uniform_to_their_last_bits():
    keys = cell_keys(0, 0, np.zeros(2_000, dtype=np.int64), np.arange(2_000))
    with np.errstate(over="ignore"):
        states = keys[:, None] + np.arange(1, 101, dtype=np.uint64) * np.uint64(GAMMA)
    draws = np.array([mixed(state) for state in states.ravel()], dtype=np.uint64)
    for shift in (0, 8, 24, 40, 56):
        counts = np.bincount(((draws >> np.uint64(shift)) & np.uint64(255)).astype(int), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-4


def test_specials_are_never_asked_for_and_one_gene_always_is(tiny_vocabulary):
    cells = [np.array([2, 9, 3])] * 40
    every = all_masked(cells, tiny_vocabulary, token_budget=50, mask=MaskSettings(rate=1.0))
    seldom = all_masked(cells, tiny_vocabulary, token_budget=50, mask=MaskSettings(rate=0.01))
    for found in (every, seldom):
        assert all(labels == [IGNORED, 9, IGNORED] for _, labels in found.values())
        assert all((ids[0], ids[2]) == (2, 3) for ids, _ in found.values())


def test_a_cell_without_genes_is_named(tiny_vocabulary):
    with pytest.raises(ValueError, match="cell 1 holds no gene"):
        all_masked([np.array([2, 9, 3]), np.array([2, 3])], tiny_vocabulary, token_budget=20)


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=200),
    budget=st.integers(50, 150),
    n_open=st.integers(1, 5),
)
@settings(max_examples=200, deadline=None)
def test_batches_are_filled_as_by_lists(lengths, budget, n_open):
    opened, closed = [], []
    for cell, length in enumerate(lengths):
        for batch in opened:
            if sum(lengths[other] for other in batch) + length <= budget:
                batch.append(cell)
                break
        else:
            if len(opened) == n_open:
                fullest = max(opened, key=lambda batch: sum(lengths[cell] for cell in batch))
                closed.append(opened.pop(opened.index(fullest)))
            opened.append([cell])
    places, ends = fill_batches(np.array(lengths), budget, n_open)
    assert [part.tolist() for part in np.split(places, ends[:-1])] == closed + opened
