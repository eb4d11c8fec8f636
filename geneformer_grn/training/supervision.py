"""What passes between labelled data, fine-tuning and its score cards: tasks, splits and predictions.

Plain arrays, so that a baseline that knows nothing of the model is taught and scored on the same rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Level = Literal["cell", "gene"]
Kind = Literal["classification", "ordinal", "regression"]

MISSING = -1
"""Class index of a unit without a label."""


@dataclass(frozen=True, eq=False)
class Task:
    """One thing to predict, for cells or for genes.

    Parameters
    ----------
    name
        What is predicted, such as ``cell_type``.
    level
        ``cell``: one unit per cell, in the order of the cells; ``gene``: one unit per labelled gene.
    kind
        ``classification``, ``ordinal`` (classes in ascending order) or ``regression``.
    values
        ``(n_units,)``: int64 indices into `classes`, `MISSING` where unlabelled; of a regression float64, NaN
        where unlabelled.
    classes
        Names, sorted (ordinal: ascending); empty for a regression.
    gene_tokens
        ``(n_units,)`` int64 vocabulary indices of the labelled genes; None at level ``cell``.
    """

    name: str
    level: Level
    kind: Kind
    values: np.ndarray
    classes: tuple[str, ...] = ()
    gene_tokens: np.ndarray | None = None

    @property
    def labelled(self) -> np.ndarray:
        """Which units have a label, ``(n_units,)`` bool."""
        return ~np.isnan(self.values) if self.kind == "regression" else self.values != MISSING

    @property
    def n_outputs(self) -> int:
        """Numbers a head gives per unit: one per class, or one."""
        return len(self.classes) if self.kind == "classification" else 1


@dataclass(frozen=True, eq=False)
class Split:
    """Which units are learnt from, chosen by, and scored on: three disjoint sorted int64 index arrays.

    Parameters
    ----------
    train, validation, test
        Units of every task at one level.
    rule
        A sentence that says how they were chosen, printed with every result.
    name
        Such as ``fold 1 of 5``; empty where there is one split.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    rule: str
    name: str = ""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model or a baseline says of some units.

    Parameters
    ----------
    task
        Name of the task.
    units
        ``(m,)`` int64.
    scores
        ``(m, n_classes)`` float64 probabilities that sum to 1 (classification, ordinal), or ``(m,)`` values.
    details
        What a reader wants to know of how it was made: settings chosen, seconds, notes.
    """

    task: str
    units: np.ndarray
    scores: np.ndarray
    details: dict[str, object] = field(default_factory=dict)
