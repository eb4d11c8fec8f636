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

from geneformer_grn._runtime import logger

MAX_STEPS = 20_000
_STEPS_BETWEEN_CHECKS = 10
_ENTRIES_AT_ONCE = {"cpu": 2**18, "cuda": 2**26}  # on a CPU, what stays in the cache


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

    def residual(self, weights: torch.Tensor) -> torch.Tensor:
        """Return the share of each target's variance that `weights` leave, ``(T,)``."""
        return 1.0 + (weights * (self.among @ weights - 2.0 * self.cross)).sum(dim=0)

    def solve(
        self, start: torch.Tensor, *, penalty: float, l1_ratio: float, tolerance: float
    ) -> torch.Tensor:
        """Minimise, for each target, ``bᵀ C b / 2 - cᵀ b + penalty · (ratio |b|₁ + (1 - ratio) / 2 |b|²)``.

        Parameters
        ----------
        start
            ``(R, T)`` weights to begin at.
        penalty, l1_ratio
            Of the objective.
        tolerance
            A target is done when no entry of its proximal gradient exceeds this.

        Returns
        -------
        Tensor
            ``(R, T)`` weights; a warning tells how many targets were not done after `MAX_STEPS` steps.
        """
        weights = start.clone()
        at_once = max(_ENTRIES_AT_ONCE.get(self.cross.device.type, 2**26) // len(self.among), 1)
        unfinished = 0
        l1, l2 = penalty * l1_ratio, penalty * (1.0 - l1_ratio)
        for first in range(0, weights.shape[1], at_once):
            unfinished += self._descend(
                weights[:, first : first + at_once], first, l1=l1, l2=l2, tolerance=tolerance
            )
        if unfinished:
            logger.warning(
                "%d of %d regressions at penalty %.3g did not converge in %d steps; their weights are "
                "approximate (a larger penalty, or fewer regulators that are alike, would help)",
                unfinished, weights.shape[1], penalty, MAX_STEPS,
            )  # fmt: skip
        return weights

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
