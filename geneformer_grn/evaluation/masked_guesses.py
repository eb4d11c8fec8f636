"""Guesses at hidden genes that need no model: fitted on other cells of the same file, in seconds.

Three things are known of a hidden gene without any training. Where it stands says how strongly it is
expressed: how often each gene stands there in other cells is the *rank position*. Which genes the cell shows
says what kind of cell it is: the share of like cells that hold a gene is *co-expression*. And it stands
between two visible genes: a rank is count over median, counts are small whole numbers, so its median mostly
lies between theirs, which is *interpolation*. A model earns its keep where it beats the three together.

They see cells of the scored file, which the model has not: where donor and protocol are peculiar, that is an
advantage of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from geneformer_grn.cells.masking import IGNORED
from geneformer_grn.cells.rank_position import RankPositionBaseline
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.training.validation import SCORING_MASK, CellScores, masked_cells

RANK, COEXPRESSION = "rank_position_same_file", "coexpression"
INTERPOLATION, BOTH = "interpolation", "coexpression_and_interpolation"
N_COMPONENTS = 20
_RIDGE = 1.0  # on components of variance 1
_LEAST_SHARE = 0.05  # of a gene's mean detection: no gene is impossible for being unlike the cell
_STEPS = 16  # powers of two that distances are binned by
_N_PLACES = 2 * _STEPS + 1  # inside the neighbours, or so far above or below them
_PRIOR = 20.0  # pseudo-counts that a context's places are drawn towards the overall ones with


@dataclass(frozen=True, eq=False, kw_only=True)
class Guesses:
    """What other cells of a file say of hidden genes.

    Parameters
    ----------
    rank
        Frequencies at positions in those cells.
    detection
        ``(V,)`` float64 share of cells that hold a gene.
    loadings, effects
        ``(V, k)`` float64: a cell's components are its visible genes times `loadings`; what they add to the
        expected detection of each gene is `effects` times them.
    centre
        ``(k,)`` mean of the components.
    place
        ``(V,)`` int64 of each token in the order of medians; special tokens last.
    between
        ``(2 * 16, 33)`` float64: how often a gene lies where, by how its neighbours lie.
    """

    rank: RankPositionBaseline
    detection: np.ndarray
    loadings: np.ndarray
    effects: np.ndarray
    centre: np.ndarray
    place: np.ndarray
    between: np.ndarray


def fit_guesses(sequences: Sequence[np.ndarray], vocabulary: GeneVocabulary, *, seed: int = 0) -> Guesses:
    """Learn from cells that are not scored.

    Parameters
    ----------
    sequences
        Model inputs (special tokens in) of at least 10 cells.
    vocabulary
        Theirs.
    seed
        Of the masks that the fit hides genes behind, and of the components.

    Raises
    ------
    ValueError
        There are fewer than 10 cells.

    Examples
    --------
    >>> guesses = fit_guesses(others, vocabulary)  # doctest: +SKIP
    >>> score_guesses(guesses, cells)["coexpression"].summary()["accuracy"]  # doctest: +SKIP
    0.05
    """
    if len(sequences) < 10:
        raise ValueError(f"{len(sequences)} cells are too few to fit guesses to; give at least 10")
    hidden = masked_cells(sequences, vocabulary, seed=seed)
    present = _presence(sequences, vocabulary)
    visible = _presence([ids[labels == IGNORED] for ids, labels in hidden], vocabulary)
    loadings = _loadings(visible, seed=seed)
    components = np.asarray(visible @ loadings)
    centre = components.mean(axis=0)
    centred = components - centre
    detection = np.asarray(present.mean(axis=0)).ravel()
    # the intercept is the mean, since the components are centred
    gram = centred.T @ centred + _RIDGE * len(sequences) * np.eye(centred.shape[1])
    effects = np.linalg.solve(gram, np.asarray(present.T @ centred).T - np.outer(centred.sum(0), detection)).T
    place = median_places(vocabulary)
    return Guesses(
        rank=RankPositionBaseline.fit(sequences, vocabulary),
        detection=detection,
        loadings=loadings,
        effects=effects,
        centre=centre,
        place=place,
        between=_fit_between(hidden, place, vocabulary.n_special),
    )


def score_guesses(guesses: Guesses, cells: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, CellScores]:
    """Return the scores of the four guesses on cells with hidden genes.

    Parameters
    ----------
    guesses
        Fitted on other cells.
    cells
        (input_ids, labels) of each cell, as `geneformer_grn.training.validation.masked_cells` gives them.

    Returns
    -------
    dict
        `RANK`: how often each gene stands at the position. `COEXPRESSION`: that, times how much likelier the
        gene is in a cell that shows these genes. `INTERPOLATION` and `BOTH`: the two, spread over genes by
        where their median lies between those of the nearest visible neighbours.
    """
    names = (RANK, COEXPRESSION, INTERPOLATION, BOTH)
    found = {name: np.zeros((3, len(cells))) for name in names}
    in_order = np.argsort(guesses.place)
    for number, (input_ids, labels) in enumerate(cells):
        positions = np.flatnonzero(labels != IGNORED)
        answers = labels[positions]
        bins, row = np.unique(
            np.searchsorted(guesses.rank.edges, positions, side="right") - 1, return_inverse=True
        )
        shown = input_ids[labels == IGNORED]
        rank = guesses.rank.probabilities[bins]
        both = rank * _lift(guesses, shown)
        left, right = neighbours(input_ids, labels, guesses.place, guesses.rank.n_special)
        for name, weights in ((RANK, rank), (COEXPRESSION, both)):
            weights[:, shown] = 0.0
            weights /= weights.sum(axis=1, keepdims=True)
            found[name][:, number] = _scored(weights, row, answers)
            spread = INTERPOLATION if name == RANK else BOTH
            found[spread][:, number] = _interpolated(guesses, weights[:, in_order], row, answers, left, right)
    return {name: CellScores(*found[name]) for name in names}


def median_places(vocabulary: GeneVocabulary) -> np.ndarray:
    """Return the ``(V,)`` place of each token in the order of medians, special tokens last."""
    place = np.empty(len(vocabulary), dtype=np.int64)
    place[np.argsort(vocabulary.medians, kind="stable")] = np.arange(len(vocabulary))  # NaN sorts last
    return place


def neighbours(
    input_ids: np.ndarray, labels: np.ndarray, place: np.ndarray, n_special: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the nearest visible genes left and right of each hidden one.

    Left of the first visible gene is place -1, right of the last the number of places.
    """
    hidden = np.flatnonzero(labels != IGNORED)
    visible = np.flatnonzero((labels == IGNORED) & (input_ids >= n_special))
    known = np.concatenate([[-1], place[input_ids[visible]], [len(place)]])
    at = np.searchsorted(visible, hidden)
    return known[at], known[at + 1]


def where_between(place: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return where places lie: 0 between the neighbours, 1 to 16 above both, 17 to 32 below both.

    Distances are binned by powers of two.
    """
    low, high = np.minimum(left, right), np.maximum(left, right)
    above = 1 + _steps(np.maximum(place - high, 1))
    below = 1 + _STEPS + _steps(np.maximum(low - place, 1))
    return np.where(place > high, above, np.where(place < low, below, 0))


def _steps(distance: np.ndarray) -> np.ndarray:
    return np.minimum(np.floor(np.log2(distance)), _STEPS - 1).astype(np.int64)


def _context(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return how neighbours lie: the width between them by powers of two, later ones if in reverse order."""
    return _steps(np.abs(right - left) + 1) + np.where(right < left, _STEPS, 0)


def _fit_between(
    hidden: Sequence[tuple[np.ndarray, np.ndarray]], place: np.ndarray, n_special: int
) -> np.ndarray:
    counts = np.zeros((2 * _STEPS, _N_PLACES))
    for input_ids, labels in hidden:
        left, right = neighbours(input_ids, labels, place, n_special)
        answers = place[labels[labels != IGNORED]]
        np.add.at(counts, (_context(left, right), where_between(answers, left, right)), 1)
    overall = counts.sum(axis=0) + 1
    counts += _PRIOR * overall / overall.sum()
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def _presence(sequences: Sequence[np.ndarray], vocabulary: GeneVocabulary) -> sparse.csr_matrix:
    """Return ``(n, V)`` float64, 1 where a cell shows a gene."""
    genes = [ids[ids >= vocabulary.n_special] for ids in map(np.asarray, sequences)]
    genes = [ids[ids != vocabulary.special("<mask>")] for ids in genes]
    indptr = np.concatenate([[0], np.cumsum([len(ids) for ids in genes])])
    shape = (len(genes), len(vocabulary))
    return sparse.csr_matrix((np.ones(indptr[-1]), np.concatenate(genes), indptr), shape=shape)


def _loadings(visible: sparse.csr_matrix, *, seed: int) -> np.ndarray:
    """Return ``(V, k)`` loadings under which the components of the cells have variance 1 or less."""
    from sklearn.decomposition import TruncatedSVD

    k = min(N_COMPONENTS, visible.shape[0] - 1, visible.shape[1] - 1)
    model = TruncatedSVD(n_components=k, random_state=seed).fit(visible)
    spread = np.sqrt(np.maximum(model.explained_variance_, 1e-12))
    return np.asarray(model.components_.T / spread)


def _lift(guesses: Guesses, shown: np.ndarray) -> np.ndarray:
    """Return how much likelier each gene is to be hidden in a cell that shows these genes, ``(V,)``.

    A gene of the cell is hidden with the rate ``h``, so that one expected with probability q and not shown is
    hidden with probability ``hq / (1 - (1 - h)q)``.
    """
    shown = shown[shown >= guesses.rank.n_special]
    usual = guesses.detection
    expected = usual + guesses.effects @ (guesses.loadings[shown].sum(axis=0) - guesses.centre)
    floor = np.maximum(_LEAST_SHARE * usual, 1e-6)
    rate = SCORING_MASK.rate

    def odds(share: np.ndarray) -> np.ndarray:
        return rate * share / (1 - (1 - rate) * share)

    return odds(np.clip(expected, floor, 0.999)) / odds(np.clip(usual, floor, 0.999))


def _scored(weights: np.ndarray, row: np.ndarray, answers: np.ndarray) -> tuple[float, int, int]:
    """Return loss, hits and hidden genes of one cell, whose weights add up to 1 in every row."""
    loss = -float(np.log(weights[row, answers]).sum())
    return loss, int((weights.argmax(axis=1)[row] == answers).sum()), len(answers)


def _interpolated(
    guesses: Guesses, weights: np.ndarray, row: np.ndarray, answers: np.ndarray, left: np.ndarray,
    right: np.ndarray,
) -> tuple[float, int, int]:  # fmt: skip
    """Return the same where each gene's weight is spread by its place; columns in the order of places."""
    chances = guesses.between[_context(left, right)]
    loss, right_ones = 0.0, 0
    for number, answer in enumerate(guesses.place[answers]):
        own = weights[row[number]]
        # genes of one outcome lie side by side, in at most 33 runs
        starts, outcome = _runs(left[number], right[number], len(own))
        mass = np.add.reduceat(own, starts)
        chance = np.where(mass > 0, chances[number][outcome], 0.0)
        factor = chance / chance.sum() / np.where(mass > 0, mass, 1.0)
        run = int(np.searchsorted(starts, answer, side="right") - 1)
        loss -= float(np.log(factor[run] * own[answer]))
        best = int(np.argmax(factor * np.maximum.reduceat(own, starts)))
        end = starts[best + 1] if best + 1 < len(starts) else len(own)
        right_ones += int(starts[best] + np.argmax(own[starts[best] : end]) == answer)
    return loss, right_ones, len(answers)


def _runs(left: int, right: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where runs of places with one outcome start, ascending from 0, and their outcomes."""
    low, high = min(left, right), max(left, right)
    powers = 2 ** np.arange(_STEPS)
    above = high + powers
    below = low - powers[1:] + 1
    starts = np.unique(np.concatenate([[0], below, [low, high + 1], above]))
    starts = starts[(starts >= 0) & (starts < n)]
    return starts, where_between(starts, np.asarray(left), np.asarray(right))
