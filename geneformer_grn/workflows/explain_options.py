"""What a user may ask of an explanation, and the tables that come back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geneformer_grn._runtime import Precision
from geneformer_grn.cells.reading import ReadSettings
from geneformer_grn.explanation.settings import AttributionSettings, DeletionSettings

if TYPE_CHECKING:
    import pandas as pd

METHOD_NAMES = ("integrated_gradients", "gradient_x_input", "attention", "occlusion")


@dataclass(frozen=True, kw_only=True)
class ExplainOptions:
    """What a user may choose.

    Parameters
    ----------
    label
        obs column of the classes of cells; None: what the model predicts.
    task
        Head to explain; None: the only one of cells.
    classes
        Classes to explain; empty: all that the model knows and the cells have.
    methods
        Of `METHOD_NAMES`; the first is the one shown in figures.
    n_cells
        At most so many cells are explained, equally many of each class, drawn at random.
    n_top
        Length of the lists of driver genes that stability, folds and overlap are measured on.
    donors
        obs column of donors: intervals of the deletion curve are then over donors.
    attribution, deletion
        How methods attribute, and how genes are taken away.
    seed
        Seed of everything random.
    """

    label: str | None = None
    task: str | None = None
    classes: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("integrated_gradients",)
    n_cells: int = 200
    n_top: int = 50
    donors: str | None = None
    attribution: AttributionSettings = field(default_factory=AttributionSettings)
    deletion: DeletionSettings = field(default_factory=DeletionSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.methods if name not in METHOD_NAMES]
        if unknown or not self.methods:
            raise ValueError(
                f"method {', '.join(unknown) or 'missing'}; choose from {', '.join(METHOD_NAMES)}"
            )
        if len(set(self.methods)) < len(self.methods):
            raise ValueError(f"a method is named twice: {', '.join(self.methods)}")
        for name in ("n_cells", "n_top"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class ExplainSource:
    """The cells, the fine-tuned models, and how they are read and run.

    Parameters
    ----------
    file
        Cells with raw counts.
    models
        Folders of fine-tuned models; several are of the folds of one task.
    read
        How counts are read.
    device, precision
        How the models run.
    """

    file: Path
    models: tuple[str, ...]
    read: ReadSettings = field(default_factory=ReadSettings)
    device: str = "auto"
    precision: Precision = "fp32"


@dataclass(frozen=True, eq=False, kw_only=True)
class Explanation:
    """What was found.

    Parameters
    ----------
    drivers
        `geneformer_grn.explanation.drivers.DRIVER_COLUMNS`; with several models ``fold_share``; with several
        classes ``de_rank``, ``de_difference`` and ``de_q_value`` of the rank-sum test against other cells.
    deletion
        A row per ``method``, ``ranking`` (``cell``: each cell's own scores; ``class``: the class's driver
        genes, found in the other half of the cells), ``class`` (empty: all) and share, see
        `geneformer_grn.explanation.faithfulness.deletion_table`. The method ``differential_expression`` is
        what the others have to beat.
    cells
        A row per cell and method: ``cell_id``, ``class``, ``method``, ``output``, ``baseline_output``,
        ``completeness_error``, ``steps``.
    scores
        A row per cell, method and gene: ``cell_id``, ``class``, ``method``, ``gene``, ``score``.
    agreement
        A row per method and class: overlap of the leading drivers with differential expression, and with
        several models how far these agree.
    facts
        What was done, and the main figures of each method.
    record
        The same with the parameters, by section.
    """

    drivers: pd.DataFrame
    deletion: pd.DataFrame
    cells: pd.DataFrame
    scores: pd.DataFrame
    agreement: pd.DataFrame
    facts: dict[str, Any]
    record: dict[str, Any]
