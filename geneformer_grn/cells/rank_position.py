"""The baseline a masked-gene model has to beat: which genes stand at a rank, minus those seen in the cell.

It guesses a hidden gene from its position alone: the frequency of genes at that position of the training
cells, set to zero for the genes visible in the cell (a cell holds each gene once) and renormalised. It knows
nothing of which genes go together, so what a model gains over it was learnt from the other genes.

Positions are pooled into bins that widen with depth, and each bin's frequencies are drawn towards the genes'
overall ones (a Dirichlet prior) by the strength that predicts each training count best from the others.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from geneformer_grn._runtime import atomic_path
from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.cells.masking import IGNORED
from geneformer_grn.genes.vocabulary import GeneVocabulary

N_BINS = 48
_STRENGTHS = tuple(10.0 ** (power / 2) for power in range(2, 15))  # 10 to 10 million pseudo-counts a bin
_BLOCK_CELLS = 4096


@dataclass(frozen=True, eq=False)
class RankPositionBaseline:
    """Frequencies of genes at positions.

    Parameters
    ----------
    counts
        ``(B, V)`` int64; how often each token stood in each bin of positions in the training cells.
    edges
        ``(B,)`` int64; first position of each bin. Positions are those of the model input, specials included.
    strength
        Pseudo-counts that each bin's frequencies are drawn towards the overall ones with.
    n_special
        Special tokens, which are never guessed.
    fingerprint
        Of the vocabulary.
    """

    counts: np.ndarray
    edges: np.ndarray
    strength: float
    n_special: int
    fingerprint: str

    @classmethod
    def fit(
        cls,
        corpus: Corpus | Iterable[np.ndarray],
        vocabulary: GeneVocabulary,
        max_length: int | None = None,
        *,
        cells: np.ndarray | None = None,
    ) -> RankPositionBaseline:
        """Count the genes at each position of training cells.

        Parameters
        ----------
        corpus
            Training cells only: a corpus, or model inputs (specials in).
        vocabulary
            Theirs.
        max_length
            Longest input; later positions are not counted. Default the vocabulary's.
        cells
            Cells of the corpus to use; None: all.

        Raises
        ------
        VocabularyMismatchError
            The corpus has another vocabulary.
        ValueError
            There are no genes to count.
        """
        if isinstance(corpus, Corpus):
            corpus.require_vocabulary(vocabulary)
            chosen = range(len(corpus)) if cells is None else np.asarray(cells).tolist()
            sequences: Iterable[np.ndarray] = (corpus.cell(cell) for cell in chosen)
        else:
            sequences = corpus
        edges = position_bins(vocabulary.max_length if max_length is None else max_length)
        counts = _count(sequences, edges, len(vocabulary), max_length=max_length or vocabulary.max_length)
        counts[:, : vocabulary.n_special] = 0
        if counts.sum() == 0:
            raise ValueError("there are no genes in these cells to fit a baseline to")
        return cls(
            counts=counts,
            edges=edges,
            strength=_best_strength(counts, vocabulary.n_special),
            n_special=vocabulary.n_special,
            fingerprint=vocabulary.fingerprint,
        )

    @cached_property
    def probabilities(self) -> np.ndarray:
        """``(B, V)`` float64 probability of each gene in each bin, before anything is visible."""
        prior = _overall(self.counts, self.n_special)
        totals = self.counts.sum(axis=1, keepdims=True)
        return (self.counts + self.strength * prior) / (totals + self.strength)

    def log_probabilities(self, positions: np.ndarray, visible: np.ndarray) -> np.ndarray:
        """Return what the baseline expects at hidden positions of one cell.

        Parameters
        ----------
        positions
            ``(M,)`` hidden positions in the model input.
        visible
            ``(k,)`` tokens that the cell shows; they cannot be hidden too.

        Returns
        -------
        numpy.ndarray
            ``(M, V)`` float32 natural logarithms; -inf for visible genes and special tokens.
        """
        bins, row = np.unique(self._bin_of(positions), return_inverse=True)
        return self._hidden(bins, visible).astype(np.float32)[row]

    def score(self, cells: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
        """Return how well hidden genes are guessed.

        Parameters
        ----------
        cells
            (input_ids, labels) of each cell, both ``(l,)``, as `mask_cell` gives them. Visible are the tokens
            whose label is -100: a gene that was asked about but left in place is not given away.

        Returns
        -------
        dict
            ``loss`` (mean, nats per hidden gene), ``accuracy`` (share guessed first), ``n_masked``.

        Raises
        ------
        ValueError
            Nothing is hidden.
        """
        loss, right, n_masked = 0.0, 0, 0
        for input_ids, labels in cells:
            positions = np.flatnonzero(labels != IGNORED)
            answers = labels[positions]
            bins, row = np.unique(self._bin_of(positions), return_inverse=True)
            log_p = self._hidden(bins, input_ids[labels == IGNORED])
            loss -= float(log_p[row, answers].sum())
            right += int((log_p.argmax(axis=1)[row] == answers).sum())
            n_masked += len(positions)
        if n_masked == 0:
            raise ValueError("no gene is hidden in these cells, so there is nothing to score")
        return {"loss": loss / n_masked, "accuracy": right / n_masked, "n_masked": n_masked}

    def save(self, path: Path | str) -> None:
        """Write an ``.npz`` file of plain arrays, atomically."""
        with atomic_path(path) as temporary, temporary.open("wb") as handle:
            np.savez_compressed(
                handle,
                counts=self.counts.astype(np.uint32),
                edges=self.edges,
                strength=np.float64(self.strength),
                n_special=np.int64(self.n_special),
                fingerprint=np.str_(self.fingerprint),
            )

    @classmethod
    def load(cls, path: Path | str) -> RankPositionBaseline:
        """Read what :meth:`save` wrote.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        ValueError
            It is not such a file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(
                    counts=arrays["counts"].astype(np.int64),
                    edges=arrays["edges"],
                    strength=float(arrays["strength"]),
                    n_special=int(arrays["n_special"]),
                    fingerprint=str(arrays["fingerprint"]),
                )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is not a rank-position baseline: {error}") from error

    def _bin_of(self, positions: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.edges, positions, side="right") - 1

    def _hidden(self, bins: np.ndarray, visible: np.ndarray) -> np.ndarray:
        """Return ``(len(bins), V)`` float64 log-probabilities, renormalised without the visible genes."""
        remaining = self.probabilities[bins]
        remaining[:, np.asarray(visible, dtype=np.int64)] = 0.0
        with np.errstate(divide="ignore"):
            return np.log(remaining) - np.log(remaining.sum(axis=1, keepdims=True))


def position_bins(max_length: int, n_bins: int = N_BINS) -> np.ndarray:
    """Return the first position of each bin, ``(<= n_bins,)`` int64: single ones first, then ever wider."""
    edges = np.geomspace(1, max(max_length, 2), n_bins, endpoint=False)
    return np.unique(np.concatenate([[0], np.floor(edges).astype(np.int64)]))[:n_bins]


def _count(
    sequences: Iterable[np.ndarray], edges: np.ndarray, n_tokens: int, *, max_length: int
) -> np.ndarray:
    """Return the ``(B, V)`` int64 counts of tokens in bins, from blocks of cells."""
    bin_at = np.searchsorted(edges, np.arange(max_length), side="right") - 1
    counts = np.zeros(len(edges) * n_tokens, dtype=np.int64)
    block: list[np.ndarray] = []

    def add() -> None:
        lengths = [len(ids) for ids in block]
        bins = np.concatenate([bin_at[:length] for length in lengths])
        keys = bins * n_tokens + np.concatenate(block)
        counts[:] += np.bincount(keys, minlength=len(counts))
        block.clear()

    for ids in sequences:
        block.append(np.asarray(ids[:max_length], dtype=np.int64))
        if len(block) == _BLOCK_CELLS:
            add()
    if block:
        add()
    return counts.reshape(len(edges), n_tokens)


def _overall(counts: np.ndarray, n_special: int) -> np.ndarray:
    """Return the ``(V,)`` float64 overall frequencies; each gene counts once more, so none is impossible."""
    overall = counts.sum(axis=0) + 1.0
    overall[:n_special] = 0.0
    return overall / overall.sum()


def _best_strength(counts: np.ndarray, n_special: int) -> float:
    """Return the pseudo-counts under which each count is best predicted by the others of its bin.

    The leave-one-out likelihood of a Dirichlet-multinomial with its mean fixed, in closed form.
    """
    rows, columns = np.nonzero(counts)
    seen = counts[rows, columns]
    totals = counts.sum(axis=1)[rows]
    prior = _overall(counts, n_special)[columns]
    losses = [
        -float((seen * np.log((seen - 1 + strength * prior) / (totals - 1 + strength))).sum())
        for strength in _STRENGTHS
    ]
    return _STRENGTHS[int(np.argmin(losses))]
