"""What is read off the states before and after an edit: cosines of genes, pooled states, gene shifts.

States arrive as the encoder gives them (float32, packed, on its device); cosines are taken in float64,
since a shift is one minus a number very close to one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from geneformer_grn.perturbation.edits import Edit

_ROWS = 1 << 15  # aligned pairs converted to float64 at a time


def _float64(states: torch.Tensor) -> torch.Tensor:
    """Return `states` in float64 (on the CPU where the device has no float64)."""
    return (states.cpu() if states.device.type == "mps" else states).double()


def flat_index(indices: Sequence[np.ndarray], starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return positions within a pack, and the segment each belongs to.

    Parameters
    ----------
    indices
        n arrays ``(k_i,)`` int64; positions within the i-th segment.
    starts
        ``(n,)`` int64; where each segment starts.

    Returns
    -------
    Two ``(sum k_i,)`` int64 arrays.
    """
    sizes = np.array([len(index) for index in indices], dtype=np.int64)
    segment = np.repeat(np.arange(len(indices), dtype=np.int64), sizes)
    return np.concatenate([*indices, np.empty(0, dtype=np.int64)]) + starts[segment], segment


def aligned_cosines(
    before: torch.Tensor, after: torch.Tensor, before_index: np.ndarray, after_index: np.ndarray
) -> np.ndarray:
    """Return the cosine of each pair of rows.

    Parameters
    ----------
    before, after
        ``(S, d)`` and ``(T, d)`` states.
    before_index, after_index
        ``(K,)`` int64 rows to pair.

    Returns
    -------
    ``(K,)`` float64.
    """
    cosines = np.empty(len(before_index))
    for start in range(0, len(before_index), _ROWS):
        part = slice(start, start + _ROWS)
        rows_before = torch.from_numpy(before_index[part]).to(before.device)
        rows_after = torch.from_numpy(after_index[part]).to(after.device)
        pair = torch.nn.functional.cosine_similarity(
            _float64(before[rows_before]), _float64(after[rows_after]), dim=1
        )
        cosines[part] = pair.cpu().numpy()
    return cosines


def segment_means(values: np.ndarray, segment: np.ndarray, n_segments: int) -> np.ndarray:
    """Return the ``(n_segments,)`` mean of `values` ``(K,)`` in each segment; NaN in empty ones."""
    count = np.bincount(segment, minlength=n_segments).astype(np.float64)
    total = np.bincount(segment, weights=values, minlength=n_segments)
    return np.divide(total, count, out=np.full(n_segments, np.nan), where=count > 0)


def pooled_states(states: torch.Tensor, indices: Sequence[np.ndarray], starts: np.ndarray) -> np.ndarray:
    """Return the mean state of each segment's positions.

    Parameters
    ----------
    states
        ``(T, d)`` packed states.
    indices, starts
        Positions within each segment and where it starts, as in `flat_index`.

    Returns
    -------
    ``(n, d)`` float64.
    """
    means = [
        _float64(states[torch.from_numpy(index + start).to(states.device)]).mean(dim=0).cpu().numpy()
        for index, start in zip(indices, starts, strict=True)
    ]
    return np.stack(means)


def state_cosines(pooled: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Return the ``(n, s)`` float64 cosines of cells ``(n, d)`` with mean states ``(s, d)``."""
    unit_cells = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    unit_states = states / np.linalg.norm(states, axis=1, keepdims=True)
    return np.asarray(unit_cells @ unit_states.T)


class GeneShifts:
    """Running mean over cells of the cosine of every (perturbed, affected) pair.

    Memory grows with the pairs that occur, not with the cells: new values are buffered and merged into one
    sorted table whenever the buffer outgrows it.

    Parameters
    ----------
    n_tokens
        Size of the vocabulary.
    """

    def __init__(self, n_tokens: int) -> None:
        self._n_tokens = n_tokens
        self._pairs: np.ndarray = np.empty(0, dtype=np.int64)
        self._totals: np.ndarray = np.empty(0)
        self._counts: np.ndarray = np.empty(0, dtype=np.int64)
        self._buffer: list[tuple[np.ndarray, np.ndarray]] = []
        self._buffered = 0

    def add(self, request: np.ndarray, affected: np.ndarray, cosines: np.ndarray) -> None:
        """Take ``(K,)`` values: number of the request, affected token, cosine of its states."""
        self._buffer.append((request.astype(np.int64) * self._n_tokens + affected, cosines))
        self._buffered += len(cosines)
        if self._buffered > max(len(self._pairs), 1 << 21):
            self._merge()

    def _merge(self) -> None:
        pairs = np.concatenate([self._pairs, *(pairs for pairs, _ in self._buffer)])
        totals = np.concatenate([self._totals, *(cosines for _, cosines in self._buffer)])
        counts = np.concatenate([self._counts, np.ones(self._buffered, dtype=np.int64)])
        self._pairs, where = np.unique(pairs, return_inverse=True)
        self._totals = np.bincount(where, weights=totals, minlength=len(self._pairs))
        self._counts = np.bincount(where, weights=counts, minlength=len(self._pairs)).astype(np.int64)
        self._buffer, self._buffered = [], 0

    def result(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return request, affected token, mean cosine and number of cells of every pair seen, sorted."""
        self._merge()
        request, affected = np.divmod(self._pairs, self._n_tokens)
        return request, affected, self._totals / np.maximum(self._counts, 1), self._counts


def affected_genes(edits: Sequence[Edit]) -> np.ndarray:
    """Return the tokens ``(K,)`` of the unperturbed genes of `edits`, in aligned order."""
    parts = [edit.input_ids[edit.perturbed_index] for edit in edits]
    return np.concatenate([*parts, np.empty(0, dtype=np.int64)])
