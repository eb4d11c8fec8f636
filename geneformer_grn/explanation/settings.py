"""How attributions are made: one frozen record for all methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BASELINES = ("pad", "mask")
OCCLUSIONS = ("delete", "knockout")


@dataclass(frozen=True, kw_only=True)
class AttributionSettings:
    """What the methods may be told.

    Parameters
    ----------
    baseline
        Integrated gradients: the token whose embedding stands in every gene's place in the cell that says
        nothing, ``pad`` (zero in models of ours) or ``mask`` (what the model knows as "some gene").
    steps, most_steps
        Integrated gradients: steps of a cell, doubled until it is complete or they are so many.
    tolerance
        Integrated gradients: a cell is complete where the sum of its scores is off by at most this share.
    occlusion
        ``delete`` (later genes move up) or ``knockout`` (nothing moves).
    token_budget
        Tokens in one packed batch.
    """

    baseline: Literal["pad", "mask"] = "pad"
    steps: int = 32
    most_steps: int = 512
    tolerance: float = 0.01
    occlusion: Literal["delete", "knockout"] = "delete"
    token_budget: int = 16_384

    def __post_init__(self) -> None:
        for name, known in (("baseline", BASELINES), ("occlusion", OCCLUSIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r} is unknown; use {' or '.join(known)}")
        if not 1 <= self.steps <= self.most_steps:
            raise ValueError(f"steps must be from 1 to most_steps ({self.most_steps}), got {self.steps}")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance must be above 0, got {self.tolerance}")
        if self.token_budget < 1:
            raise ValueError(f"token_budget must be at least 1, got {self.token_budget}")
