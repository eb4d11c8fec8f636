"""What is read off the states before and after an edit: cosines of genes, pooled states, gene shifts.

States arrive as the encoder gives them (float32, packed, on its device); cosines are taken in float64,
since a shift is one minus a number very close to one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.perturbation.cosines import cosines_of_rows
from geneformer_grn.perturbation.edits import Edit
from geneformer_grn.perturbation.sums import PairSums, mean_and_sd, pair_columns

GENE_SHIFT_COLUMNS = (
    "gene", "affected", "kind", "group", "shift", "shift_sd", "signed_shift", "signed_shift_sd", "n_cells",
)  # fmt: skip
_GENE_SHIFT_SUMS = ("shift", "shift_squared", "signed", "signed_squared", "n_signed")
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
    if before.device.type == "cpu" and before.dtype == after.dtype == torch.float32:
        cosines_of_rows(before.numpy(), after.numpy(), before_index, after_index, cosines)
        return cosines
    for start in range(0, len(before_index), _ROWS):
        part = slice(start, start + _ROWS)
        rows_before = torch.from_numpy(before_index[part]).to(before.device)
        rows_after = torch.from_numpy(after_index[part]).to(after.device)
        pair = torch.nn.functional.cosine_similarity(
            _float64(before[rows_before]), _float64(after[rows_after]), dim=1
        )
        cosines[part] = pair.cpu().numpy()
    return cosines


def signed_shifts(
    before: torch.Tensor,
    after: torch.Tensor,
    before_index: np.ndarray,
    after_index: np.ndarray,
    directions: torch.Tensor,
    direction_of: np.ndarray,
) -> np.ndarray:
    """Return how far each pair of rows moved along a direction of its own.

    Parameters
    ----------
    before, after, before_index, after_index
        As in `aligned_cosines`.
    directions
        ``(V, d)`` directions divided by the unit of the shift, on the device of the states. NaN where there
        is none.
    direction_of
        ``(K,)`` int64; the direction of each pair.

    Returns
    -------
    ``(K,)`` float64.
    """
    shifts = np.empty(len(before_index))
    for start in range(0, len(before_index), _ROWS):
        part = slice(start, start + _ROWS)
        rows_before = torch.from_numpy(before_index[part]).to(before.device)
        rows_after = torch.from_numpy(after_index[part]).to(after.device)
        moved = _float64(after[rows_after]) - _float64(before[rows_before])
        along = _float64(directions[torch.from_numpy(direction_of[part]).to(directions.device)])
        shifts[part] = (moved * along).sum(dim=1).cpu().numpy()
    return shifts


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
    """Sums over cells of how far each gene moved, for every (perturbed, affected) pair.

    A shift is one minus the cosine of the gene's states. The signed shift is how far its state moved along
    the gene's own axis of variation, see `axes`. Shifts are summed and not cosines, whose squares would
    leave nothing of a spread of 1e-6.

    Parameters
    ----------
    n_tokens
        Size of the vocabulary.
    """

    def __init__(self, n_tokens: int) -> None:
        self._sums = PairSums(n_tokens, _GENE_SHIFT_SUMS)

    def add(
        self,
        request: np.ndarray,
        affected: np.ndarray,
        cosines: np.ndarray,
        signed: np.ndarray | None = None,
    ) -> None:
        """Take ``(K,)`` values.

        Parameters
        ----------
        request
            Number of the request.
        affected
            Affected token.
        cosines
            Cosine of its states before and after.
        signed
            Signed shift, NaN where the gene has no axis; None: no axes were asked for.
        """
        shifts = 1.0 - cosines
        known = np.zeros(len(shifts), dtype=bool) if signed is None else np.isfinite(signed)
        along = np.zeros(len(shifts)) if signed is None else np.where(known, signed, 0.0)
        values = np.column_stack([shifts, shifts**2, along, along**2, known])
        self._sums.add(request, affected, values)

    def frame(self) -> pd.DataFrame:
        """Return the sums of each pair, sorted by ``request`` and ``affected``; they add over parts of a run.

        Columns ``request``, ``affected`` (token), ``n_cells``, ``shift``, ``shift_squared``, ``signed``,
        ``signed_squared`` and ``n_signed``, the cells in which the signed shift is known (all or none of
        them).
        """
        return self._sums.frame()


def gene_shift_table(
    sums: pd.DataFrame, names: np.ndarray, kinds: np.ndarray, groups: np.ndarray, vocabulary: GeneVocabulary
) -> pd.DataFrame:
    """Return the table of gene shifts: one row per request and affected gene, in the order of `sums`.

    Parameters
    ----------
    sums
        As `GeneShifts.frame` gives them, added over all parts.
    names, kinds, groups
        ``(n,)`` str: name of the gene set, kind and cell group of each request.
    vocabulary
        What the affected tokens mean.

    Returns
    -------
    pd.DataFrame
        `GENE_SHIFT_COLUMNS`: ``shift`` is one minus the mean cosine of the affected gene's states, and
        ``shift_sd`` its standard deviation over cells (divided by n, as the reference has it).
        ``signed_shift`` is the mean movement along the gene's own axis, in standard deviations along it:
        positive is how the gene looks in cells where it ranks higher. It is NaN where the gene has no axis.
    """
    shift, spread = mean_and_sd(sums, "shift")
    signed, signed_spread = mean_and_sd(sums, "signed", count="n_signed")
    columns = pair_columns(sums, names, kinds, groups, vocabulary) | {
        "shift": shift,
        "shift_sd": spread,
        "signed_shift": signed,
        "signed_shift_sd": signed_spread,
        "n_cells": sums["n_cells"].to_numpy(),
    }
    return pd.DataFrame(columns)[list(GENE_SHIFT_COLUMNS)]


def affected_genes(edits: Sequence[Edit]) -> np.ndarray:
    """Return the tokens ``(K,)`` of the unperturbed genes of `edits`, in aligned order."""
    parts = [edit.input_ids[edit.perturbed_index] for edit in edits]
    return np.concatenate([*parts, np.empty(0, dtype=np.int64)])
