"""Which cells of a corpus go together in an epoch, and in which order.

The list of batches of an epoch depends on (seed, epoch, settings) only. Planning an epoch holds the numbers
of all its cells in memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from geneformer_grn.cells.masking import MaskSettings

_OPEN_BATCHES = 16  # batches being filled at a time: more fill better, and cost more


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """How a corpus becomes training batches.

    Parameters
    ----------
    token_budget
        Tokens that a batch holds at most.
    max_length
        Longest cell, specials included; longer ones are cropped, keeping ``<eos>``. None: the vocabulary's.
    seed
        Seed of order and masks.
    mask
        Masking.
    static
        Fill every batch to one shape, which ``torch.compile`` compiles once (see `packing.fill`).
    stages
        Length curriculum: pairs (until, length), ascending; up to `until` epochs cells are cropped to
        `length`.
    pinned
        Put batches into page-locked memory, from which a GPU copies beside its work.
    copies
        ``(n,)`` float64, how often each cell of the corpus comes in an epoch on average (see
        `balanced_copies`); None: once each.
    """

    token_budget: int = 16_384
    max_length: int | None = None
    seed: int = 0
    mask: MaskSettings = field(default_factory=MaskSettings)
    static: bool = False
    stages: tuple[tuple[float, int], ...] = ()
    pinned: bool = False
    copies: np.ndarray | None = field(default=None, compare=False)


def plan_epoch(
    lengths: np.ndarray, settings: BatchSettings, *, epoch: int, cells: np.ndarray | None = None
) -> list[np.ndarray]:
    """Return the batches of an epoch as cell indices: every cell once, in an order drawn from (seed, epoch).

    Shuffled cells go into the first of a few open batches that has room; the fullest is closed to open
    another. That fills 98.7 % of 8k tokens and 99.7 % of 64k with cells of real lengths. With
    ``settings.copies`` a cell comes as often as that says, its fraction decided by a draw; copy `k` of cell
    `i` of a corpus of `n` is number ``i + k * n``, so that every copy is masked anew.

    Parameters
    ----------
    lengths
        ``(n,)`` tokens of each cell of the corpus, cropped already.
    settings
        Budget, seed, curriculum and copies.
    epoch
        Number of the epoch.
    cells
        Indices of the cells to use (a training split); None: all.

    Raises
    ------
    ValueError
        There are no cells, or one is longer than the budget.
    """
    return [batch for batch, _ in plan_stages(lengths, settings, epoch=epoch, cells=cells)]


def plan_stages(
    lengths: np.ndarray, settings: BatchSettings, *, epoch: int, cells: np.ndarray | None
) -> list[tuple[np.ndarray, int | None]]:
    """Return the batches of an epoch, each with the length its cells are cropped to by the curriculum."""
    cells = np.arange(len(lengths)) if cells is None else np.asarray(cells, dtype=np.int64)
    generator = np.random.default_rng(np.random.SeedSequence([settings.seed, epoch]))
    if settings.copies is not None:
        cells = _drawn_copies(cells, settings.copies, generator)
    if len(cells) == 0:
        raise ValueError("there are no cells to train on")
    order = generator.permutation(cells)
    plan: list[tuple[np.ndarray, int | None]] = []
    start = 0
    for until, longest in (*settings.stages, (math.inf, None)):
        stop = round(len(order) * min(max(until - epoch, 0.0), 1.0))
        if stop > start:
            part = order[start:stop]
            own = lengths[part % len(lengths)]
            own = own if longest is None else np.minimum(own, longest)
            plan += [(batch, longest) for batch in _fill_batches(part, own, settings.token_budget, generator)]
        start = max(start, stop)
    return plan


def _drawn_copies(cells: np.ndarray, copies: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    wanted = copies[cells]
    times = np.floor(wanted + generator.random(len(cells))).astype(np.int64)
    starts = np.cumsum(times) - times
    number = np.arange(int(times.sum())) - np.repeat(starts, times)
    return np.repeat(cells, times) + number * len(copies)


def _fill_batches(
    order: np.ndarray, lengths: np.ndarray, token_budget: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """Return the cells `order`, of `lengths` tokens, as batches of at most `token_budget` tokens."""
    from geneformer_grn.cells.batch_kernels import fill_batches

    if (longest := int(lengths.max())) > token_budget:
        raise ValueError(
            f"the token budget {token_budget:,} is smaller than the longest cell, {longest:,} "
            "tokens; raise it, or lower max_length"
        )
    places, ends = fill_batches(np.ascontiguousarray(lengths, dtype=np.int64), token_budget, _OPEN_BATCHES)
    full = np.split(order[places], ends[:-1])
    # The batches left open are the emptiest; without another shuffle they would all come last.
    return [full[batch] for batch in generator.permutation(len(full))]


def balanced_copies(groups: np.ndarray, *, evenness: float) -> np.ndarray:
    """Return how often each cell comes in an epoch for groups (tissues, say) to be more even in it.

    A group of share `p` of the cells gets a share proportional to ``p ** (1 - evenness)``, as mixtures of
    languages are balanced (Conneau et al., 2020, with `alpha` for the exponent).

    Parameters
    ----------
    groups
        ``(n,)`` group of each cell; None is a group as well.
    evenness
        0: as the corpus is; 1: every group equally.

    Returns
    -------
    numpy.ndarray
        ``(n,)`` float64 with mean 1.

    Examples
    --------
    >>> balanced_copies(np.array(["lung", "lung", "lung", "eye"], dtype=object), evenness=1.0)
    array([0.66666667, 0.66666667, 0.66666667, 2.        ])
    """
    _, codes, sizes = np.unique(groups.astype(str), return_inverse=True, return_counts=True)
    shares = sizes ** (1.0 - evenness)
    copies: np.ndarray = (shares / shares.sum() * len(groups) / sizes)[codes]
    return copies


def n_training_batches(n_batches: int, world_size: int) -> int:
    """Return how many batches each of `world_size` processes gets of an epoch of `n_batches`."""
    return -(-n_batches // world_size)
