"""Edges from in-silico perturbation: how far a target's state moves when a regulator is taken out.

Cheaper than influence, a pass for every cell and regulator: the target is seen, and its state is read off
instead of what the model would expect in its place. A shift by cosine has no direction; the signed one is
along the axis on which the target's own state varies from cell to cell, in its standard deviations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from geneformer_grn._runtime import logger, progress
from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.extraction.removals import PairTables, draw_removals, pieces, require_removable
from geneformer_grn.model.encoder import Encoder
from geneformer_grn.network.scored import ScoredPairs
from geneformer_grn.perturbation.axes import GeneAxes, gene_axes
from geneformer_grn.perturbation.parts import perturb_part
from geneformer_grn.perturbation.requests import PerturbSettings, Request


@dataclass(frozen=True, kw_only=True)
class ShiftSettings:
    """How a regulator is taken out, and which shift is read.

    Parameters
    ----------
    kind
        ``knockout`` or ``delete``.
    readout
        ``shift``: one minus the cosine of the target's states, unsigned. ``signed_shift``: along the target's
        own axis, see `geneformer_grn.perturbation.axes`.
    encoder_layer
        0 is the last layer, -1 the one before.
    cells_per_regulator
        Most cells each regulator is taken out of.
    min_support
        Fewest of them that must hold the target for the pair to be scored.
    token_budget
        Most tokens in one packed batch.
    seed
        Of the cells drawn, and of the sample the axes come from.
    """

    kind: Literal["knockout", "delete"] = "knockout"
    readout: Literal["shift", "signed_shift"] = "shift"
    encoder_layer: int = -1
    cells_per_regulator: int = 50
    min_support: int = 5
    token_budget: int = 16_384
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("kind", ("knockout", "delete")), ("readout", ("shift", "signed_shift"))):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"gene shift {name} {getattr(self, name)!r} is unknown; use {known[0]} or {known[1]}"
                )
        for name in ("cells_per_regulator", "min_support", "token_budget"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def gene_shift_edges(
    encoder: Encoder,
    ranked: RankedCells,
    *,
    regulators: np.ndarray,
    targets: np.ndarray,
    settings: ShiftSettings | None = None,
    cells: np.ndarray | None = None,
) -> ScoredPairs:
    """Score regulator → target pairs by the shift of the target's state without the regulator.

    Parameters
    ----------
    encoder, ranked, regulators, targets, cells
        As in `geneformer_grn.extraction.attention.attention_edges`.
    settings
        See `ShiftSettings`.

    Returns
    -------
    ScoredPairs
        ``(R, T)``. Readout ``shift``: unsigned, mean of one minus the cosine. Readout ``signed_shift``:
        signed, positive where the target looks as if it ranked lower without the regulator (activation). NaN
        for a gene with itself, a target without an axis, and below ``min_support`` cells; ``support`` counts
        cells the regulator was taken out of.

    Raises
    ------
    ValueError
        A gene is named twice, there are none, or no cell holds a regulator.

    Examples
    --------
    >>> how = ShiftSettings(readout="signed_shift", cells_per_regulator=20)  # doctest: +SKIP
    >>> gene_shift_edges(encoder, ranked, regulators=tfs, targets=genes, settings=how)  # doctest: +SKIP
    """
    settings = settings or ShiftSettings()
    vocabulary = encoder.vocabulary
    removals = draw_removals(
        vocabulary, ranked, regulators, cells,
        cells_per_regulator=settings.cells_per_regulator, seed=settings.seed,
    )  # fmt: skip
    require_removable(regulators, targets, removals)
    logger.info(
        "gene shifts: %d removals from %d cells, %d passes",
        len(removals.cell), removals.n_cells, len(removals.cell) + removals.n_cells,
    )  # fmt: skip
    signed = settings.readout == "signed_shift"
    axes: GeneAxes | None = None
    if signed:
        axes = gene_axes(
            encoder, ranked, cells=cells, encoder_layer=settings.encoder_layer,
            token_budget=settings.token_budget, seed=settings.seed,
        )  # fmt: skip
    column = "signed" if signed else "shift"
    tables = PairTables(len(regulators), targets, len(vocabulary), (column,))
    requests = [
        Request(genes=(int(gene),), kind=settings.kind, cells=np.empty(0, dtype=np.int64))
        for gene in regulators
    ]
    how = PerturbSettings(
        encoder_layer=settings.encoder_layer, pooling="mean",
        token_budget=settings.token_budget, readouts=("genes",),
    )  # fmt: skip
    with progress(total=len(removals.cell), desc="gene shifts", unit="pass") as bar:
        for piece in pieces(removals, ranked, vocabulary):
            found = perturb_part(encoder, ranked, requests, piece, how, axes=axes, tell=bar.update)
            tables.add(found.sums["genes"])
    weights = tables.mean(column, settings.min_support)
    if axes is not None:
        weights *= -1.0
        weights[:, np.isnan(axes.sd[targets])] = np.nan
    weights[np.equal.outer(regulators, targets)] = np.nan
    return ScoredPairs(
        regulators=vocabulary.ensembl_ids[regulators], targets=vocabulary.ensembl_ids[targets],
        weights=weights, support=tables.support, method="gene_shifts", signed=signed,
    )  # fmt: skip
