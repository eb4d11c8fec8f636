"""Masks: the right shares, never a special token, the same ones wherever they are drawn."""

import numpy as np
import pytest

from geneformer_grn.cells.masking import IGNORED, MaskSettings, mask_cell


@pytest.fixture(scope="module")
def cell(tiny_vocabulary):
    return np.concatenate([[2], np.tile(np.arange(5, 65), 3), [3]]).astype(np.uint16)


def masks(cell, vocabulary, settings, n=400):
    drawn = [mask_cell(cell, vocabulary, settings, seed=1, epoch=2, cell=i) for i in range(n)]
    return np.stack([ids for ids, _ in drawn]), np.stack([labels for _, labels in drawn])


def test_shares(cell, tiny_vocabulary):
    ids, labels = masks(cell, tiny_vocabulary, MaskSettings())
    asked = labels != IGNORED
    assert asked[:, 1:-1].mean() == pytest.approx(0.15, abs=0.005)
    np.testing.assert_array_equal(labels[asked], np.broadcast_to(cell, ids.shape)[asked])
    np.testing.assert_array_equal(ids[~asked], np.broadcast_to(cell, ids.shape)[~asked])
    masked = ids[asked] == tiny_vocabulary.token_of["<mask>"]
    kept = ids[asked] == labels[asked]
    assert masked.mean() == pytest.approx(0.8, abs=0.01)
    assert kept.mean() == pytest.approx(0.1 + 0.1 / 60, abs=0.01)
    randomised = ids[asked][~masked & ~kept]
    assert randomised.min() >= 5
    assert len(np.unique(randomised)) == 60
    # What happens to a gene does not depend on where it stands.
    assert abs(np.corrcoef(np.nonzero(asked)[1], masked)[0, 1]) < 0.03


def test_specials_are_never_asked_for(cell, tiny_vocabulary):
    ids, labels = masks(cell, tiny_vocabulary, MaskSettings(rate=1.0))
    assert (labels[:, [0, -1]] == IGNORED).all()
    assert (ids[:, 0] == 2).all()
    assert (ids[:, -1] == 3).all()
    assert (labels[:, 1:-1] != IGNORED).all()


def test_only_masks_when_asked(cell, tiny_vocabulary):
    ids, labels = masks(cell, tiny_vocabulary, MaskSettings(keep=0.0, random=0.0), n=50)
    assert (ids[labels != IGNORED] == 1).all()


def test_at_least_one_gene(tiny_vocabulary):
    for index in range(50):
        _, labels = mask_cell(
            np.array([2, 9, 3]), tiny_vocabulary, MaskSettings(rate=0.01), seed=0, epoch=0, cell=index
        )
        assert labels.tolist() == [IGNORED, 9, IGNORED]


def test_depends_on_seed_epoch_and_cell_only(cell, tiny_vocabulary):
    def draw(seed, epoch, index):
        return mask_cell(cell, tiny_vocabulary, MaskSettings(), seed=seed, epoch=epoch, cell=index)[1]

    np.testing.assert_array_equal(draw(1, 2, 3), draw(1, 2, 3))
    for other in [(2, 2, 3), (1, 3, 3), (1, 2, 4), (2, 1, 3), (3, 2, 1)]:
        assert (draw(1, 2, 3) != draw(*other)).any()


def test_the_input_is_left_alone(cell, tiny_vocabulary):
    before = cell.copy()
    mask_cell(cell, tiny_vocabulary, MaskSettings(rate=1.0), seed=0, epoch=0, cell=0)
    np.testing.assert_array_equal(cell, before)


def test_wrong_calls(tiny_vocabulary):
    with pytest.raises(ValueError, match="cell 7 holds no gene"):
        mask_cell(np.array([2, 3]), tiny_vocabulary, MaskSettings(), seed=0, epoch=0, cell=7)
    with pytest.raises(ValueError, match="rate is 0"):
        MaskSettings(rate=0)
    with pytest.raises(ValueError, match="add up to at most 1"):
        MaskSettings(keep=0.6, random=0.6)
