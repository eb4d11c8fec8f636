"""Networks to simulate: drawn, with names and rates, or read from a table of edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from geneformer_grn.network.simulator_network import RegulatoryNetwork
from geneformer_grn.network.topologies import TopologySettings, draw_edges


@dataclass(frozen=True, kw_only=True)
class BasalRates:
    """Production of masters: in each of `n_types` cell types from `low` or `high`, by even chance."""

    n_types: int = 3
    low: tuple[float, float] = (1.0, 2.0)
    high: tuple[float, float] = (4.0, 6.0)

    def draw(self, n_masters: int, generator: np.random.Generator) -> np.ndarray:
        """Return ``(n_types, n_masters)`` rates."""
        shape = (self.n_types, n_masters)
        is_high = generator.random(shape) < 0.5
        return np.where(is_high, generator.uniform(*self.high, shape), generator.uniform(*self.low, shape))


def draw_network(
    topology: TopologySettings,
    rates: BasalRates,
    *,
    names: Literal["human", "synthetic"],
    generator: np.random.Generator,
) -> RegulatoryNetwork:
    """Draw a network with named genes, in the order of their names.

    Parameters
    ----------
    topology, rates
        Its edges, and the production of its masters.
    names
        ``human`` (Ensembl IDs of the shipped vocabulary) or ``synthetic``.
    generator
        Source of everything random.

    Raises
    ------
    ValueError
        The vocabulary has too few genes, or the topology is impossible.

    Examples
    --------
    >>> drawn = draw_network(
    ...     TopologySettings(n_genes=50), BasalRates(), names="synthetic", generator=np.random.default_rng(0)
    ... )
    >>> drawn.n_genes
    50
    """
    drawn = (_human_genes if names == "human" else _synthetic_genes)(topology, generator)
    edges = draw_edges(topology, generator)
    basal = np.zeros((rates.n_types, topology.n_genes))
    basal[:, : topology.n_masters] = rates.draw(topology.n_masters, generator)
    order = np.argsort(drawn)  # by name, so that the place of a gene does not tell what it does
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return RegulatoryNetwork(
        genes=drawn[order],
        source=place[edges.source],
        target=place[edges.target],
        weight=edges.sign * edges.strength,
        basal=basal[:, order],
    )


def truth_table(network: RegulatoryNetwork) -> pd.DataFrame:
    """Return the edges, sorted: ``source``, ``target``, ``sign`` int8, ``strength`` float64."""
    table = pd.DataFrame(
        {
            "source": network.genes[network.source],
            "target": network.genes[network.target],
            "sign": np.where(network.weight < 0, -1, 1).astype(np.int8),
            "strength": np.abs(network.weight),
        }
    )
    return table.sort_values(["source", "target"], ignore_index=True)


def network_of_table(
    table: pd.DataFrame, rates: BasalRates, generator: np.random.Generator
) -> RegulatoryNetwork:
    """Return a network with the edges of a table; what nothing regulates is a master.

    Parameters
    ----------
    table
        ``source``, ``target``, ``sign`` (+1, -1) and optionally ``strength``, drawn from 1 to 5 without.
    rates
        Production of the masters.
    generator
        Source of everything random.

    Raises
    ------
    ValueError
        A column is missing or unfit, or a gene regulates itself.
    """
    missing = [column for column in ("source", "target", "sign") if column not in table.columns]
    if missing:
        raise ValueError(
            f"edges to simulate need source, target and sign; {', '.join(missing)} is missing (found: "
            f"{', '.join(map(str, table.columns)) or 'none'})"
        )
    sign = pd.to_numeric(table["sign"], errors="coerce").to_numpy(np.float64)
    known = np.isin(sign, (-1.0, 1.0))
    if not known.all():
        raise ValueError(
            f"row {int(np.argmin(known)) + 1} of the edges has no sign +1 or -1: an edge without one cannot "
            "be simulated; leave it out"
        )
    genes = np.unique(np.concatenate([table["source"].astype(str), table["target"].astype(str)]))
    strength = generator.uniform(1.0, 5.0, len(table))
    if "strength" in table.columns:
        strength = pd.to_numeric(table["strength"], errors="coerce").to_numpy(np.float64)
    if not (np.isfinite(strength) & (strength > 0)).all():
        raise ValueError("the strength of an edge is its largest production rate, a number above 0")
    target = np.searchsorted(genes, table["target"].astype(str))
    masters = np.setdiff1d(np.arange(len(genes)), target)
    basal = np.zeros((rates.n_types, len(genes)))
    basal[:, masters] = rates.draw(len(masters), generator)
    return RegulatoryNetwork(
        genes=genes.astype(object),
        source=np.searchsorted(genes, table["source"].astype(str)),
        target=target,
        weight=sign * strength,
        basal=basal,
    )


def _human_genes(topology: TopologySettings, generator: np.random.Generator) -> np.ndarray:
    """Return Ensembl IDs of the shipped vocabulary: of regulators first, then of other genes."""
    from geneformer_grn.genes.vocabulary import GeneVocabulary

    vocabulary = GeneVocabulary.load("human")
    genes = np.arange(len(vocabulary)) >= vocabulary.n_special
    parts = []
    wanted = {True: topology.regulators, False: topology.n_genes - topology.regulators}
    for is_regulator, number in wanted.items():
        known = vocabulary.ensembl_ids[genes & (vocabulary.is_regulator == is_regulator)]
        if number > len(known):
            raise ValueError(
                f"{number:,} {'regulators' if is_regulator else 'other genes'} were asked for, the human "
                f"vocabulary has {len(known):,}; ask for fewer, or for synthetic names"
            )
        parts.append(generator.choice(known, number, replace=False))
    return np.concatenate(parts)


def _synthetic_genes(topology: TopologySettings, generator: np.random.Generator) -> np.ndarray:
    """Return made-up names in random order."""
    names = np.array([f"SIM{number:05d}" for number in range(1, topology.n_genes + 1)], dtype=object)
    return generator.permutation(names)
