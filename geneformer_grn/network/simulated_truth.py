"""Simulated cells with everything that is true of them: network, effects of perturbations, a driver.

For benchmarks and tests, in memory; the verb ``simulate`` writes the same to files. Counts, levels and
effects belong together: the counts are drawn from the levels, the effects come from the network of both.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from geneformer_grn.network.simulated_conditions import control_conditions, find_driver, run_perturbed
from geneformer_grn.network.simulated_effects import Perturbation, choose_perturbations, true_effects
from geneformer_grn.network.simulated_network import BasalRates, draw_network, truth_table
from geneformer_grn.network.simulator import LangevinSettings, simulate_cells
from geneformer_grn.network.simulator_network import RegulatoryNetwork
from geneformer_grn.network.simulator_sequencing import SequencingSettings, outlier_factors, sequence
from geneformer_grn.network.topologies import TopologySettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

# Independent random streams: what one purpose draws does not move another's numbers.
_NETWORK, _OUTLIERS, _COUNTS, _KNOCKED_OUT, _RAISED, _KNOCKOUT_COUNTS, _RAISED_COUNTS, _DEPTHS = range(8)


@dataclass(frozen=True, kw_only=True)
class SimulationSettings:
    """Everything that a simulation depends on, but the seed.

    Parameters
    ----------
    topology
        The network; None where one is given.
    n_cells
        Cells, dealt in turn to the cell types and states.
    n_types
        Cell types; they differ in the basal rates of the masters, low or high by chance.
    low, high
        Ranges of these rates, uniform.
    driver
        Gene whose loss makes the state ``off``: a name, or ``auto`` for the regulator that leads to most
        genes. Half of the cells of every type are in that state. None: there are no states.
    driver_factor
        What the driver's production is multiplied by in the state ``off``.
    n_knockouts, n_overexpressed
        Genes to perturb each way, one at a time, regulators first. None: 10, or all where there are fewer.
    fold
        What overexpression multiplies production by.
    perturbed_cells
        Cells of each perturbation, and controls.
    names
        ``human``: genes of the shipped vocabulary, regulators from its regulators. ``synthetic``: SIM00001
        and so on.
    langevin, sequencing
        How cells run, and how they are counted.
    """

    topology: TopologySettings | None = None
    n_cells: int = 2_000
    n_types: int = 3
    low: tuple[float, float] = (1.0, 2.0)
    high: tuple[float, float] = (4.0, 6.0)
    driver: str | None = None
    driver_factor: float = 0.1
    n_knockouts: int | None = 0
    n_overexpressed: int | None = 0
    fold: float = 3.0
    perturbed_cells: int = 200
    names: Literal["human", "synthetic"] = "human"
    langevin: LangevinSettings = field(default_factory=LangevinSettings)
    sequencing: SequencingSettings = field(default_factory=SequencingSettings)

    def __post_init__(self) -> None:
        for name in ("n_cells", "n_types", "perturbed_cells"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name.removeprefix('n_')}: at least 1 is needed, got {getattr(self, name)}"
                )
        if self.names not in {"human", "synthetic"}:
            raise ValueError(f"gene names {self.names!r} are unknown; use human or synthetic")
        if not 0 <= self.driver_factor < 1:
            raise ValueError(f"the driver's loss is a factor from 0 up to 1, got {self.driver_factor}")
        if not 1 < self.fold < np.inf:
            raise ValueError(f"overexpression multiplies production by more than 1, got {self.fold}")
        for number, what in ((self.n_knockouts, "knock-outs"), (self.n_overexpressed, "overexpressed genes")):
            if number is not None and number < 0:
                raise ValueError(f"{what} are a number from 0, got {number}")
        if not (0 < self.low[0] <= self.low[1] and 0 < self.high[0] <= self.high[1]):
            raise ValueError(f"basal rates are ranges above 0, got {self.low} and {self.high}")

    @property
    def rates(self) -> BasalRates:
        """The masters' rates."""
        return BasalRates(n_types=self.n_types, low=self.low, high=self.high)


@dataclass(frozen=True, eq=False, kw_only=True)
class Experiment:
    """Perturbed cells, and what truly follows.

    Parameters
    ----------
    cells
        AnnData as those of a `Simulation`, with ``obs`` perturbation (gene, or control), kind and pair: cells
        of one pair share their random numbers, and differ by the perturbation alone.
    effects
        See `geneformer_grn.network.simulated_effects.EFFECT_COLUMNS`.
    """

    cells: AnnData
    effects: pd.DataFrame

    @property
    def n_genes(self) -> int:
        """Number of genes perturbed."""
        return int(self.effects["gene"].nunique())


@dataclass(frozen=True, eq=False, kw_only=True)
class Simulation:
    """Cells, and what is true of them.

    Parameters
    ----------
    settings, seed
        What it was made from.
    network
        The network with its rates.
    cells
        AnnData: ``X`` csr float32 whole counts, ``layers["clean"]`` float32 the levels before any technical
        noise, ``obs`` cell_type (with a driver also state), ``var`` is_regulator.
    truth
        ``source``, ``target``, ``sign`` int8, ``strength`` float64 (largest production rate of the edge).
    knockouts, overexpressed
        What perturbed genes do; None where none was.
    driver
        The gene behind the states; None without states.
    """

    settings: SimulationSettings
    seed: int
    network: RegulatoryNetwork
    cells: AnnData
    truth: pd.DataFrame
    knockouts: Experiment | None
    overexpressed: Experiment | None
    driver: str | None

    @property
    def facts(self) -> dict[str, Any]:
        """What to say of it: sizes, density, driver, seed."""
        n_regulators, n_edges = len(self.network.regulators), len(self.truth)
        return {
            "n_cells": self.cells.n_obs,
            "n_genes": self.network.n_genes,
            "n_regulators": n_regulators,
            "n_edges": n_edges,
            "density": n_edges / max(1, n_regulators * (self.network.n_genes - 1)),
            "n_knockouts": 0 if self.knockouts is None else self.knockouts.n_genes,
            "n_overexpressed": 0 if self.overexpressed is None else self.overexpressed.n_genes,
            "driver": self.driver or "",
            "seed": self.seed,
        }


def simulate(
    settings: SimulationSettings, *, seed: int = 0, network: RegulatoryNetwork | None = None
) -> Simulation:
    """Draw a network, run cells and perturbed cells, count their molecules.

    Parameters
    ----------
    settings
        What to make; a `network` brings its own genes, edges and cell types.
    seed
        Seed of everything; same seed and settings, same result, whatever the threads.
    network
        A network to use instead of one drawn.

    Raises
    ------
    ValueError
        More genes are to be perturbed than there are, the driver drives nothing, or there is no network.

    Examples
    --------
    >>> simulated = simulate(SimulationSettings(topology=TopologySettings(n_genes=100), n_knockouts=10))
    >>> simulated.cells.shape
    (2000, 100)
    """
    if network is None:
        if settings.topology is None:
            raise ValueError("there is no network: neither one to use nor a topology to draw")
        generator = _generator(seed, _NETWORK)
        network = draw_network(settings.topology, settings.rates, names=settings.names, generator=generator)
    knocked_out, raised = (
        choose_perturbations(network, n_genes, factor, _generator(seed, stream))
        for n_genes, factor, stream in (
            (settings.n_knockouts, 0.0, _KNOCKED_OUT),
            (settings.n_overexpressed, settings.fold, _RAISED),
        )
    )
    driver = find_driver(network, settings.driver)
    controls, labels = control_conditions(network, driver, settings.driver_factor)
    factors = outlier_factors(network.n_genes, settings.sequencing, _generator(seed, _OUTLIERS))
    number = np.arange(settings.n_cells)
    levels = simulate_cells(
        network, controls, number % len(labels), number, seed=seed, settings=settings.langevin
    )
    counts = sequence(levels, factors, settings.sequencing, _generator(seed, _COUNTS))
    obs = labels.iloc[number % len(labels)].set_axis([f"cell{i}" for i in number])

    def perturb(chosen: list[Perturbation], stream: int) -> Experiment | None:
        if not chosen:
            return None
        levels, obs, in_cells = run_perturbed(
            network, controls, labels, chosen,
            streams=settings.n_cells + np.arange(settings.perturbed_cells),  # an experiment of its own
            seed=seed, settings=settings.langevin,
        )  # fmt: skip
        counts = sequence(levels, factors, settings.sequencing, _generator(seed, stream))
        effects = true_effects(network, controls, list(labels["group"]), chosen, in_cells=in_cells)
        return Experiment(cells=_adata(network, counts, levels, obs), effects=effects)

    return Simulation(
        settings=settings,
        seed=seed,
        network=network,
        cells=_adata(network, counts, levels, obs.drop(columns="group")),
        truth=truth_table(network),
        knockouts=perturb(knocked_out, _KNOCKOUT_COUNTS),
        overexpressed=perturb(raised, _RAISED_COUNTS),
        driver=None if driver is None else str(network.genes[driver]),
    )


def recount(
    simulation: Simulation, umi: Sequence[float | None], *, seed: int | None = None
) -> dict[str, AnnData]:
    """Return the same cells at other depths: one network, one set of levels, several sequencing runs.

    Parameters
    ----------
    simulation
        What `simulate` made.
    umi
        Mean molecules a cell, one entry a depth; None for the levels themselves (``clean``).
    seed
        Seed of the molecules; None: the simulation's.

    Returns
    -------
    dict
        ``clean`` or the depth as text (``"1000"``) -> AnnData, with the obs and var of the cells. ``X`` is
        csr float32 counts; of ``clean`` it is the dense levels.

    Examples
    --------
    >>> depths = recount(simulation, [None, 5_000, 1_000, 100])  # doctest: +SKIP
    """
    settings, cells = simulation.settings.sequencing, simulation.cells
    # Outliers are a property of the genes, and stay those of the simulation.
    factors = outlier_factors(cells.n_vars, settings, _generator(simulation.seed, _OUTLIERS))
    seed = simulation.seed if seed is None else seed
    made: dict[str, AnnData] = {}
    for depth in umi:
        levels = cells.layers["clean"]
        if depth is None:
            counts, name = levels.copy(), "clean"
        else:
            generator, name = _generator(seed, _DEPTHS, int(depth)), f"{depth:g}"
            counts = sequence(levels, factors, replace(settings, umi=depth), generator)
        made[name] = _adata(simulation.network, counts, None, cells.obs.copy())
    return made


def _generator(seed: int, *stream: int) -> np.random.Generator:
    """Return the generator of one purpose."""
    return np.random.default_rng([seed, *stream])


def _adata(
    network: RegulatoryNetwork, counts: object, clean: np.ndarray | None, obs: pd.DataFrame
) -> AnnData:
    """Return cells with what is known of their genes."""
    import anndata

    regulates = np.zeros(network.n_genes, dtype=bool)
    regulates[network.regulators] = True
    var = pd.DataFrame({"is_regulator": regulates}, index=pd.Index(network.genes.astype(str)))
    obs = obs.copy()
    for column in obs.columns.intersection(["cell_type", "state", "perturbation", "kind"]):
        obs[column] = pd.Categorical(obs[column])
    return anndata.AnnData(X=counts, obs=obs, var=var, layers={} if clean is None else {"clean": clean})
