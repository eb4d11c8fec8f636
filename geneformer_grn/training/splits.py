"""Which units are learnt from, chosen by and scored on, without a leak between the three.

Units that belong together (the cells of a donor, the genes of a family) go to one part whole. Parts are then
as large and as alike in their labels as the groups allow: less even than a split of single units, and honest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from geneformer_grn.training.split_assignment import assign_groups, assign_units
from geneformer_grn.training.supervision import MISSING, Kind, Split, Task

Scheme = Literal["holdout", "kfold", "leave_one_out"]
PARTS = ("train", "validation", "test")

_BINS = 5  # a number is stratified by quantile


@dataclass(frozen=True, kw_only=True)
class SplitRule:
    """How units are divided.

    Parameters
    ----------
    scheme
        ``holdout``: one split by `fractions`; ``kfold``: every unit is scored once, the fold after the scored
        one is chosen by; ``leave_one_out``: as ``kfold`` with one group a fold.
    fractions
        Shares of train, validation and test of a ``holdout``.
    folds
        Folds of ``kfold``.
    repeats
        How often all of that is drawn anew.
    stratify
        Whether the parts get the same shares of each class (of a number: of each fifth).
    groups_are
        What a group is called in the rule's sentence, such as ``donor``.
    """

    scheme: Scheme = "holdout"
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    folds: int = 5
    repeats: int = 1
    stratify: bool = True
    groups_are: str = "group"


def make_splits(
    values: np.ndarray, rule: SplitRule, *, kind: Kind = "classification", groups: np.ndarray | None = None,
    units_are: str = "cells", seed: int = 0,
) -> list[Split]:  # fmt: skip
    """Divide the labelled units.

    Parameters
    ----------
    values
        ``(n,)`` labels as in `geneformer_grn.training.supervision.Task`; unlabelled units go nowhere.
    rule
        How.
    kind
        What `values` are.
    groups
        ``(n,)`` str; units of one group stay together. Empty: the unit has no group, which is refused where
        it has a label. None: every unit on its own.
    units_are
        What the units are called in the rule's sentence.
    seed
        Seed of every draw.

    Returns
    -------
    list of Split
        One per fold and repeat, in order.

    Raises
    ------
    ValueError
        There are too few units or groups, a labelled unit has no group, or the fractions do not fit.

    Examples
    --------
    >>> split = make_splits(np.repeat([0, 1], 50), SplitRule())[0]
    >>> len(split.train), len(split.validation), len(split.test)
    (70, 15, 15)
    """
    units = np.flatnonzero(~np.isnan(values) if kind == "regression" else values != MISSING)
    strata = _strata(values[units], kind) if rule.stratify else np.zeros(len(units), dtype=np.int64)
    members = None if groups is None else _group_numbers(groups[units], rule.groups_are, units_are)
    n_blocks = len(units) if members is None else int(members.max(initial=-1)) + 1
    shares = _shares(rule, n_blocks, blocks_are=units_are if members is None else f"{rule.groups_are}s")
    sentence = _sentence(rule, len(shares), units_are=units_are, grouped=members is not None)
    splits = []
    for repeat in range(rule.repeats):
        generator = np.random.default_rng([seed, repeat])
        if members is None:
            part = assign_units(strata, shares, generator)
        else:
            part = assign_groups(strata, members, shares, generator)
        for fold in range(1 if rule.scheme == "holdout" else len(shares)):
            folds = "" if rule.scheme == "holdout" else f"fold {fold + 1} of {len(shares)}"
            repeats = "" if rule.repeats == 1 else f"repeat {repeat + 1} of {rule.repeats}"
            places = part if rule.scheme == "holdout" else _rotated(part, fold, len(shares))
            train, validation, test = (units[places == number] for number in range(3))
            name = ", ".join(filter(None, (folds, repeats)))
            split = Split(train, validation, test, rule=sentence, name=name)
            require_no_leak(split, groups=groups, groups_are=rule.groups_are)
            splits.append(split)
    return splits


def given_split(parts: Sequence[str], *, name: str = "the split column") -> Split:
    """Return the split that a column of ``train``, ``validation``, ``test`` says; others go nowhere.

    Raises
    ------
    ValueError
        One of the three is not in the column.
    """
    column = np.asarray(parts, dtype=object).astype(str)
    found = [np.flatnonzero(column == part) for part in PARTS]
    for part, units in zip(PARTS, found, strict=True):
        if not len(units):
            seen = ", ".join(sorted(set(column.tolist()))[:5])
            raise ValueError(f"{name} names no unit for {part!r}; it holds: {seen}")
    return Split(found[0], found[1], found[2], rule=f"as {name} says")


def few_shot(split: Split, values: np.ndarray, *, per_class: int, seed: int) -> Split:
    """Return the split with at most so many labels of each class to learn from, and as many to choose by.

    The validation part shrinks, too: settings chosen on a thousand labels would not be few-shot. Smaller
    draws of one seed are parts of larger ones, so that a curve grows by adding labels.

    Parameters
    ----------
    split
        Its test part stays.
    values
        ``(n,)`` class indices.
    per_class
        Labels a class.
    seed
        Which ones.
    """
    generator = np.random.default_rng([seed, 7919])
    chosen = []
    for units in (split.train, split.validation):
        order = generator.permutation(units)
        kept = [order[values[order] == label][:per_class] for label in np.unique(values[units])]
        chosen.append(np.sort(np.concatenate(kept)))
    return Split(
        chosen[0],
        chosen[1],
        split.test,
        name=", ".join(filter(None, (split.name, f"{per_class} labels a class", f"seed {seed}"))),
        rule=f"{split.rule}; at most {per_class} labels a class to learn from and as many to choose by",
    )


def require_learnt(split: Split, task: Task, *, groups_are: str = "group") -> None:
    """Refuse a split whose test part holds a class that its train part lacks.

    Raises
    ------
    ValueError
        Nothing could have learnt some class that would be scored; the message names it.
    """
    if task.kind == "regression":
        return
    held = [set(np.unique(task.values[units]).tolist()) - {MISSING} for units in (split.train, split.test)]
    if unseen := held[1] - held[0]:
        names = ", ".join(task.classes[label] for label in sorted(unseen))
        raise ValueError(
            f"{task.name} {names!r} is in the test part of {split.name or 'the split'} and not in train, so "
            f"nothing could have learnt it; where it occurs in too few {groups_are}s leave it out "
            "(tasks.classes names those to keep), or split by something finer"
        )


def require_no_leak(
    split: Split,
    *,
    groups: np.ndarray | None = None,
    groups_are: str = "group",
    copies: np.ndarray | None = None,
) -> None:
    """Refuse a split that scores what it has learnt from.

    Parameters
    ----------
    split
        The split.
    groups
        ``(n,)`` group of each unit, such as its donor; empty: none.
    groups_are
        What a group is called.
    copies
        ``(n,)`` what makes two units the same, such as a hash of a cell's counts.

    Raises
    ------
    ValueError
        A unit, two copies of one, or units of one group are in two parts, or a part is empty.
    """
    parts = {part: np.asarray(getattr(split, part)) for part in PARTS}
    for part, units in parts.items():
        if not len(units):
            raise ValueError(f"the {part} part of the split is empty")
        if len(np.unique(units)) != len(units):
            raise ValueError(f"the {part} part of the split holds a unit twice")
    for what, column in (("unit", None), (groups_are, groups), ("copied cell", copies)):
        if column is None and what != "unit":
            continue
        held = {
            part: set((units if column is None else column[units]).tolist()) - {""}
            for part, units in parts.items()
        }
        for a, b in combinations(PARTS, 2):
            if shared := held[a] & held[b]:
                first = min(map(str, shared))
                raise ValueError(
                    f"the split leaks: {len(shared):,} of the {what}s (first: {first}) are in "
                    f"both {a} and {b}; every {what} belongs to one part whole"
                )


def _strata(values: np.ndarray, kind: Kind) -> np.ndarray:
    if kind != "regression":
        return np.unique(values, return_inverse=True)[1].astype(np.int64)
    edges = np.quantile(values, np.linspace(0, 1, _BINS + 1)[1:-1]) if len(values) else np.zeros(0)
    return np.searchsorted(edges, values, side="right").astype(np.int64)


def _group_numbers(groups: np.ndarray, groups_are: str, units_are: str) -> np.ndarray:
    names = groups.astype(str)
    if lacking := int((names == "").sum()):
        raise ValueError(
            f"{lacking:,} of {len(names):,} labelled {units_are} have no {groups_are}, so a split by "
            f"{groups_are} cannot keep them apart; leave them out by data.where, or split by something else"
        )
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def _rotated(part: np.ndarray, fold: int, folds: int) -> np.ndarray:
    """Return 0, 1, 2 for train, validation and test when `fold` is scored and the next one chosen by."""
    places = np.zeros_like(part)
    places[part == (fold + 1) % folds] = 1
    places[part == fold] = 2
    return places


def _shares(rule: SplitRule, n_blocks: int, *, blocks_are: str) -> np.ndarray:
    if rule.scheme == "holdout":
        shares = np.asarray(rule.fractions, dtype=np.float64)
        if not (np.isclose(shares.sum(), 1.0) and (shares > 0).all()):
            raise ValueError(
                "the fractions of train, validation and test are positive and add up to 1, found "
                f"{rule.fractions}"
            )
    else:
        folds = n_blocks if rule.scheme == "leave_one_out" else rule.folds
        shares = np.full(folds, 1.0 / max(folds, 1))
    if n_blocks < len(shares) or len(shares) < 3:
        raise ValueError(
            f"{n_blocks} {blocks_are} with a label cannot be divided into {len(shares)} parts: train, "
            "validation and test take at least three; use fewer folds, or split by something finer"
        )
    return shares


def _sentence(rule: SplitRule, folds: int, *, units_are: str, grouped: bool) -> str:
    how = f"{units_are} split by {rule.groups_are}" if grouped else f"single {units_are} split at random"
    alike = ", stratified by label" if rule.stratify else ""
    if rule.scheme == "holdout":
        shares = "/".join(f"{100 * share:g}" for share in rule.fractions)
        size = f" into train/validation/test of about {shares} %"
    else:
        one = f"{rule.groups_are} " if grouped else ""
        kind = f"each {one}left out once" if rule.scheme == "leave_one_out" else f"{folds} folds"
        size = f", {kind}; the next fold chooses the settings"
    whole = f"; no {rule.groups_are} is in two parts" if grouped else ""
    return f"{how}{alike}{size}{whole}"
