"""The baseline against a slow reading of its definition."""

from dataclasses import replace

import numpy as np
import pytest

from geneformer_grn.cells.masking import IGNORED, MaskSettings, mask_cell
from geneformer_grn.cells.rank_position import RankPositionBaseline, position_bins
from geneformer_grn.genes.vocabulary import VocabularyMismatchError


@pytest.fixture(scope="module")
def baseline(tiny_corpus, tiny_vocabulary):
    return RankPositionBaseline.fit(tiny_corpus, tiny_vocabulary)


def brute_force(corpus, vocabulary, baseline, *, position, visible):
    """p(gene | bin of position) by counting one token at a time, then without the visible genes."""

    def bin_of(place):
        return max(index for index, edge in enumerate(baseline.edges) if edge <= place)

    in_bin = np.zeros(len(vocabulary))
    overall = np.zeros(len(vocabulary))
    for cell in range(len(corpus)):
        for place, token in enumerate(corpus.cell(cell).tolist()):
            if token >= vocabulary.n_special:
                overall[token] += 1
                in_bin[token] += bin_of(place) == bin_of(position)
    prior = np.array([n + 1 if token >= vocabulary.n_special else 0 for token, n in enumerate(overall)])
    p = in_bin + baseline.strength * prior / prior.sum()
    p[list(visible)] = 0
    return p / p.sum()


@pytest.mark.parametrize("position", [1, 2, 9, 30, 47])
def test_equals_brute_force(baseline, tiny_corpus, tiny_vocabulary, position):
    visible = tiny_corpus.cell(3)[::2]
    expected = brute_force(
        tiny_corpus, tiny_vocabulary, baseline, position=position, visible=visible.tolist()
    )
    result = baseline.log_probabilities(np.array([position]), visible)
    assert result.shape == (1, 65)
    assert result.dtype == np.float32
    np.testing.assert_allclose(np.exp(result[0]), expected, rtol=1e-5)


def test_rows_follow_positions(baseline):
    positions = np.array([30, 1, 30, 9])
    together = baseline.log_probabilities(positions, np.array([], dtype=int))
    for row, position in zip(together, positions, strict=True):
        np.testing.assert_array_equal(row, baseline.log_probabilities(np.array([position]), [])[0])


def test_score_equals_the_sum_of_its_parts(baseline, tiny_corpus, tiny_vocabulary):
    cells = [
        mask_cell(tiny_corpus.cell(i), tiny_vocabulary, MaskSettings(), seed=0, epoch=0, cell=i)
        for i in range(20)
    ]
    losses, right = [], []
    for ids, labels in cells:
        for position in np.flatnonzero(labels != IGNORED):
            log_p = baseline.log_probabilities(np.array([position]), ids[labels == IGNORED])[0]
            losses.append(-log_p[labels[position]])
            right.append(log_p.argmax() == labels[position])
    score = baseline.score(cells)
    assert score["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert score["accuracy"] == pytest.approx(np.mean(right))
    assert score["n_masked"] == len(losses)
    assert score["loss"] < np.log(60)  # better than guessing blindly
    with pytest.raises(ValueError, match="no gene is hidden"):
        baseline.score([(cells[0][0], np.full(len(cells[0][0]), IGNORED))])


def test_the_strength_is_that_of_the_best_leave_one_out_prediction(baseline):
    def loss(strength):
        total = 0.0
        prior = (baseline.counts.sum(axis=0) + 1.0) * (np.arange(65) >= 5)
        prior /= prior.sum()
        for row in baseline.counts:
            for token in np.flatnonzero(row):
                p = (row[token] - 1 + strength * prior[token]) / (row.sum() - 1 + strength)
                total -= row[token] * np.log(p)
        return total

    strengths = [10.0 ** (power / 2) for power in range(2, 15)]
    assert baseline.strength == min(strengths, key=loss)


def test_fits_some_cells_or_plain_arrays(tiny_corpus, tiny_vocabulary):
    some = RankPositionBaseline.fit(tiny_corpus, tiny_vocabulary, cells=np.arange(10))
    plain = RankPositionBaseline.fit([tiny_corpus.cell(i) for i in range(10)], tiny_vocabulary)
    np.testing.assert_array_equal(some.counts, plain.counts)
    genes = sum(len(tiny_corpus.cell(i)) - 2 for i in range(10))
    assert some.counts.sum() == genes
    short = RankPositionBaseline.fit(tiny_corpus, tiny_vocabulary, 10, cells=np.arange(10))
    assert short.counts.sum() == 9 * 10
    assert short.edges.max() < 10


def test_wrong_calls(tiny_corpus, tiny_vocabulary):
    with pytest.raises(ValueError, match="no genes"):
        RankPositionBaseline.fit([np.array([2, 3])], tiny_vocabulary)
    with pytest.raises(VocabularyMismatchError):
        RankPositionBaseline.fit(tiny_corpus, replace(tiny_vocabulary, max_length=47))


def test_saved_and_loaded(baseline, tmp_path):
    baseline.save(tmp_path / "baseline.npz")
    loaded = RankPositionBaseline.load(tmp_path / "baseline.npz")
    np.testing.assert_array_equal(loaded.probabilities, baseline.probabilities)
    assert loaded.fingerprint == baseline.fingerprint
    with pytest.raises(FileNotFoundError):
        RankPositionBaseline.load(tmp_path / "other.npz")
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not a rank-position baseline"):
        RankPositionBaseline.load(tmp_path / "bad.npz")


@pytest.mark.parametrize("max_length", [1, 2, 20, 48, 1024, 4096])
def test_bins_start_at_zero_and_widen(max_length):
    edges = position_bins(max_length)
    assert edges[0] == 0
    assert len(edges) <= 48
    assert (np.diff(edges) > 0).all()
    assert (np.diff(edges, 2) >= -1).all()
