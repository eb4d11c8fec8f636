"""Genes perturbed in pairs, or next to an anchor gene, and what the combination does beyond its parts.

The contrast is taken within each cell, between perturbations of that same cell: cells differ far more than
combinations do. Shifts are cosines, so parts that do not interact in the model need not add up exactly; a
contrast says where to look, and the interval only how well it is known in these cells.

A contrast needs the cells of a pair and of its genes alone, no others, so pairs are gone through in slices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from geneformer_grn.perturbation.effects_table import EFFECT_COLUMNS, Reader, request_slices
from geneformer_grn.perturbation.engine import CELL_COLUMNS
from geneformer_grn.perturbation.screen import Screen
from geneformer_grn.statistics import bootstrap_interval

INTERACTION, BEYOND_ANCHOR = "interaction", "beyond_anchor"
GeneSet = tuple[int, ...]


def pair_sets(tokens: Sequence[int]) -> list[GeneSet]:
    """Return the sets to perturb for all pairs of `tokens`: each gene alone, then each pair, in their order.

    Raises
    ------
    ValueError
        Fewer than two distinct genes.
    """
    genes = list(dict.fromkeys(int(token) for token in tokens))
    if len(genes) < 2:
        raise ValueError(f"pairs need at least two known genes, got {len(genes)}")
    return [*((gene,) for gene in genes), *combinations(genes, 2)]


def anchored_sets(anchor: int, tokens: Sequence[int]) -> list[GeneSet]:
    """Return the sets to perturb for an anchor: the anchor alone, then the anchor and each other gene.

    Raises
    ------
    ValueError
        There is no other gene.
    """
    others = list(dict.fromkeys(int(token) for token in tokens if token != anchor))
    if not others:
        raise ValueError("an anchor needs another gene to be perturbed with; only the anchor itself is named")
    return [(anchor,), *((anchor, gene) for gene in others)]


def contrasts(
    screen: Screen, names: np.ndarray, read: Reader, readout: str, *, seed: int = 0
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Yield what each pair of a screen does beyond its parts, in slices of pairs.

    Parameters
    ----------
    screen
        A screen over `pair_sets` or `anchored_sets`.
    names
        ``(n_requests,)`` names of the gene sets.
    read
        Gives the shifts of some requests.
    readout
        ``interaction``: the shift of the pair minus the sum of the shifts of its two genes alone;
        ``beyond_anchor``: the shift of the pair minus that of its first gene, the anchor, alone.
    seed
        Seed of the bootstrap.

    Yields
    ------
    tuple
        Cells, a row per pair, cell and state: `CELL_COLUMNS`, ``cell_id`` the row of the cell, ``cosine`` NaN
        (a contrast is none), ``shift`` NaN unless the cell has a shift of the pair and of its parts. Effects,
        a row per pair, group and state: `EFFECT_COLUMNS`, ``shift`` the mean over the ``n_cells`` cells that
        have one, with its 95 % bootstrap interval, and NaN in what compares with null sets. ``state`` is the
        state the shifts point to, empty for the cell shift.
    """
    requests = screen.requests
    alone = {(requests[n].group, requests[n].genes): n for n in screen.nulls if len(requests[n].genes) == 1}
    pairs = np.array([number for number in screen.nulls if len(requests[number].genes) > 1], dtype=np.int64)
    kinds = np.array([request.kind for request in requests], dtype=object)
    groups = np.array([request.group for request in requests], dtype=object)
    n_before = 0
    for numbers in request_slices(screen, pairs):
        parts = {
            alone[requests[number].group, (gene,)]
            for number in numbers
            for gene in requests[number].genes[: _n_parts(readout)]
        }
        cells = read(np.array(sorted({*parts, *numbers.tolist()})))
        of = cells["request"].to_numpy()
        cells = cells.drop(columns="request").assign(gene=names[of], kind=kinds[of], group=groups[of])
        found = _contrasts(cells, readout)
        effects = pd.DataFrame(list(_summaries(found, seed, n_before)), columns=list(EFFECT_COLUMNS))
        yield found.reindex(columns=list(CELL_COLUMNS)), effects.assign(n_null=0)
        n_before += len(numbers)


def _n_parts(readout: str) -> int:
    """Return how many genes of a pair are taken off it."""
    return 1 if readout == BEYOND_ANCHOR else 2


def _contrasts(cells: pd.DataFrame, readout: str) -> pd.DataFrame:
    """Return the rows of the pairs in `cells` with their contrast as ``shift``."""
    keys = ["group", "state", "cell_id"]
    is_pair = cells["gene"].str.contains("+", regex=False)
    alone, pairs = cells[~is_pair].set_index(["gene", *keys])["shift"], cells[is_pair]
    members = [str(name).split("+") for name in pairs["gene"]]
    beyond = pairs["shift"].to_numpy(copy=True)
    for number in range(_n_parts(readout)):
        genes = [names[number] for names in members]
        wanted = pd.MultiIndex.from_arrays([genes, *(pairs[key] for key in keys)], names=alone.index.names)
        beyond -= alone.reindex(wanted).to_numpy()
    return pairs.assign(readout=readout, cosine=np.nan, shift=beyond).reset_index(drop=True)


def _summaries(found: pd.DataFrame, seed: int, n_before: int) -> Iterator[dict[str, object]]:
    """Yield a row of effects per pair, group and state, `n_before` pairs having come in earlier slices."""
    keys = ["gene", "kind", "group", "readout", "state"]
    number_of: dict[tuple[object, ...], int] = {}
    for key, shifts in found.groupby(keys, sort=False)["shift"]:
        number = number_of.setdefault(key[:3], n_before + len(number_of))
        values = shifts.dropna().to_numpy()
        low, high = bootstrap_interval(values, rng=np.random.default_rng([seed, number]))
        mean = float(values.mean()) if len(values) else float("nan")
        row = dict(zip(keys, key, strict=True))
        yield {**row, "shift": mean, "n_cells": len(values), "ci_low": low, "ci_high": high}
