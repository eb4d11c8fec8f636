"""What simulated cells are subject to: cell types, the two states of a driver, perturbations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from geneformer_grn.network.simulated_effects import Perturbation, perturbed_conditions
from geneformer_grn.network.simulator import LangevinSettings, simulate_cells
from geneformer_grn.network.simulator_network import Conditions, RegulatoryNetwork


def find_driver(network: RegulatoryNetwork, name: str | None) -> int | None:
    """Return the number of the driver.

    Raises
    ------
    ValueError
        It is no gene of the network, or regulates nothing.
    """
    if name is None:
        return None
    if len(network.regulators) == 0:
        raise ValueError("no gene regulates another, so none can drive a state; ask for edges")
    if name == "auto":
        reach = [np.isfinite(network.distances(gene)).sum() for gene in network.regulators]
        return int(network.regulators[np.argmax(reach)])
    found = np.flatnonzero(network.genes == name)
    if len(found) == 0 or found[0] not in network.regulators:
        what = "regulates nothing" if len(found) else "is not in the network"
        raise ValueError(
            f"{name!r} {what}, so it cannot drive a state; use auto, or a regulator such as "
            f"{network.genes[network.regulators[0]]}"
        )
    return int(found[0])


def control_conditions(
    network: RegulatoryNetwork, driver: int | None, driver_factor: float
) -> tuple[Conditions, pd.DataFrame]:
    """Return the conditions without perturbation: every cell type, with a driver in the states on and off.

    Their labels have the columns ``cell_type``, with a driver ``state``, and ``group``, which names the row.
    """
    types = [f"type{number}" for number in range(1, len(network.basal) + 1)]
    if driver is None:
        labels = pd.DataFrame({"cell_type": types, "group": types})
        return Conditions(basal=network.basal, factor=np.ones_like(network.basal)), labels
    labels = pd.DataFrame(
        [(kind, state, f"{kind}/{state}") for kind in types for state in ("on", "off")],
        columns=["cell_type", "state", "group"],
    )
    basal = np.repeat(network.basal, 2, axis=0)
    factor = np.ones_like(basal)
    factor[1::2, driver] = driver_factor
    return Conditions(basal=basal, factor=factor), labels


def run_perturbed(
    network: RegulatoryNetwork,
    controls: Conditions,
    labels: pd.DataFrame,
    perturbations: Sequence[Perturbation],
    *,
    streams: np.ndarray,
    seed: int,
    settings: LangevinSettings,
) -> tuple[np.ndarray, pd.DataFrame, np.ndarray]:
    """Run controls and perturbed cells, all with the same `streams`.

    Returns
    -------
    tuple
        ``((P + 1) * n, G)`` float32 levels, controls first; their obs; and ``(P, C, G)`` float64 mean
        differences from the controls, NaN where a condition has no cells.
    """
    everything = [Perturbation(gene=0, factor=1.0), *perturbations]  # a factor of 1: the controls
    n_pairs = len(streams)
    of = np.arange(n_pairs) % len(labels)
    levels = simulate_cells(
        network,
        perturbed_conditions(controls, everything),
        (np.arange(len(everything))[:, None] * len(labels) + of).ravel(),
        np.tile(streams, len(everything)),
        seed=seed,
        settings=settings,
    )
    by_pair = levels.reshape(len(everything), n_pairs, network.n_genes)
    in_cells = np.full((len(perturbations), len(labels), network.n_genes), np.nan)
    for row in np.unique(of):
        for place in range(len(perturbations)):
            moved = by_pair[place + 1, of == row].astype(np.float64) - by_pair[0, of == row]
            in_cells[place, row] = moved.mean(axis=0)
    obs = pd.concat([labels.iloc[of].drop(columns="group")] * len(everything), ignore_index=True)
    obs["perturbation"] = np.repeat(["control", *(network.genes[one.gene] for one in perturbations)], n_pairs)
    obs["kind"] = np.repeat(["control", *(one.kind for one in perturbations)], n_pairs)
    obs["pair"] = np.tile(np.arange(n_pairs), len(everything))
    obs.index = pd.Index([f"{row.kind}_{row.perturbation}_{row.pair}" for row in obs.itertuples()])
    return levels, obs, in_cells
