"""First-order estimates of what perturbing each gene of a cell would do, from a few passes through it.

Perturbing the genes of a cell one at a time takes a pass each. A backward pass has something to say about all
of them at once: the derivative by a gate on the gene's key (`perturbation.gated`), and, for deletion, what it
does that later tokens move up by one position. Two things are read off.

The shift towards a state is linear in small changes, so one backward pass gives it. The cell shift, one minus
the mean cosine, is quadratic: half the mean squared tangential change of the states. It is estimated by
random projections: for Gaussian ``u``, the square of ``u . change`` has that squared length as its mean, and
``u . change`` for all genes is one backward pass. Each projection is off by a factor of one chi-square, which
averages out over projections and cells.

In deletion the move of positions dominates and is the same for genes of equal rank. It is measured instead,
by exact passes in which all tokens behind a cut move up, at a few cuts per cell. Projections only add what
differs from the cuts between which a gene lies, as far as they tell it from their own noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geneformer_grn.cells.batches import pack, plan_by_budget
from geneformer_grn.cells.ranking import RankedCells, model_input
from geneformer_grn.model.encoder import Encoder
from geneformer_grn.perturbation.derivatives import CellRun, projections, towards_state
from geneformer_grn.perturbation.edits import InputLayout
from geneformer_grn.perturbation.readouts import aligned_cosines, state_cosines
from geneformer_grn.perturbation.requests import PerturbSettings

_FEWEST = 4  # projections, and cuts, of a cell
ESTIMATED = ("delete", "knockout")
"""Kinds with a first-order estimate. The others move a gene far, or bring one in: no small change."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much an estimate may cost.

    Parameters
    ----------
    projections
        Random projections per cell, a backward pass each; without any, the cell shift is not estimated.
    cuts
        Exact passes per cell in which all tokens behind a cut move up by one; for kind ``delete`` only.
    """

    projections: int = 16
    cuts: int = 32

    @classmethod
    def within(cls, passes: float, kind: str, *, n_states: int, cell_shift: bool) -> Effort:
        """Return what a cell may be estimated with in about `passes` passes, at least a few of each.

        Parameters
        ----------
        passes
            In all; a backward pass counts as two.
        kind
            What is estimated. For ``delete`` half goes into cuts.
        n_states
            States that shifts are measured towards.
        cell_shift
            Whether the cell shift is estimated.
        """
        left = passes - 1 - 2 * n_states
        cuts = max(int(left / 2), _FEWEST) if kind == "delete" else 0
        return cls(projections=max(int((left - cuts) / 2), _FEWEST) if cell_shift else 0, cuts=cuts)

    def passes(self, n_states: int) -> int:
        """Return what one cell costs, a backward pass counted as two."""
        return 1 + self.cuts + 2 * (self.projections + n_states)


@dataclass(frozen=True, eq=False)
class CellEstimate:
    """Estimates for the genes of one cell.

    Parameters
    ----------
    cell
        Row of the ranked cells.
    genes
        ``(g,)`` int64 tokens.
    values
        ``(g, 1 + s)`` float64: the cell shift (NaN without projections), then the shift towards each state.
    n_passes
        What they cost, a backward pass counted as two.
    """

    cell: int
    genes: np.ndarray
    values: np.ndarray
    n_passes: int


def estimate_cells(
    encoder: Encoder,
    ranked: RankedCells,
    cells: np.ndarray,
    kind: str,
    settings: PerturbSettings,
    *,
    effort: Effort | None = None,
    states: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
) -> Iterator[CellEstimate]:
    """Yield what perturbing each gene of each cell is estimated to do, cell after cell.

    Parameters
    ----------
    encoder, ranked
        The model, and cells ranked with its vocabulary. The estimate is computed in fp32.
    cells
        ``(n,)`` int64 rows; those of fewer than two genes are passed over.
    kind
        ``delete`` or ``knockout``.
    settings
        Layer, pooling and batch size.
    effort
        Projections and cuts.
    states
        Name -> ``(d,)`` mean embedding.
    seed
        Seed of the projections; those of a cell depend on it and on the cell's row alone.

    Raises
    ------
    ValueError
        A kind without an estimate, or an encoder layer that the model lacks.
    """
    require_estimate(kind)
    encoder.require_layer(settings.encoder_layer)
    one = _Cell(encoder, kind, settings, effort or Effort(), np.array(list((states or {}).values())))
    for cell in cells:
        ids = model_input(ranked.cell(int(cell)), encoder.vocabulary).astype(np.int64)
        if len(one.layout.genes(len(ids))) > 1:
            yield one.estimate(int(cell), ids, np.random.default_rng([seed, int(cell)]))


def require_estimate(kind: str) -> None:
    """Raise unless a kind has an estimate.

    Raises
    ------
    ValueError
        It has none.
    """
    if kind not in ESTIMATED:
        raise ValueError(
            f"there is no first-order estimate for kind {kind!r}, only for {' and '.join(ESTIMATED)}: it is "
            "no small change of a cell. Use perturb, which runs it exactly"
        )


class _Cell:
    """Estimates one cell at a time."""

    def __init__(
        self, encoder: Encoder, kind: str, settings: PerturbSettings, effort: Effort, states: np.ndarray
    ) -> None:
        self.layout = InputLayout.of(encoder.vocabulary)
        self._encoder = encoder
        self._moves = kind == "delete"
        self._settings = settings
        self._effort = effort
        self._states = states
        self._is_cls = settings.pooling_for(encoder.vocabulary) == "cls"

    def estimate(self, cell: int, ids: np.ndarray, rng: np.random.Generator) -> CellEstimate:
        """Return the estimates of one model input ``(L,)``."""
        genes = self.layout.genes(len(ids))
        read = np.zeros(1, dtype=np.int64) if self._is_cls else genes
        run = CellRun(self._encoder, ids, self._settings.encoder_layer)
        rows = torch.from_numpy(read).to(run.states.device)
        drawn = projections(run.states[rows], self._effort.projections, rng)
        by_shift = np.array([run.changes(direction, rows) for direction in drawn])
        gradients = (towards_state(run.states[rows], state) for state in self._states)
        by_state = np.array([run.changes(gradient, rows) for gradient in gradients])
        # Two for each backward pass, over the genes: their gates shut, and the tokens behind them moved up.
        shut, moved = by_shift.reshape(-1, 2, len(ids)).transpose(1, 0, 2)[..., genes]
        towards = by_state.reshape(-1, 2, len(ids))[:, 0, genes].T
        n_passes = 1 + 2 * (len(shut) + len(self._states))
        if self._moves:
            cuts = self._run_cuts(ids, genes, read, run.states)
            n_passes += len(cuts.places)
            between = interpolation(len(genes), cuts.places)
            differs = (shut + moved) ** 2 - moved[:, cuts.places] ** 2 @ between
            shift = np.maximum(cuts.shifts @ between + shrunken_mean(differs), 0.0)
            towards = towards + self._moved_towards(between.T @ cuts.pooled, run.states, genes)
        else:
            shift = (shut**2).sum(axis=0) / max(len(shut), 1)
        if not len(shut):
            shift[:] = np.nan
        return CellEstimate(cell, ids[genes], np.column_stack([shift, towards]), n_passes)

    def _run_cuts(self, ids: np.ndarray, genes: np.ndarray, read: np.ndarray, states: Tensor) -> _Cuts:
        """Run the cell with all tokens behind a cut moved up by one, at a few cuts."""
        n_cuts = min(self._effort.cuts, len(genes))
        places = np.unique(np.linspace(0, len(genes) - 1, n_cuts).round().astype(np.int64))
        positions = np.arange(len(ids), dtype=np.int64)
        shifts, pooled = np.empty(len(places)), np.empty((len(places), states.shape[1]))
        for part in plan_by_budget(np.full(len(places), len(ids)), self._settings.token_budget):
            moved = [positions - (positions > genes[places[number]]) for number in part]
            batch = pack([ids] * len(part), position_ids=moved)
            after = self._encoder.hidden_states(batch, encoder_layer=self._settings.encoder_layer)
            for row, number in enumerate(part):
                own = after[row * len(ids) : (row + 1) * len(ids)]
                shifts[number] = 1.0 - aligned_cosines(states, own, read, read).mean()
                pooled[number] = _pooled(own, read)
        return _Cuts(places, shifts, pooled)

    def _moved_towards(self, pooled: np.ndarray, states: Tensor, genes: np.ndarray) -> np.ndarray:
        """Return ``(g, s)``: how the move and the gene's own absence from the pool change the cosines.

        `pooled` ``(g, d)`` are the pooled states after the move behind each gene.
        """
        if not len(self._states):
            return np.empty((len(genes), 0))
        if self._is_cls:
            before = _pooled(states, np.zeros(1, dtype=np.int64))
        else:
            before = _pooled(states, genes)
            own = states[torch.from_numpy(genes).to(states.device)].double().cpu().numpy()
            pooled = (pooled * len(genes) - own) / (len(genes) - 1)
        return state_cosines(pooled, self._states) - state_cosines(before[None], self._states)


@dataclass(frozen=True, eq=False)
class _Cuts:
    """What moving up all tokens behind a gene does: which gene, the cell shift, the pooled state."""

    places: np.ndarray
    shifts: np.ndarray
    pooled: np.ndarray


def _pooled(states: Tensor, rows: np.ndarray) -> np.ndarray:
    """Return the ``(d,)`` float64 mean of some rows."""
    return np.asarray(states[torch.from_numpy(rows).to(states.device)].double().mean(dim=0).cpu().numpy())


def shrunken_mean(samples: np.ndarray) -> np.ndarray:
    """Return the mean ``(n,)`` of samples ``(k, n)``, drawn towards 0 by what of it is noise.

    The factor is the share of the mean's squares, over all n, that the spread of the samples does not
    account for (James and Stein 1961); 0 below two samples, of which no spread is known.
    """
    if len(samples) < 2:
        return np.zeros(samples.shape[1])
    mean = samples.mean(axis=0)
    noise, total = float((samples.var(axis=0, ddof=1) / len(samples)).sum()), float((mean**2).sum())
    return np.asarray(mean * max(1.0 - noise / total, 0.0)) if total > 0.0 else mean


def interpolation(n: int, places: np.ndarray) -> np.ndarray:
    """Return the ``(c, n)`` weights of linear interpolation from ascending `places` to 0 .. n - 1."""
    return np.array([np.interp(np.arange(n), places, unit) for unit in np.eye(len(places))])
