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

EFFECT_COLUMNS = (
    "source", "kind", "group", "gene", "hop", "control", "perturbed", "effect", "effect_in_cells",
)  # fmt: skip
"""Columns of a table of true effects.

``source`` the perturbed gene; ``kind`` knockout or overexpress; ``group`` the cells' condition; ``gene``;
``hop`` edges from source to gene (0 is the source itself); ``control`` and ``perturbed`` noise-free levels,
``effect`` their difference; ``effect_in_cells`` mean difference of the paired noisy cells, NaN without cells.
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
    network: RegulatoryNetwork,
    *,
    n_knockouts: int,
    n_overexpressed: int,
    fold: float,
    generator: np.random.Generator,
) -> list[Perturbation]:
    """Draw genes to perturb: regulators first, then the others; overexpressed ones likewise.

    Raises
    ------
    ValueError
        More genes are asked for than there are, or `fold` would not overexpress.
    """
    for number, what in ((n_knockouts, "knock-outs"), (n_overexpressed, "overexpressed genes")):
        if not 0 <= number <= network.n_genes:
            raise ValueError(f"{number} {what} of {network.n_genes} genes are impossible")
    if not 1 < fold < np.inf:
        raise ValueError(f"overexpression multiplies production by more than 1, got {fold}")
    found = []
    for number, factor in ((n_knockouts, 0.0), (n_overexpressed, fold)):
        others = np.setdiff1d(np.arange(network.n_genes), network.regulators)
        order = np.concatenate([generator.permutation(network.regulators), generator.permutation(others)])
        found += [Perturbation(gene=int(gene), factor=factor) for gene in order[:number]]
    return found


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
        ``P`` of them.
    in_cells
        ``(P, C, G)`` mean differences of paired cells.

    Returns
    -------
    DataFrame
        See `EFFECT_COLUMNS`. Rows are the perturbed gene and all genes it leads to; of every other gene the
        effect is exactly 0, and there is no row.

    Examples
    --------
    >>> loss = [Perturbation(gene=0, factor=0.0)]
    >>> effects = true_effects(network, controls, ["type1"], loss)  # doctest: +SKIP
    """
    before = steady_state(network, controls)
    shape = (len(perturbations), *before.shape)
    after = steady_state(network, perturbed_conditions(controls, perturbations)).reshape(shape)
    names = np.asarray(groups, dtype=object)
    parts = []
    for place, perturbation in enumerate(perturbations):
        reached = np.flatnonzero(np.isfinite(network.distances[perturbation.gene]))
        for row, group in enumerate(names):
            control, perturbed = before[row, reached], after[place, row, reached]
            parts.append(
                pd.DataFrame(
                    {
                        "source": network.genes[perturbation.gene],
                        "kind": perturbation.kind,
                        "group": group,
                        "gene": network.genes[reached],
                        "hop": network.distances[perturbation.gene, reached].astype(np.int64),
                        "control": control,
                        "perturbed": perturbed,
                        "effect": perturbed - control,
                        "effect_in_cells": np.nan if in_cells is None else in_cells[place, row, reached],
                    }
                )
            )
    if not parts:
        return pd.DataFrame(columns=list(EFFECT_COLUMNS))
    return pd.concat(parts, ignore_index=True)
