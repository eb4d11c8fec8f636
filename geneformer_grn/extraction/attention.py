"""Edges from attention: how much each target's token reads each regulator's, averaged over cells.

An edge r → t is the probability with which query t reads key r; the other direction, and both, can be asked
for. Attention has no sign, and mostly follows co-expression and position: that is why there are corrections,
each of which is scored against the raw weights, and why its edges are reported next to correlation and are
refitted before they are propagated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.extraction.attention_sums import AttentionSums, Direction, Head
from geneformer_grn.extraction.positions import position_expectation
from geneformer_grn.extraction.streaming import PairIndex, stream_cells
from geneformer_grn.model.encoder import Encoder
from geneformer_grn.network.scored import ScoredPairs

Correction = Literal["none", "average_product", "rank_position", "row_rank"]
CORRECTIONS = ("none", "average_product", "rank_position", "row_rank")
DIRECTIONS = ("target_reads", "regulator_reads", "both")


@dataclass(frozen=True, kw_only=True)
class AttentionSettings:
    """What attention is read, and how it becomes a weight.

    Parameters
    ----------
    layers
        Encoder layers to average over, counted from 0 at the input; ``all`` takes every one.
    heads
        (layer, head) pairs to average over instead of all heads of `layers`, both counted from 0.
    direction
        ``target_reads``: the target is the query and the regulator the key. ``regulator_reads``: the other
        way round. ``both``: the mean of the two, which is the same for r → t and t → r.
    correction
        ``none``. ``average_product``: what the regulator's and the target's mean weight would give is
        subtracted, and what is then below 0 is no edge, 0; see `average_product_correction`.
        ``rank_position``: each reading is divided by what the positions of the two genes predict for the head
        (see `geneformer_grn.extraction.positions`), so that 1 is as expected. ``row_rank``: each reading is
        replaced by its rank, 0 to 1, among the genes of the other side (regulators, or for
        ``regulator_reads`` targets) that the cell holds, for each query, head and layer.
    min_support
        Fewest cells that must hold both genes for a pair to be scored.
    position_bins, position_cells
        For ``rank_position``: bins of positions, and how many cells the prediction is taken from (spread
        evenly; they are run once more).
    token_budget
        Most tokens in one packed batch.
    """

    layers: tuple[int, ...] | Literal["all"] = "all"
    heads: tuple[Head, ...] | Literal["all"] = "all"
    direction: Direction = "target_reads"
    correction: Correction = "none"
    min_support: int = 5
    position_bins: int = 20
    position_cells: int = 1000
    token_budget: int = 16_384

    def __post_init__(self) -> None:
        for name in ("min_support", "position_bins", "position_cells", "token_budget"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name, known in (("correction", CORRECTIONS), ("direction", DIRECTIONS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"attention {name} {getattr(self, name)!r} is unknown; use {', '.join(known[:-1])} or "
                    f"{known[-1]}"
                )
        if self.heads != "all" and self.layers != "all":
            raise ValueError("heads name their layers: give layers or heads, not both")


def attention_edges(
    encoder: Encoder,
    ranked: RankedCells,
    *,
    regulators: np.ndarray,
    targets: np.ndarray,
    settings: AttentionSettings | None = None,
    cells: np.ndarray | None = None,
) -> ScoredPairs:
    """Score regulator → target pairs by attention, averaged over heads, layers and cells.

    In one cell the score is ``p × L``: the softmax probability over all L keys, special tokens included,
    times their number. 1 is what uniform attention would give, whatever the cell's length. It is averaged
    over the cells whose model input holds both genes (genes cropped away are not seen).

    Parameters
    ----------
    encoder
        The model.
    ranked
        Cells ranked with the encoder's vocabulary.
    regulators, targets
        ``(R,)`` and ``(T,)`` int tokens.
    settings
        See `AttentionSettings`.
    cells
        ``(n,)`` int cells of `ranked` to use; None: all.

    Returns
    -------
    ScoredPairs
        Unsigned weights ``(R, T)``, none below 0; NaN for a gene with itself and below ``min_support`` cells.

    Raises
    ------
    ValueError
        A layer or head does not exist, a gene is named twice, or there are no regulators or no targets.

    Notes
    -----
    Memory is 12 bytes a pair while cells are read, and about 40 for a moment when means are taken, whatever
    the number of cells.

    Examples
    --------
    >>> settings = AttentionSettings(heads=((2, 0), (2, 3)), correction="rank_position")  # doctest: +SKIP
    >>> attention_edges(encoder, ranked, regulators=tfs, targets=genes, settings=settings)  # doctest: +SKIP
    """
    settings = settings or AttentionSettings()
    heads = chosen_heads(settings, encoder)
    (pairs,) = _tables(encoder, ranked, (regulators, targets), settings, cells, heads, by_head=False)
    return pairs


def attention_by_head(
    encoder: Encoder,
    ranked: RankedCells,
    *,
    regulators: np.ndarray,
    targets: np.ndarray,
    settings: AttentionSettings | None = None,
    cells: np.ndarray | None = None,
) -> dict[Head, ScoredPairs]:
    """Score regulator → target pairs by the attention of every single head, from one pass over the cells.

    Parameters
    ----------
    encoder, ranked, regulators, targets, settings, cells
        As in `attention_edges`; only the heads asked for are kept, 12 bytes a pair and head.

    Returns
    -------
    dict
        (layer, head) -> what `attention_edges` gives for that head alone; ``support`` is shared.
    """
    settings = settings or AttentionSettings()
    heads = chosen_heads(settings, encoder)
    tables = _tables(encoder, ranked, (regulators, targets), settings, cells, heads, by_head=True)
    return dict(zip(heads, tables, strict=True))


def chosen_heads(settings: AttentionSettings, encoder: Encoder) -> tuple[Head, ...]:
    """Return the (layer, head) pairs that are read, in ascending order.

    Raises
    ------
    ValueError
        One does not exist, or there are none.
    """
    n_layers, n_heads = encoder.n_layers, int(encoder.model.config.num_attention_heads)
    if settings.heads != "all":
        wrong = [
            (layer, head)
            for layer, head in settings.heads
            if not (0 <= layer < n_layers and 0 <= head < n_heads)
        ]
        if wrong or not settings.heads:
            raise ValueError(
                f"attention heads {wrong or '()'} do not exist: this model has layers 0 to {n_layers - 1}, "
                f"each with heads 0 to {n_heads - 1}"
            )
        return tuple(sorted(set(settings.heads)))
    layers = range(n_layers) if settings.layers == "all" else sorted(set(settings.layers))
    if not layers or not all(0 <= layer < n_layers for layer in layers):
        raise ValueError(
            f"attention layers {settings.layers} do not exist: this model has {n_layers}, 0 to {n_layers - 1}"
        )
    return tuple((layer, head) for layer in layers for head in range(n_heads))


def average_product_correction(weights: np.ndarray) -> np.ndarray:
    """Subtract from each pair what its regulator's and its target's mean weight would give.

    The correction of Dunn, Wahl & Gloor (2008) for mutual information of sites in alignments:
    ``w_ij - mean_i × mean_j / mean``. It removes regulators that everything reads and targets that read
    everything alike.

    Parameters
    ----------
    weights
        ``(R, T)`` float; NaN is left out of the means and stays.
    """
    known = np.isfinite(weights)
    n_known = [np.maximum(known.sum(axis=axis, keepdims=True), 1) for axis in (1, 0)]
    by_regulator, by_target = (
        np.nansum(weights, axis=axis, keepdims=True, dtype=np.float64) / n
        for axis, n in zip((1, 0), n_known, strict=True)
    )
    overall = np.nansum(weights, dtype=np.float64) / max(int(known.sum()), 1)
    return weights - (by_regulator * by_target / overall if overall else 0.0)


def _tables(
    encoder: Encoder,
    ranked: RankedCells,
    genes: tuple[np.ndarray, np.ndarray],
    settings: AttentionSettings,
    cells: np.ndarray | None,
    heads: tuple[Head, ...],
    *,
    by_head: bool,
) -> list[ScoredPairs]:
    """Return the scores of all heads together, or of each."""
    regulators, targets = genes
    index = PairIndex(encoder, regulators, targets)
    expectation = None
    if settings.correction == "rank_position":
        expectation = position_expectation(
            encoder, ranked, np.arange(len(ranked)) if cells is None else np.asarray(cells), heads,
            n_bins=settings.position_bins, n_cells=settings.position_cells,
            token_budget=settings.token_budget,
        )  # fmt: skip
    sums = AttentionSums(
        index, heads, direction=settings.direction, by_head=by_head,
        expectation=expectation, rank_rows=settings.correction == "row_rank",
    )  # fmt: skip
    stream_cells(
        encoder, ranked, cells, sums,
        n_layers=max(layer for layer, _ in heads) + 1, token_budget=settings.token_budget, what="attention",
    )  # fmt: skip
    support = index.support.T.cpu().numpy()
    same = np.equal.outer(regulators, targets)
    corrected = settings.correction == "average_product"
    names = encoder.vocabulary.ensembl_ids
    found = []
    for weights in sums.means(settings.min_support):
        weights[same] = np.nan
        pairs = ScoredPairs(
            regulators=names[regulators], targets=names[targets],
            weights=_without_average_product(weights) if corrected else weights,
            support=support, method="attention", signed=False,
        )  # fmt: skip
        found.append(pairs)
    return found


def _without_average_product(weights: np.ndarray) -> np.ndarray:
    """Return corrected weights, 0 where a pair is read less than its genes are on average."""
    return np.maximum(average_product_correction(weights), 0.0).astype(np.float32)
