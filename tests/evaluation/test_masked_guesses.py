"""Guesses at hidden genes: against brute force over the whole vocabulary, and against what was planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from geneformer_grn.cells.counts import read_counts
from geneformer_grn.cells.ranking import model_input, rank_cells
from geneformer_grn.evaluation.masked_guesses import (
    BOTH,
    COEXPRESSION,
    INTERPOLATION,
    RANK,
    _context,
    _lift,
    _runs,
    fit_guesses,
    median_places,
    neighbours,
    score_guesses,
    where_between,
)
from geneformer_grn.training.validation import masked_cells


@pytest.fixture(scope="module")
def sequences(tiny_adata, tiny_vocabulary):
    ranked = rank_cells(read_counts(tiny_adata, tiny_vocabulary), tiny_vocabulary)
    return [model_input(ranked.cell(row), tiny_vocabulary) for row in range(len(ranked))]


@pytest.fixture(scope="module")
def guesses(sequences, tiny_vocabulary):
    return fit_guesses(sequences[1::2], tiny_vocabulary, seed=3)


@pytest.fixture(scope="module")
def cells(sequences, tiny_vocabulary):
    return masked_cells(sequences[::2], tiny_vocabulary, seed=5)


def by_hand(guesses, input_ids, labels):
    """Contestant -> ``(hidden, V)`` probabilities, gene by gene."""
    shown = input_ids[labels == -100]
    hidden = np.flatnonzero(labels != -100)
    logs = guesses.rank.log_probabilities(hidden, shown)
    rank = np.exp(logs.astype(np.float64))
    both = rank * _lift(guesses, shown)
    both /= both.sum(axis=1, keepdims=True)
    left, right = neighbours(input_ids, labels, guesses.place, guesses.rank.n_special)
    found = {RANK: rank, COEXPRESSION: both}
    for name, weights in ((INTERPOLATION, rank), (BOTH, both)):
        spread = np.zeros_like(weights)
        for number in range(len(hidden)):
            outcome = where_between(guesses.place, left[number], right[number])
            chances = guesses.between[_context(left[number], right[number])]
            for one in np.unique(outcome):
                mass = weights[number, outcome == one].sum()
                if mass > 0:
                    spread[number, outcome == one] = chances[one] * weights[number, outcome == one] / mass
        found[name] = spread / spread.sum(axis=1, keepdims=True)
    return found, labels[hidden]


@pytest.mark.parametrize("name", [RANK, COEXPRESSION, INTERPOLATION, BOTH])
def test_scores_are_those_of_probabilities_over_all_genes(guesses, cells, name):
    scores = score_guesses(guesses, cells)[name]
    for number, (input_ids, labels) in enumerate(cells):
        found, answers = by_hand(guesses, input_ids, labels)
        p = found[name]
        np.testing.assert_allclose(p.sum(axis=1), 1)
        expected = -np.log(p[np.arange(len(answers)), answers]).sum()
        assert scores.loss[number] == pytest.approx(expected, rel=1e-5)
        assert scores.right[number] == (p.argmax(axis=1) == answers).sum()
        assert scores.n_masked[number] == len(answers)


def test_what_a_cell_shows_is_not_guessed(guesses, cells):
    for input_ids, labels in cells[:5]:
        found, _ = by_hand(guesses, input_ids, labels)
        for p in found.values():
            assert (p[:, input_ids[labels == -100]] == 0).all()
            assert (p[:, : guesses.rank.n_special] == 0).all()


def test_runs_are_where_outcomes_change():
    rng = np.random.default_rng(0)
    for _ in range(200):
        n = int(rng.integers(3, 300))
        left, right = int(rng.integers(-1, n + 1)), int(rng.integers(-1, n + 1))
        starts, outcome = _runs(left, right, n)
        whole = where_between(np.arange(n), left, right)
        assert starts[0] == 0
        np.testing.assert_array_equal(np.repeat(outcome, np.diff([*starts, n])), whole)


def test_where_a_gene_lies():
    places = np.array([0, 6, 7, 9, 10, 12, 13, 14, 16, 20])
    found = where_between(places, np.int64(13), np.int64(10))
    #        10, 4, 3, 1 below,  inside    ,  1, 3, 7 above
    assert found.tolist() == [17 + 3, 17 + 2, 17 + 1, 17, 0, 0, 0, 1, 2, 3]


def test_neighbours_are_the_nearest_visible_genes(guesses, cells):
    input_ids, labels = cells[0]
    left, right = neighbours(input_ids, labels, guesses.place, guesses.rank.n_special)
    for number, position in enumerate(np.flatnonzero(labels != -100)):
        visible = [
            place
            for place in range(len(labels))
            if labels[place] == -100 and input_ids[place] >= guesses.rank.n_special
        ]
        before = [place for place in visible if place < position]
        after = [place for place in visible if place > position]
        assert left[number] == (guesses.place[input_ids[before[-1]]] if before else -1)
        assert right[number] == (guesses.place[input_ids[after[0]]] if after else len(guesses.place))


def test_places_follow_medians(tiny_vocabulary):
    place = median_places(tiny_vocabulary)
    genes = np.argsort(place)[: len(tiny_vocabulary) - tiny_vocabulary.n_special]
    assert (np.diff(tiny_vocabulary.medians[genes]) >= 0).all()
    assert sorted(place) == list(range(len(tiny_vocabulary)))


def test_coexpression_knows_the_kind_of_cell(tiny_vocabulary):
    """Two kinds of cells that share no gene but ten: the others' genes are ruled out by what is shown."""
    rng, first = np.random.default_rng(0), tiny_vocabulary.n_special
    common, kinds = (
        np.arange(first, first + 10),
        [np.arange(first + 10, first + 35), np.arange(first + 35, first + 60)],
    )
    made = [rng.permutation(np.concatenate([common, kinds[number % 2]])) for number in range(80)]
    guesses = fit_guesses(made[:60], tiny_vocabulary)
    scores = score_guesses(guesses, masked_cells(made[60:], tiny_vocabulary, seed=1))
    loss = {name: score.summary()["loss"] for name, score in scores.items()}
    assert loss[COEXPRESSION] < loss[RANK] - 0.4  # half of the genes is log 2 = 0.69 nats


def test_interpolation_reads_medians_off_the_neighbours(tiny_vocabulary):
    """All counts are 1, so that genes stand in the order of their medians; which are there is chance."""
    rng, genes = np.random.default_rng(0), np.arange(tiny_vocabulary.n_special, len(tiny_vocabulary))
    made = []
    for _ in range(80):
        kept = rng.choice(genes, 30, replace=False)
        made.append(kept[np.argsort(tiny_vocabulary.medians[kept])])
    guesses = fit_guesses(made[:60], tiny_vocabulary)
    scores = score_guesses(guesses, masked_cells(made[60:], tiny_vocabulary, seed=1))
    loss = {name: score.summary()["loss"] for name, score in scores.items()}
    accuracy = {name: score.summary()["accuracy"] for name, score in scores.items()}
    assert loss[INTERPOLATION] < loss[RANK] - 0.5
    assert accuracy[INTERPOLATION] > accuracy[RANK] + 0.1


def test_too_few_cells_are_refused(sequences, tiny_vocabulary):
    with pytest.raises(ValueError, match="9 cells are too few"):
        fit_guesses(sequences[:9], tiny_vocabulary)


def test_the_seed_decides(sequences, tiny_vocabulary, guesses):
    again = fit_guesses(sequences[1::2], tiny_vocabulary, seed=3)
    np.testing.assert_array_equal(again.between, guesses.between)
    np.testing.assert_allclose(again.effects, guesses.effects)
    assert replace(again, detection=guesses.detection).rank.strength == guesses.rank.strength
