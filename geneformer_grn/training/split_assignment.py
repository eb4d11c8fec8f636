"""Dealing units, or whole groups of them, into parts of given shares that look alike in their labels."""

from __future__ import annotations

import numpy as np

_DRAWS = 300  # random assignments of groups that are compared
_LACKS = 10.0  # cost of a class that some model could not learn, against 1 for one that a part lacks


def assign_units(strata: np.ndarray, shares: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the ``(n,)`` int64 part of each unit, every stratum divided by the shares.

    A stratum of a few units is spread over as many parts as it can reach; of a single one the first part
    (where shares differ, the one to learn from) has it.

    Parameters
    ----------
    strata
        ``(n,)`` int64 class of each unit.
    shares
        ``(n_parts,)`` float64, adding up to 1.
    generator
        Source of the order.
    """
    part = np.empty(len(strata), dtype=np.int64)
    equal = bool(np.allclose(shares, shares[0]))
    for stratum in np.unique(strata):
        units = generator.permutation(np.flatnonzero(strata == stratum))
        sizes = np.diff(np.rint(np.cumsum([0.0, *shares]) * len(units))).astype(np.int64)
        while sizes.min() == 0 and sizes.max() > 1:
            sizes[np.argmax(sizes)] -= 1
            sizes[np.argmin(sizes)] += 1
        if equal:  # folds: what is left over goes to another fold in every stratum
            sizes = generator.permutation(sizes)
        part[units] = np.repeat(np.arange(len(shares)), sizes)
    return part


def assign_groups(
    strata: np.ndarray, members: np.ndarray, shares: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Return the ``(n,)`` int64 part of each unit, groups whole, in the closest of many random assignments.

    Closest: the least squared difference between the share of each stratum that a part has and should have.

    Parameters
    ----------
    strata
        ``(n,)`` int64 class of each unit.
    members
        ``(n,)`` int64 group of each unit, from 0 without gaps; at least as many groups as parts.
    shares
        ``(n_parts,)`` float64, adding up to 1.
    generator
        Source of the draws.
    """
    table = np.zeros((int(members.max()) + 1, int(strata.max()) + 1))
    np.add.at(table, (members, strata), 1.0)
    sizes = table.sum(axis=1)
    totals = np.maximum(table.sum(axis=0), 1.0)
    equal = bool(np.allclose(shares, shares[0]))
    draws = [_drawn(sizes, shares, generator) for _ in range(_DRAWS)]
    costs = []
    for places in draws:
        got = np.zeros((len(shares), table.shape[1]))
        np.add.at(got, places, table)
        held = got > 0
        # folds take turns: a class learnt, chosen by and scored is in three of them
        lacking = (held.sum(axis=0) < 3).sum() if equal else (~held[0]).sum()
        unlike = (((got / totals) - shares[:, None]) ** 2).sum()
        costs.append(float(unlike + (~held).sum() + _LACKS * lacking))
    return draws[int(np.argmin(costs))][members]


def _drawn(sizes: np.ndarray, shares: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a part for each group: large groups first, nearly, each where the most is missing."""
    order = np.argsort(-sizes * generator.uniform(0.3, 1.7, len(sizes)), kind="stable")
    room = shares * sizes.sum()
    places = np.empty(len(sizes), dtype=np.int64)
    empty = np.ones(len(shares), dtype=bool)
    for step, group in enumerate(order):
        last_chance = len(order) - step <= empty.sum()
        places[group] = np.argmax(np.where(empty, room, -np.inf) if last_chance else room)
        empty[places[group]] = False
        room[places[group]] -= sizes[group]
    return places
