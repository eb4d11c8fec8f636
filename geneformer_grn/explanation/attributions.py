"""What every method gives: a number for each gene of each cell, cells end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.explanation.target import Explained


@dataclass(frozen=True, eq=False)
class Attributions:
    """How much each gene of each cell speaks for what is explained.

    Parameters
    ----------
    method
        Name of the method.
    cells
        ``(n,)`` int64 rows of the ranked cells.
    targets
        ``(n,)`` int64 class explained in each; 0 where the head gives one number.
    tokens
        ``(m,)`` int64 genes as the model reads them, highest rank first, cell after cell.
    offsets
        ``(n+1,)`` int64; cell `i` is ``tokens[offsets[i]:offsets[i + 1]]``.
    scores
        ``(m,)`` float64, positive: speaks for the class.
    outputs
        ``(n,)`` float64 explained number of each cell, see `explanation.target`; NaN where not computed.
    baseline_outputs
        ``(n,)`` float64, that of the baseline; NaN for methods without one.
    steps
        ``(n,)`` int64 steps of integration; 0 for methods without.
    """

    method: str
    cells: np.ndarray
    targets: np.ndarray
    tokens: np.ndarray
    offsets: np.ndarray
    scores: np.ndarray
    outputs: np.ndarray
    baseline_outputs: np.ndarray
    steps: np.ndarray

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def cell_of(self) -> np.ndarray:
        """Which of the ``n`` cells each of the ``m`` genes is of, ``(m,)`` int64."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @property
    def completeness_error(self) -> np.ndarray:
        """``(n,)`` float64: how far the scores of a cell are from adding up, as a share of what they should.

        Integrated gradients add up to the output less the baseline's (Sundararajan et al. 2017). NaN for
        methods that do not promise it.
        """
        sums = np.bincount(self.cell_of, weights=self.scores, minlength=len(self))
        difference = self.outputs - self.baseline_outputs
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.abs(sums - difference) / np.abs(difference)

    def with_scores(self, scores: np.ndarray) -> Attributions:
        """Return the same cells and genes with other scores ``(m,)``, which need not add up to anything."""
        nothing = np.full(len(self), np.nan)
        return replace(self, scores=np.asarray(scores, dtype=np.float64), baseline_outputs=nothing)


def empty_attributions(
    method: str, explained: Explained, ranked: RankedCells, cells: np.ndarray, targets: np.ndarray
) -> Attributions:
    """Return the genes of some cells with a score of 0 each, to be filled in.

    Raises
    ------
    ValueError
        There are no cells, or as many targets as cells are missing, or a cell has no gene.
    """
    cells, targets = np.asarray(cells, dtype=np.int64), np.asarray(targets, dtype=np.int64)
    if len(cells) == 0 or len(cells) != len(targets):
        raise ValueError(f"{len(cells):,} cells with {len(targets):,} classes to explain; need one for each")
    inputs = [explained.input_of(ranked, cell) for cell in cells]
    genes = [ids[explained.is_gene(ids)] for ids in inputs]
    lengths = np.array([len(part) for part in genes], dtype=np.int64)
    if lengths.min() == 0:
        raise ValueError(f"cell {cells[lengths.argmin()]} holds no gene that the model knows; leave it out")
    return Attributions(
        method=method,
        cells=cells,
        targets=targets,
        tokens=np.concatenate(genes),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        scores=np.zeros(int(lengths.sum())),
        outputs=np.full(len(cells), np.nan),
        baseline_outputs=np.full(len(cells), np.nan),
        steps=np.zeros(len(cells), dtype=np.int64),
    )


def averaged(parts: Sequence[Attributions]) -> Attributions:
    """Return the mean of what several models say of the same cells.

    Parameters
    ----------
    parts
        By the same method, of the same cells and classes.

    Raises
    ------
    ValueError
        They are not of the same cells, genes and classes.
    """
    first = parts[0]
    for other in parts[1:]:
        same = all(
            np.array_equal(getattr(first, name), getattr(other, name))
            for name in ("cells", "targets", "tokens", "offsets")
        )
        if not same:
            raise ValueError("models that explain other cells, genes or classes cannot be averaged")
    if len(parts) == 1:
        return first
    return replace(
        first,
        scores=np.mean([part.scores for part in parts], axis=0),
        outputs=np.mean([part.outputs for part in parts], axis=0),
        baseline_outputs=np.mean([part.baseline_outputs for part in parts], axis=0),
        steps=np.max([part.steps for part in parts], axis=0),
    )
