"""Genes perturbed in pairs, or next to an anchor gene, and what the combination does beyond its parts.

The contrast is taken within each cell, between perturbations of that same cell: cells differ far more than
combinations do. Shifts are cosines, so parts that do not interact in the model need not add up exactly; a
contrast says where to look, and the interval only how well it is known in these cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd

from geneformer_grn.perturbation.effects import PerturbationResult
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


def with_contrasts(result: PerturbationResult, readout: str, *, seed: int = 0) -> PerturbationResult:
    """Add to a screen of pairs what each pair does beyond its parts.

    Parameters
    ----------
    result
        A screen over `pair_sets` or `anchored_sets`.
    readout
        ``interaction``: the shift of the pair minus the sum of the shifts of its two genes alone;
        ``beyond_anchor``: the shift of the pair minus that of its first gene, the anchor, alone.
    seed
        Seed of the bootstrap.

    Returns
    -------
    The result with more rows behind those it had: per pair and cell in `cells` (``cosine`` is NaN: a
    contrast is none; ``shift`` is NaN unless the cell has a shift of the pair and of its parts), per pair,
    group and state in `effects` (``shift`` the mean over the ``n_cells`` cells that have one, with its 95 %
    bootstrap interval; no p-value). ``state`` is the state the shifts point to, empty for the cell shift.
    """
    contrasts = _contrasts(result.cells, readout)
    effects = pd.DataFrame(list(_summaries(contrasts, seed))).reindex(columns=result.effects.columns)
    effects["n_null"] = 0
    return replace(
        result,
        cells=pd.concat([result.cells, contrasts], ignore_index=True),
        effects=pd.concat([result.effects, effects.astype(result.effects.dtypes)], ignore_index=True),
    )


def _contrasts(cells: pd.DataFrame, readout: str) -> pd.DataFrame:
    """Return the rows of the pairs in `cells` with their contrast as ``shift``."""
    keys = ["group", "state", "cell_id"]
    is_pair = cells["gene"].str.contains("+", regex=False)
    alone, pairs = cells[~is_pair].set_index(["gene", *keys])["shift"], cells[is_pair]
    members = [str(name).split("+") for name in pairs["gene"]]
    beyond = pairs["shift"].to_numpy(copy=True)
    for number in [0] if readout == BEYOND_ANCHOR else [0, 1]:
        genes = [names[number] for names in members]
        wanted = pd.MultiIndex.from_arrays([genes, *(pairs[key] for key in keys)], names=alone.index.names)
        beyond -= alone.reindex(wanted).to_numpy()
    return pairs.assign(readout=readout, cosine=np.nan, shift=beyond).reset_index(drop=True)


def _summaries(contrasts: pd.DataFrame, seed: int) -> Iterator[dict[str, object]]:
    """Yield a row of effects per pair, group and state, without what compares with a null."""
    keys = ["gene", "kind", "group", "readout", "state"]
    for number, (key, shifts) in enumerate(contrasts.groupby(keys, sort=False)["shift"]):
        values = shifts.dropna().to_numpy()
        low, high = bootstrap_interval(values, rng=np.random.default_rng([seed, number]))
        mean = float(values.mean()) if len(values) else float("nan")
        row = dict(zip(keys, key, strict=True))
        yield {**row, "shift": mean, "n_cells": len(values), "ci_low": low, "ci_high": high}
