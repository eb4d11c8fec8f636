"""The cells of one file as the model sees them: counts, groups, and the model or only its vocabulary."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geneformer_grn._runtime import Precision
from geneformer_grn.cells.counts import CellCounts, ReadSettings, read_counts
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.workflows.grouping import column_labels

if TYPE_CHECKING:
    from anndata import AnnData

    from geneformer_grn.model.encoder import Encoder


@dataclass(frozen=True, kw_only=True)
class OpenedCells:
    """Cells read with a model's vocabulary.

    Parameters
    ----------
    counts
        The cells.
    vocabulary
        What their columns mean.
    encoder
        The model, where it was asked for.
    labels
        ``(n,)`` str group of each cell, where a column was named.
    """

    counts: CellCounts
    vocabulary: GeneVocabulary
    encoder: Encoder | None
    labels: np.ndarray | None


@dataclass(frozen=True, kw_only=True)
class OpenSettings:
    """Which model, on what device, and how the counts are read.

    Parameters
    ----------
    model
        A shipped name, a checkpoint folder, or a Hugging Face id on disk.
    device, precision
        Where and how the model runs.
    groups
        obs column of cell groups; None: not grouped.
    read
        How counts are read.
    n_cells, seed
        A random sample of so many cells, drawn by that seed; None: all cells.
    """

    model: str | Path = "mini"
    device: str = "auto"
    precision: Precision = "fp32"
    groups: str | None = None
    read: ReadSettings = field(default_factory=ReadSettings)
    n_cells: int | None = None
    seed: int = 0


def open_cells(source: Path | str | AnnData, settings: OpenSettings, *, with_model: bool) -> OpenedCells:
    """Read a file or an AnnData with a model's vocabulary, and load the model only where it is needed.

    Raises
    ------
    FileNotFoundError
        There is no such file or checkpoint.
    ValueError
        The cells cannot be read as raw counts of known genes, or the groups' column does not exist.
    """
    from geneformer_grn.model.encoder import load_encoder
    from geneformer_grn.model.folder import read_vocabulary, resolve_checkpoint

    if with_model:
        encoder = load_encoder(settings.model, device=settings.device, precision=settings.precision)
        vocabulary = encoder.vocabulary
    else:
        encoder, vocabulary = None, read_vocabulary(resolve_checkpoint(settings.model))
    counts = read_counts(source, vocabulary, settings.read, n_cells=settings.n_cells, seed=settings.seed)
    labels = None if settings.groups is None else column_labels(counts.obs, settings.groups)
    return OpenedCells(counts=counts, vocabulary=vocabulary, encoder=encoder, labels=labels)
