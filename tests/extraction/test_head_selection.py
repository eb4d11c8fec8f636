"""Heads chosen by planted edges, on other regulators than those they score."""

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.extraction.head_selection import select_heads
from geneformer_grn.metrics import average_precision
from geneformer_grn.network.pair_features import global_ranks
from geneformer_grn.network.scored import ScoredPairs
from geneformer_grn.network.truth import truth_of

REGULATORS = np.array([f"simulated_r{number:02}" for number in range(25)], dtype=object)
TARGETS = np.array([f"simulated_t{number:02}" for number in range(40)], dtype=object)
SHAPE = (len(REGULATORS), len(TARGETS))


def head(weights):
    return ScoredPairs(
        regulators=REGULATORS, targets=TARGETS, weights=weights.astype(np.float32),
        support=np.ones(SHAPE, dtype=np.int32), method="attention", signed=False,
    )  # fmt: skip


def truth_from(known):
    rows, columns = np.nonzero(known)
    table = pd.DataFrame({"source": REGULATORS[rows], "target": TARGETS[columns], "sign": 0})
    return truth_of(table, name="planted")


@pytest.fixture(scope="module")
def planted():
    rng = np.random.default_rng(0)
    known = rng.random(SHAPE) < 0.15
    heads = {(layer, number): head(rng.random(SHAPE)) for layer in range(3) for number in range(4)}
    for good in ((1, 2), (2, 0)):
        heads[good] = head(rng.random(SHAPE) + 0.5 * known)
    return heads, known


def test_heads_that_know_edges_are_found_and_better_than_all(planted):
    heads, known = planted
    found = select_heads(heads, truth_from(known))
    assert set(found.all_heads[:2]) == {(1, 2), (2, 0)}
    assert all(set(chosen[:2]) == {(1, 2), (2, 0)} for chosen in found.heads)
    everything = np.mean([pairs.weights for pairs in heads.values()], axis=0)
    alone = max(average_precision(known.ravel(), pairs.weights.ravel()) for pairs in heads.values())
    selected = average_precision(known.ravel(), found.scores.weights.ravel())
    assert selected > alone
    assert selected > 1.2 * average_precision(known.ravel(), everything.ravel())


def test_many_useless_heads_stay_useless():
    """The best of 100 random heads looks better than chance on the edges it was chosen by, not on others."""
    rng = np.random.default_rng(1)
    known = rng.random(SHAPE) < 0.1
    heads = {(0, number): head(rng.random(SHAPE)) for number in range(100)}
    best = max(average_precision(known.ravel(), pairs.weights.ravel()) for pairs in heads.values())
    found = select_heads(heads, truth_from(known), most=1)
    assert best > 1.3 * known.mean()
    assert average_precision(known.ravel(), found.scores.weights.ravel()) < 1.15 * known.mean()


def test_a_regulator_is_scored_by_heads_chosen_without_it(planted):
    heads, known = planted
    found = select_heads(heads, truth_from(known))
    for fold, chosen in enumerate(found.heads):
        rows = found.fold == fold
        expected = np.mean([global_ranks(heads[each])[rows] for each in chosen], axis=0)
        np.testing.assert_allclose(found.scores.weights[rows], expected, rtol=1e-5)
    cheat = np.where((found.fold == 2)[:, None], known + 0.0, 0.0)
    again = select_heads({**heads, (9, 9): head(cheat)}, truth_from(known))
    assert (9, 9) not in again.heads[2]
    assert (9, 9) in again.heads[0]


def test_bad_questions_are_refused(planted):
    heads, known = planted
    with pytest.raises(ValueError, match="at least 1 head"):
        select_heads(heads, truth_from(known), most=0)
    known = known.copy()
    known[3:] = False
    with pytest.raises(ValueError, match="3 of 25 regulators"):
        select_heads(heads, truth_from(known))
