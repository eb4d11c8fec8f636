"""How attributions are made and judged: frozen records, read by every method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BASELINES = ("mask", "pad")
OCCLUSIONS = ("delete", "knockout")
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)


@dataclass(frozen=True, kw_only=True)
class AttributionSettings:
    """What the methods may be told.

    Parameters
    ----------
    baseline
        Integrated gradients: the token whose embedding stands in every gene's place in the cell that says
        nothing, ``mask`` (what the model knows as "some gene") or ``pad`` (zero in models of ours, which have
        never read it: the way from there leads through cells that are none).
    steps, most_steps
        Integrated gradients: steps of a cell, doubled until it is complete or they are so many.
    tolerance
        Integrated gradients: a cell is complete where the sum of its scores is off by at most this share.
    occlusion
        ``delete`` (later genes move up) or ``knockout`` (nothing moves).
    token_budget
        Tokens in one packed batch.
    """

    baseline: Literal["mask", "pad"] = "mask"
    steps: int = 16
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


@dataclass(frozen=True, kw_only=True)
class DeletionSettings:
    """How genes are taken away.

    Parameters
    ----------
    shares
        Shares of a cell's genes that are taken away together, ascending, between 0 and 1; at least one gene,
        and never all.
    kind
        ``delete`` or ``knockout``.
    n_random
        Random sets that each set of named genes is compared with.
    n_bins
        Neighbourhoods that a cell's ranking is cut into, of ten genes at least: a random gene stands in that
        of the gene it is compared with.
    token_budget
        Tokens in one packed batch.
    seed
        Seed of the random sets.
    """

    shares: tuple[float, ...] = SHARES
    kind: str = "delete"
    n_random: int = 4
    n_bins: int = 20
    token_budget: int = 16_384
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.shares or list(self.shares) != sorted(set(self.shares)):
            raise ValueError(f"shares must ascend, got {self.shares}")
        if not 0 < self.shares[0] <= self.shares[-1] < 1:
            raise ValueError(f"shares lie between 0 and 1, got {self.shares}")
        if self.kind not in OCCLUSIONS:
            raise ValueError(f"kind {self.kind!r} is unknown; use {' or '.join(OCCLUSIONS)}")
        for name in ("n_random", "n_bins", "token_budget"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
