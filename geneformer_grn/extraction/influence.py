"""Edges from influence: what the model expects of a target when a regulator is taken out of the cell.

The target is masked, and the model asked for it twice: in the cell as it is, and without the regulator. Where
it now puts the target further back, the regulator spoke for a high rank of it: a positive edge. This is a
statement about the model, at the price of a pass for every fold of every cell and regulator. Only targets are
ever masked, so that few targets need few folds; cells are capped for each regulator, and the price is logged
before it is paid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from geneformer_grn._runtime import logger, progress
from geneformer_grn.cells.ranking import RankedCells, model_input
from geneformer_grn.extraction.removals import (
    REMOVALS,
    PairTables,
    Removals,
    draw_removals,
    pieces,
    removal_tasks,
    require_removable,
)
from geneformer_grn.model.encoder import Encoder
from geneformer_grn.network.scored import ScoredPairs
from geneformer_grn.perturbation.edits import InputLayout
from geneformer_grn.perturbation.expression import ExpressionSums, folds_of
from geneformer_grn.perturbation.requests import PerturbSettings

READOUTS = ("rank", "nats")


@dataclass(frozen=True, kw_only=True)
class InfluenceSettings:
    """How a regulator is taken out, and what is read off.

    Parameters
    ----------
    removal
        ``hide`` (masked in its place), ``swap`` (another gene in its place), ``delete`` (later genes move up)
        or ``knockout`` (gone, the others keep their positions).
    readout
        ``rank``: expected rank of the target, signed. ``nats``: its log-probability at its own place, whose
        sign is no direction.
    cells_per_regulator
        Most cells each regulator is taken out of.
    min_support
        Fewest of them that must hold the target for the pair to be scored.
    masked_share
        Share of a cell's genes that are masked at a time; see
        `geneformer_grn.perturbation.requests.PerturbSettings`.
    token_budget
        Most tokens in one packed batch.
    seed
        Of the cells drawn, the folds, and the genes swapped in.
    """

    removal: Literal["hide", "swap", "delete", "knockout"] = "hide"
    readout: Literal["rank", "nats"] = "rank"
    cells_per_regulator: int = 50
    min_support: int = 5
    masked_share: float = 0.15
    token_budget: int = 16_384
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("removal", REMOVALS), ("readout", READOUTS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"influence {name} {getattr(self, name)!r} is unknown; use one of {', '.join(known)}"
                )
        for name in ("cells_per_regulator", "min_support", "token_budget"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        self.passes()

    def passes(self) -> PerturbSettings:
        """Return how the passes are made."""
        return PerturbSettings(
            token_budget=self.token_budget, masked_share=self.masked_share, fold_seed=self.seed
        )


def influence_edges(
    encoder: Encoder,
    ranked: RankedCells,
    *,
    regulators: np.ndarray,
    targets: np.ndarray,
    settings: InfluenceSettings | None = None,
    cells: np.ndarray | None = None,
) -> ScoredPairs:
    """Score regulator → target pairs by what is expected of the target without the regulator.

    Parameters
    ----------
    encoder, ranked, regulators, targets, cells
        As in `geneformer_grn.extraction.attention.attention_edges`.
    settings
        See `InfluenceSettings`.

    Returns
    -------
    ScoredPairs
        ``(R, T)``. Readout ``rank``: signed, by how many ranks the target is expected further to the front
        with the regulator than without it; positive is activation. Readout ``nats``: unsigned, the
        log-probability of the target with the regulator less that without it. NaN for a gene with itself and
        below ``min_support`` cells; ``support`` counts cells the regulator was taken out of.

    Raises
    ------
    ValueError
        A gene is named twice, there are none, or no cell holds a regulator.

    Examples
    --------
    >>> influence_edges(encoder, ranked, regulators=tfs, targets=genes)  # doctest: +SKIP
    """
    settings = settings or InfluenceSettings()
    both = influence(encoder, ranked, regulators=regulators, targets=targets, settings=settings, cells=cells)
    return both[settings.readout]


def influence(
    encoder: Encoder,
    ranked: RankedCells,
    *,
    regulators: np.ndarray,
    targets: np.ndarray,
    settings: InfluenceSettings,
    cells: np.ndarray | None = None,
) -> dict[str, ScoredPairs]:
    """Return both readouts, ``rank`` and ``nats``, from the same passes; else as `influence_edges`."""
    vocabulary = encoder.vocabulary
    removals = draw_removals(
        vocabulary, ranked, regulators, cells,
        cells_per_regulator=settings.cells_per_regulator, seed=settings.seed,
    )  # fmt: skip
    require_removable(regulators, targets, removals)
    logger.info(
        "influence: %d removals from %d cells, at most %d passes",
        len(removals.cell), removals.n_cells, most_passes(encoder, ranked, removals, targets, settings),
    )  # fmt: skip
    tables = PairTables(len(regulators), targets, len(vocabulary), ("delta_rank", "delta_nats"))
    with progress(total=len(removals.cell), desc="influence", unit="removal") as bar:
        for piece in pieces(removals, ranked, vocabulary):
            sums = ExpressionSums(encoder, settings.passes(), asked_for=targets)
            sums.add(
                removal_tasks(
                    vocabulary, ranked, regulators, piece, kind=settings.removal, seed=settings.seed
                )
            )
            tables.add(sums.frame())
            bar.update(len(piece.cell))
    same = np.equal.outer(regulators, targets)
    found = {}
    for readout in READOUTS:
        weights = -tables.mean(f"delta_{readout}", settings.min_support)
        weights[same] = np.nan
        found[readout] = ScoredPairs(
            regulators=vocabulary.ensembl_ids[regulators], targets=vocabulary.ensembl_ids[targets],
            weights=weights, support=tables.support, method="influence", signed=readout == "rank",
        )  # fmt: skip
    return found


def most_passes(
    encoder: Encoder,
    ranked: RankedCells,
    removals: Removals,
    targets: np.ndarray,
    settings: InfluenceSettings,
) -> int:
    """Return how many cells will be encoded at most: the folds of each cell, and one more for each removal.

    Parameters
    ----------
    encoder, ranked
        The model, and the cells.
    removals
        As drawn.
    targets
        Tokens that are masked.
    settings
        Says which share of a cell's genes is masked at a time.
    """
    vocabulary, how = encoder.vocabulary, settings.passes()
    layout = InputLayout.of(vocabulary)
    cells, times = np.unique(removals.cell, return_counts=True)
    folds = []
    for cell in cells.tolist():
        ids = model_input(ranked.cell(cell), vocabulary)
        genes = ids[layout.genes(len(ids))]
        folds.append(folds_of(int(np.isin(genes, targets).sum()), len(genes), how))
    return int(np.sum(np.array(folds) * (times + 1) + times))
