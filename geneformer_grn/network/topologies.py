"""Made-up gene networks: who regulates whom, with which sign and how strongly.

Genes stand on levels and edges lead downwards, so that a network has no loops unless feedback is asked for.
The heavy tail of the out-degrees, hubs and feed-forward loops are drawn, not grown: quick for 20,000 genes
too, and each property has one parameter.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import numpy as np

Topology = Literal["scale-free", "hubs", "random"]

_EDGES_PER_GENE = 3.0  # of the default density, bounded by _LARGEST_DENSITY
_LARGEST_DENSITY = 0.1
_HUB_SHARE = 0.5  # of the edges, in the topology 'hubs'
_PATIENCE = 20  # draws of an edge that is there already, before another gene gets one


@dataclass(frozen=True, kw_only=True)
class TopologySettings:
    """What a network looks like.

    Parameters
    ----------
    n_genes
        Genes in all.
    n_regulators
        Genes that may regulate; None: a fifth of all, at least 2.
    topology
        How the out-degrees spread: ``scale-free`` (Pareto weights of density exponent `exponent`), ``hubs``
        (`n_hubs` regulators share half of the edges, the others the rest evenly) or ``random`` (evenly).
    density
        Edges as a share of the pairs (regulators × genes, without themselves). None: 3 for every regulated
        gene, but no more than 0.1 of the pairs. Every regulated gene has one edge at least.
    masters
        Share of the regulators that nothing regulates; these differ between cell types.
    n_levels
        Levels of regulators, masters included; regulated genes that regulate nothing stand below all of them.
    exponent
        Of the scale-free out-degrees' density, above 1; real ones have 2 to 3.
    n_hubs
        Regulators that ``hubs`` favours.
    feed_forward
        Probability that a further edge of a gene closes a feed-forward loop: it then comes from a regulator
        of one of the gene's regulators.
    repressing
        Share of edges that repress.
    n_feedback
        Edges from a regulator to one on a level above it; more than 0 makes the network cyclic.
    strength
        Range ``(low, high)`` of the edges' largest production rates, uniform.

    Raises
    ------
    ValueError
        A number is impossible, or does not fit the others.
    """

    n_genes: int
    n_regulators: int | None = None
    topology: Topology = "scale-free"
    density: float | None = None
    masters: float = 0.4
    n_levels: int = 3
    exponent: float = 2.5
    n_hubs: int = 3
    feed_forward: float = 0.2
    repressing: float = 0.3
    n_feedback: int = 0
    strength: tuple[float, float] = (1.0, 5.0)

    def __post_init__(self) -> None:
        if self.n_genes < 2:
            raise ValueError(f"a network needs 2 genes at least, got {self.n_genes}")
        if self.n_regulators is not None and not 1 <= self.n_regulators <= self.n_genes:
            raise ValueError(
                f"{self.n_regulators} regulators of {self.n_genes} genes are impossible; regulators are "
                "among the genes, 1 at least"
            )
        if self.topology not in {"scale-free", "hubs", "random"}:
            raise ValueError(f"topology {self.topology!r} is unknown; use scale-free, hubs or random")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in {"feed_forward", "repressing"} and not 0 <= value <= 1:
                raise ValueError(f"{field.name} is a share from 0 to 1, got {value}")
        if not 0 < self.masters <= 1:
            raise ValueError(f"masters are a share of the regulators above 0, up to 1; got {self.masters}")
        if self.density is not None and not 0 < self.density <= 1:
            raise ValueError(f"density is a share of the pairs above 0, up to 1; got {self.density}")
        if self.n_levels < 1 or self.exponent <= 1 or self.n_feedback < 0:
            raise ValueError(
                "levels start at 1, the exponent of out-degrees lies above 1, feedback edges start at 0; got "
                f"{self.n_levels}, {self.exponent} and {self.n_feedback}"
            )
        if self.topology == "hubs" and not 1 <= self.n_hubs <= self.regulators:
            raise ValueError(f"{self.n_hubs} hubs among {self.regulators} regulators are impossible")
        if not 0 < self.strength[0] <= self.strength[1]:
            raise ValueError(f"strengths are a range of positive rates, got {self.strength}")

    @property
    def regulators(self) -> int:
        """Number of regulators, the default resolved."""
        return self.n_regulators if self.n_regulators is not None else max(2, self.n_genes // 5)

    @property
    def n_masters(self) -> int:
        """Number of regulators that nothing regulates; all of them where there is one level."""
        if self.n_levels == 1:
            return self.regulators
        return max(1, round(self.masters * self.regulators))

    @property
    def n_edges(self) -> int:
        """Number of edges asked for, feedback not counted."""
        regulated = self.n_genes - self.n_masters
        pairs = self.regulators * (self.n_genes - 1)
        if self.density is None:
            wanted = min(_EDGES_PER_GENE * regulated, _LARGEST_DENSITY * pairs)
        else:
            wanted = self.density * pairs
        return max(regulated, round(wanted))


class DrawnEdges(NamedTuple):
    """Edges between gene numbers, sorted by (target, source), ``(E,)`` each: strength is a production rate.

    Regulators have the numbers from 0, masters first, then by level; the other genes follow.
    """

    source: np.ndarray
    target: np.ndarray
    sign: np.ndarray
    strength: np.ndarray


def draw_edges(settings: TopologySettings, generator: np.random.Generator) -> DrawnEdges:
    """Draw a network.

    Parameters
    ----------
    settings
        What it looks like.
    generator
        Source of everything random.

    Returns
    -------
    DrawnEdges
        ``source`` and ``target`` int64, ``sign`` int8 (+1 activates, -1 represses), ``strength`` float64. No
        gene regulates itself, no edge occurs twice. Without feedback every source stands on a level above its
        target's.

    Raises
    ------
    ValueError
        More edges, or more feedback edges, are asked for than the levels leave room for.

    Examples
    --------
    >>> edges = draw_edges(TopologySettings(n_genes=100), np.random.default_rng(0))
    """
    levels = regulator_levels(settings)
    room = np.full(settings.n_genes, settings.regulators)
    room[: settings.regulators] = np.searchsorted(levels, levels, side="left")  # regulators above this one
    if settings.n_edges > room.sum():
        raise ValueError(
            f"{settings.n_edges:,} edges were asked for, {settings.regulators:,} regulators on "
            f"{settings.n_levels} levels leave room for {room.sum():,}; lower the density"
        )
    total = np.cumsum(_attractiveness(settings, generator))
    parents = _draw_parents(settings, room, total, generator)
    pairs = [(source, target) for target, chosen in enumerate(parents) for source in chosen]
    pairs += _draw_feedback(settings, levels, set(pairs), generator)
    source, target = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    order = np.lexsort((source, target))
    return DrawnEdges(
        source=source[order],
        target=target[order],
        sign=np.where(generator.random(len(order)) < settings.repressing, -1, 1).astype(np.int8),
        strength=generator.uniform(*settings.strength, len(order)),
    )


def regulator_levels(settings: TopologySettings) -> np.ndarray:
    """Return the ``(R,)`` level of every regulator, ascending: 0 for masters, the others spread evenly."""
    levels = np.zeros(settings.regulators, dtype=np.int64)
    others = np.arange(settings.n_masters, settings.regulators)
    for level, members in enumerate(np.array_split(others, max(1, settings.n_levels - 1)), start=1):
        levels[members] = level
    return levels


def _attractiveness(settings: TopologySettings, generator: np.random.Generator) -> np.ndarray:
    """Return the ``(R,)`` weights by which regulators win edges."""
    n = settings.regulators
    if settings.topology == "scale-free":
        return (1.0 - generator.random(n)) ** (-1.0 / (settings.exponent - 1.0))
    weights = np.ones(n)
    if settings.topology == "hubs" and settings.n_hubs < n:
        rest = (n - settings.n_hubs) / settings.n_hubs * _HUB_SHARE / (1.0 - _HUB_SHARE)
        weights[generator.choice(n, settings.n_hubs, replace=False)] = rest
    return weights


def _draw_parents(
    settings: TopologySettings, room: np.ndarray, total: np.ndarray, generator: np.random.Generator
) -> list[list[int]]:
    """Return the regulators of every gene: one each, and the further edges at genes drawn evenly."""
    parents: list[list[int]] = [[] for _ in range(settings.n_genes)]
    regulated = np.flatnonzero(room)
    for gene in regulated.tolist():
        parents[gene].append(_weighted(total, int(room[gene]), generator))
    missing = settings.n_edges - len(regulated)
    while missing > 0:
        gene = int(generator.choice(regulated))
        if len(parents[gene]) < room[gene]:
            closing = generator.random() < settings.feed_forward
            parents[gene].append(_another(parents, gene, int(room[gene]), total, generator, closing=closing))
            missing -= 1
    return parents


def _weighted(total: np.ndarray, room: int, generator: np.random.Generator) -> int:
    """Return one of the first `room` regulators, by the running `total` of their weights."""
    return int(np.searchsorted(total, generator.random() * total[room - 1], side="right").clip(max=room - 1))


def _another(
    parents: list[list[int]],
    gene: int,
    room: int,
    total: np.ndarray,
    generator: np.random.Generator,
    *,
    closing: bool,
) -> int:
    """Return a regulator that `gene` does not have; `closing`: one of its regulators' own if possible."""
    if closing:
        above = sorted({far for near in parents[gene] for far in parents[near]} - set(parents[gene]))
        if above:
            return int(generator.choice(above))
    for _ in range(_PATIENCE):
        drawn = _weighted(total, room, generator)
        if drawn not in parents[gene]:
            return drawn
    return int(generator.choice(sorted(set(range(room)) - set(parents[gene]))))


def _draw_feedback(
    settings: TopologySettings,
    levels: np.ndarray,
    taken: set[tuple[int, int]],
    generator: np.random.Generator,
) -> list[tuple[int, int]]:
    """Return the edges that lead upwards: each reverses a path, so that it does close a loop."""
    if settings.n_feedback == 0:
        return []
    n = settings.regulators
    reached = np.zeros((n, n), dtype=bool)
    for source, target in sorted(taken, key=lambda pair: levels[min(pair[1], n - 1)]):
        if target < n:  # everything above a source is complete, since levels ascend
            reached[target] |= reached[source]
            reached[target, source] = True
    possible = np.argwhere(reached)
    if len(possible) < settings.n_feedback:
        raise ValueError(
            f"{settings.n_feedback} feedback edges were asked for, but only {len(possible)} pairs of "
            "regulators are connected downwards; ask for fewer, or for more regulators and levels"
        )
    chosen = possible[generator.choice(len(possible), settings.n_feedback, replace=False)]
    return [(int(below), int(above)) for below, above in chosen]
