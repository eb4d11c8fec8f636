"""What is asked of the engine: which genes in which cells, and what to read off."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.perturbation.edits import require_kind

Pooling = Literal["mean", "cls"]

READOUTS = ("cell", "state", "genes", "expression")
_MOST_MASKED = 0.5  # beyond that, more of a cell is hidden than shown


@dataclass(frozen=True, kw_only=True)
class PerturbSettings:
    """How perturbed cells are encoded and what is read off.

    Parameters
    ----------
    encoder_layer
        0 is the last layer, -1 the one before.
    pooling
        ``mean``: the cell shift is the mean over unperturbed genes of their cosines, and states are
        compared by the mean over genes; ``cls``: both by the ``<cls>`` state. None: as the reference does
        for the vocabulary's setting, ``cls`` for v2 and ``mean`` otherwise.
    token_budget
        Tokens in one packed batch.
    readouts
        Of ``cell``, ``state`` (needs states), ``genes`` and ``expression``.
    quartiles
        How far the kinds ``inhibit`` and ``activate`` move a gene, 1 to 3.
    masked_share
        For the readout ``expression``, at most about which share of a cell's genes is masked at a time; above
        0 and at most 0.5. It sets the price, see `n_folds`.
    fold_seed
        For the readout ``expression``, which genes are masked together.
    """

    encoder_layer: int = -1
    pooling: Pooling | None = None
    token_budget: int = 16384
    readouts: tuple[str, ...] = ("cell",)
    quartiles: int = 1
    masked_share: float = 0.15
    fold_seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.readouts if name not in READOUTS]
        if unknown or not self.readouts:
            raise ValueError(f"readout {', '.join(unknown) or 'missing'}; choose from {', '.join(READOUTS)}")
        if self.pooling not in {None, "mean", "cls"}:
            raise ValueError(f"pooling {self.pooling!r} is unknown; use mean or cls")
        if self.quartiles not in {1, 2, 3}:
            raise ValueError(f"a gene is moved by 1, 2 or 3 quartiles, not by {self.quartiles}")
        if not 0.0 < self.masked_share <= _MOST_MASKED:
            raise ValueError(
                f"masked_share must be above 0 and at most {_MOST_MASKED}, got {self.masked_share}; a usual "
                "share in training is 0.15"
            )

    @property
    def n_folds(self) -> int:
        """Passes in which each gene of a cell is masked once, for the readout ``expression``.

        A (perturbation, cell) costs that many and about one more, a cell as many once.
        """
        return math.ceil(1.0 / self.masked_share - 1e-9)

    def pooling_for(self, vocabulary: GeneVocabulary) -> Pooling:
        """Return the pooling in effect for `vocabulary`.

        Raises
        ------
        ValueError
            ``cls`` was asked for and the vocabulary has no ``<cls>``.
        """
        if self.pooling == "cls" and not vocabulary.n_wrapping:
            raise ValueError("pooling 'cls' needs a <cls> token, and this vocabulary has none; use mean")
        return self.pooling or ("cls" if vocabulary.setting == "v2" else "mean")


@dataclass(frozen=True, eq=False)
class Request:
    """One perturbation, in some cells.

    Parameters
    ----------
    genes
        Distinct gene tokens, perturbed together.
    kind
        A kind of `EDITS`.
    cells
        ``(n,)`` integer rows of the ranked cells; int32 in a screen, which may have hundreds of millions.
    group
        Label of the cell group.
    is_null
        A perturbation that others are compared with, not one that was asked for.
    """

    genes: tuple[int, ...]
    kind: str
    cells: np.ndarray
    group: str = "all"
    is_null: bool = False

    def __post_init__(self) -> None:
        require_kind(self.kind)
        if not self.genes or len(set(self.genes)) != len(self.genes):
            raise ValueError(f"a perturbation needs distinct genes, got tokens {self.genes}")
