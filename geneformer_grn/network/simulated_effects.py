"""Perturbations of a simulated network: which genes, and what truly follows.

Two answers, side by side. Without noise, the difference between two steady states: exact, and 0 for every
gene that the perturbed one does not lead to. With noise, the mean difference between cells that share their
random numbers; regulation is curved, so that the two differ where expression is low.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from geneformer_grn.network.simulator_network import Conditions, RegulatoryNetwork, steady_state

_GENES = 10
EFFECT_COLUMNS = (
    "gene", "affected", "kind", "group", "hop", "control", "perturbed", "effect", "effect_in_cells",
)  # fmt: skip
"""Columns of a table of true effects.

``gene`` the perturbed one; ``affected``; ``kind`` knockout or overexpress; ``group`` the cells' condition;
``hop`` edges from the perturbed gene (0 is itself, -1 not reached); ``control`` and ``perturbed`` noise-free
levels, ``effect`` their difference; ``effect_in_cells`` mean difference of paired noisy cells, NaN without.
"""


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """One gene, and what its production is multiplied by: 0 knocks it out."""

    gene: int
    factor: float

    @property
    def kind(self) -> str:
        """Name of what happens, as the verb ``perturb`` calls it."""
        return "knockout" if self.factor == 0 else "overexpress" if self.factor > 1 else "inhibit"


def choose_perturbations(
    network: RegulatoryNetwork, number: int | None, factor: float, generator: np.random.Generator
) -> list[Perturbation]:
    """Draw `number` genes whose production is multiplied by `factor`: regulators first, then the others.

    Without a number it is 10, or all genes where there are fewer.

    Raises
    ------
    ValueError
        More genes are asked for than there are, or the factor changes nothing.
    """
    if number is None:
        number = min(_GENES, network.n_genes)
    if not 0 <= number <= network.n_genes:
        raise ValueError(f"{number} perturbed genes of {network.n_genes} are impossible")
    if not (0 <= factor < np.inf and factor != 1):
        raise ValueError(f"a perturbation multiplies production by 0 or more, and not by 1; got {factor}")
    others = np.setdiff1d(np.arange(network.n_genes), network.regulators)
    order = np.concatenate([generator.permutation(network.regulators), generator.permutation(others)])
    return [Perturbation(gene=int(gene), factor=factor) for gene in order[:number]]


def perturbed_conditions(controls: Conditions, perturbations: Sequence[Perturbation]) -> Conditions:
    """Return the conditions of each perturbation in turn: as many rows for each as `controls` has."""
    factors = np.tile(controls.factor, (len(perturbations), 1, 1))
    for place, perturbation in enumerate(perturbations):
        factors[place, :, perturbation.gene] *= perturbation.factor
    n_genes = controls.basal.shape[1]
    return Conditions(
        basal=np.tile(controls.basal, (len(perturbations), 1)), factor=factors.reshape(-1, n_genes)
    )


def true_effects(
    network: RegulatoryNetwork,
    controls: Conditions,
    groups: Sequence[str],
    perturbations: Sequence[Perturbation],
    *,
    in_cells: np.ndarray | None = None,
) -> pd.DataFrame:
    """Return what follows from each perturbation in each condition.

    Parameters
    ----------
    network
        The network.
    controls, groups
        The ``C`` conditions without perturbation, and their names.
    perturbations
        ``P`` of them, at least one.
    in_cells
        ``(P, C, G)`` mean differences of paired cells.

    Returns
    -------
    DataFrame
        See `EFFECT_COLUMNS`: a row for every gene, by perturbation, then condition. Where ``hop`` is -1 the
        effect is exactly 0.

    Examples
    --------
    >>> loss = [Perturbation(gene=0, factor=0.0)]
    >>> effects = true_effects(network, controls, ["type1"], loss)  # doctest: +SKIP
    """
    before = steady_state(network, controls)
    shape = (len(perturbations), *before.shape)
    after = steady_state(network, perturbed_conditions(controls, perturbations)).reshape(shape)
    parts = []
    for place, perturbation in enumerate(perturbations):
        distance = network.distances(perturbation.gene)
        hop = np.where(np.isfinite(distance), distance, -1).astype(np.int64)
        parts += [
            pd.DataFrame(
                {
                    "gene": network.genes[perturbation.gene],
                    "affected": network.genes,
                    "kind": perturbation.kind,
                    "group": group,
                    "hop": hop,
                    "control": before[row],
                    "perturbed": after[place, row],
                    "effect": after[place, row] - before[row],
                    "effect_in_cells": np.nan if in_cells is None else in_cells[place, row],
                }
            )
            for row, group in enumerate(groups)
        ]
    return pd.concat(parts, ignore_index=True)
