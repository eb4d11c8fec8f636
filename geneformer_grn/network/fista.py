"""Elastic net regressions that share their predictors, solved side by side by accelerated proximal gradient.

Beck & Teboulle (2009), A fast iterative shrinkage-thresholding algorithm, SIAM J. Imaging Sciences 2; the
momentum of each regression restarts by itself (O'Donoghue & Candès 2015, Adaptive restart for accelerated
gradient schemes, Found. Comput. Math. 15). Only correlations enter, so a step costs the same however many
cells there were.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

MAX_STEPS = 20_000
_STEPS_BETWEEN_CHECKS = 10
ENTRIES_AT_ONCE = 2**26


@dataclass(frozen=True, eq=False)
class Regressions:
    """Correlations that define the regressions of all targets.

    Parameters
    ----------
    among
        ``(R, R)`` correlations among the predictors.
    cross
        ``(R, T)`` correlations with the targets.
    own
        ``(T,)`` int64, predictor that is the target itself and stays 0; -1 where none is.
    """

    among: torch.Tensor
    cross: torch.Tensor
    own: torch.Tensor

    @classmethod
    def of(
        cls,
        among: np.ndarray,
        cross: np.ndarray,
        own: np.ndarray,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> Regressions:
        """Put arrays where the steps will run."""
        return cls(
            torch.tensor(among, device=device, dtype=dtype),
            torch.tensor(cross, device=device, dtype=dtype),
            torch.tensor(own, device=device),
        )

    @cached_property
    def steepest(self) -> float:
        """Largest eigenvalue of `among`."""
        return float(torch.linalg.eigvalsh(self.among)[-1])

    def solve(self, start: np.ndarray, *, l1: float, l2: float, tolerance: float) -> tuple[np.ndarray, int]:
        """Minimise, for each target, ``bᵀ C b / 2 - cᵀ b + l1 |b|₁ + l2 |b|² / 2``.

        Parameters
        ----------
        start
            ``(R, T)`` weights to begin at.
        l1, l2
            Penalties.
        tolerance
            A target is done when no entry of its proximal gradient exceeds this.

        Returns
        -------
        tuple
            ``(R, T)`` weights, and the number of targets that were not done after `MAX_STEPS` steps.
        """
        weights = torch.tensor(start, device=self.cross.device, dtype=self.cross.dtype)
        at_once = max(ENTRIES_AT_ONCE // len(self.among), 1)
        unfinished = 0
        for first in range(0, weights.shape[1], at_once):
            part = weights[:, first : first + at_once]
            unfinished += self._descend(part, first, l1=l1, l2=l2, tolerance=tolerance)
        return weights.cpu().numpy(), unfinished

    def _descend(self, weights: torch.Tensor, first: int, *, l1: float, l2: float, tolerance: float) -> int:
        """Improve the weights of some targets in place; return how many did not converge."""
        step = 1.0 / (self.steepest + l2)
        columns = slice(first, first + weights.shape[1])
        inward = torch.eye(len(self.among), device=weights.device, dtype=weights.dtype) * (1.0 - step * l2)
        inward -= step * self.among
        pull, own = step * self.cross[:, columns], self.own[columns]
        left = torch.arange(weights.shape[1], device=weights.device)
        before = ahead = weights.clone()
        momentum = torch.ones(len(left), device=weights.device, dtype=weights.dtype)
        its_own = torch.nonzero(own >= 0)[:, 0]
        for count in range(1, MAX_STEPS + 1):
            found = torch.nn.functional.softshrink(torch.addmm(pull, inward, ahead), step * l1)
            found[own[its_own], its_own] = 0.0
            moved, gap = found - before, ahead - found
            grown = (1.0 + torch.sqrt(1.0 + 4.0 * momentum**2)) / 2.0
            overshot = (gap * moved).sum(dim=0) > 0
            ahead = found + torch.where(overshot, 0.0, (momentum - 1.0) / grown) * moved
            momentum = torch.where(overshot, 1.0, grown)
            before = found
            if count % _STEPS_BETWEEN_CHECKS:
                continue
            going = gap.abs().amax(dim=0) > tolerance * step
            if going.all():
                continue
            weights[:, left[~going]] = found[:, ~going]
            left, own, momentum = left[going], own[going], momentum[going]
            if len(left) == 0:
                return 0
            before, ahead, pull = before[:, going], ahead[:, going], pull[:, going]
            its_own = torch.nonzero(own >= 0)[:, 0]
        weights[:, left] = before
        return len(left)
