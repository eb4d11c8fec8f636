"""Which group of cells goes to which part of a split: by fractions, or as told."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

REST = "train"
"""The part of groups that nothing else names."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_MOST_SWAPPED = 500  # groups; beyond it there are enough small ones for moves alone to meet the fractions


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """How a corpus is split; whole groups go to one part.

    Parameters
    ----------
    by
        Column of the groups: ``source`` (or ``file``), or an obs column that the corpus carries.
    fractions
        Part -> share of the cells, together 1. Met as well as whole groups allow.
    assign
        Part -> its groups, instead of fractions; all others go to ``train``. A text that is no group is read
        as several, separated by commas.
    missing
        The part of cells whose group is empty; None: such cells are refused.
    apart
        Columns of which no value may be in two parts.
    seed
        Of the order in which groups are dealt.
    """

    by: str
    fractions: Mapping[str, float] | None = None
    assign: Mapping[str, Sequence[str]] | None = None
    missing: str | None = None
    apart: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if bool(self.fractions) == bool(self.assign):
            raise ValueError(
                "give either fractions (--fractions train=0.8,valid=0.1,test=0.1) or the groups of each part "
                "(--assign test=D1,D2)" + ("; both were given" if self.fractions else "")
            )
        for name in self.parts:
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"part {name!r} cannot be a folder's name; use letters, digits, dots, - and _"
                )
        if self.fractions:
            if bad := [name for name, share in self.fractions.items() if not 0 < share < 1]:
                raise ValueError(
                    f"the fraction of {bad[0]} is {self.fractions[bad[0]]:g}; use one between 0 and 1"
                )
            if abs(sum(self.fractions.values()) - 1) > 1e-6:
                raise ValueError(
                    f"the fractions add up to {sum(self.fractions.values()):g}; they must add up to 1"
                )
        if self.missing is not None and self.missing not in self.parts:
            raise ValueError(f"missing: {self.missing!r} is no part; parts are {', '.join(self.parts)}")

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts that may come out, in order."""
        if self.fractions:
            return tuple(self.fractions)
        return tuple(dict.fromkeys([REST, *(self.assign or ())]))


def parse_fractions(text: str | None) -> dict[str, float] | None:
    """Read ``train=0.8,valid=0.2``; None where there is no text.

    Raises
    ------
    ValueError
        The text is not of this form, or a part occurs twice.
    """
    if text is None:
        return None
    found: dict[str, float] = {}
    for item in text.split(","):
        name, equals, share = (piece.strip() for piece in item.partition("="))
        try:
            value = float(share) if name and equals else None
        except ValueError:
            value = None
        if value is None or name in found:
            raise ValueError(f"fractions {text!r}: {item!r} is wrong; use train=0.8,valid=0.1,test=0.1")
        found[name] = value
    return found


def parse_assignments(texts: Sequence[str] | None) -> dict[str, list[str]] | None:
    """Read ``["test=D1,D2", "valid=D3"]``; a part may come several times. None where there is none.

    Raises
    ------
    ValueError
        A text is not of this form.
    """
    found: dict[str, list[str]] = {}
    for text in texts or ():
        name, _, groups = text.partition("=")
        if not name.strip() or not groups.strip():
            raise ValueError(f"assignment {text!r} is wrong; use PART=GROUP,GROUP such as test=D1,D2")
        found.setdefault(name.strip(), []).append(groups)
    return found or None


def assign_groups(groups: Sequence[str], settings: SplitSettings) -> np.ndarray:
    """Return the part of each group as `settings.assign` says it, ``(g,)`` int64 places in `settings.parts`.

    Raises
    ------
    ValueError
        A group is not there, or is assigned twice.
    """
    place = {group: number for number, group in enumerate(groups)}
    part = np.full(len(groups), -1, dtype=np.int64)
    for name, texts in (settings.assign or {}).items():
        number = settings.parts.index(name)
        for text in texts:
            # "CD4-positive, alpha-beta T cell" is one cell type: whole texts come before their pieces.
            for group in [text] if text in place else [piece.strip() for piece in text.split(",")]:
                if group not in place:
                    some = ", ".join(groups[:5]) + (f" and {len(groups) - 5} more" if len(groups) > 5 else "")
                    raise ValueError(
                        f"{settings.by} has no {group!r} (asked for in {name}); there are: {some}. Of a name "
                        "with a comma, give the whole of it in an --assign of its own"
                    )
                if part[place[group]] not in {-1, number}:
                    other = settings.parts[part[place[group]]]
                    raise ValueError(f"{settings.by} {group!r} is assigned to both {other} and {name}")
                part[place[group]] = number
    return np.where(part == -1, settings.parts.index(REST), part)


def deal_groups(sizes: np.ndarray, shares: np.ndarray, *, fixed: np.ndarray, seed: int) -> np.ndarray:
    """Return a part for each group, so that cells are shared out as well as whole groups allow.

    Large groups first, those of about one size (within a factor of 2) in an order drawn from `seed`, each to
    the part that lacks most; then groups are moved and swapped for as long as that brings the shares closer.

    Parameters
    ----------
    sizes
        ``(g,)`` int64 cells of each group.
    shares
        ``(p,)`` float64 share of each part, together 1.
    fixed
        ``(p,)`` int64 cells that each part has already.
    seed
        Of the order; the same seed gives the same parts.

    Returns
    -------
    numpy.ndarray
        ``(g,)`` int64; every part gets a group. No move of one group and (among 500 groups at most) no
        swap of two would bring ``sum |cells of a part - its share|`` closer to 0.
    """
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-np.frexp(sizes[order])[1], kind="stable")]
    target = shares * (sizes.sum() + fixed.sum())
    held = fixed.astype(np.float64)
    part = np.zeros(len(sizes), dtype=np.int64)
    empty = set(range(len(shares)))
    for place, group in enumerate(order.tolist()):
        lacking = target - held
        if len(empty) == len(order) - place:
            lacking[[number for number in range(len(shares)) if number not in empty]] = -np.inf
        chosen = int(np.argmax(lacking))
        part[group] = chosen
        held[chosen] += sizes[group]
        empty.discard(chosen)
    while _move_one(part, sizes, held, target) or _swap_two(part, sizes, held, target):
        pass
    return part


def _move_one(part: np.ndarray, sizes: np.ndarray, held: np.ndarray, target: np.ndarray) -> bool:
    """Make the best move of one group to another part, if any helps."""
    off = held - target
    before = np.abs(off[part])[:, None] + np.abs(off)[None, :]
    after = np.abs(off[part] - sizes)[:, None] + np.abs(off[None, :] + sizes[:, None])
    gain = before - after
    gain[np.arange(len(part)), part] = 0
    gain[np.bincount(part, minlength=len(target))[part] == 1] = 0  # no part is emptied
    group, to = np.unravel_index(np.argmax(gain), gain.shape)
    if gain[group, to] <= 0.5:  # cells are whole: less is rounding
        return False
    held[part[group]] -= sizes[group]
    held[to] += sizes[group]
    part[group] = to
    return True


def _swap_two(part: np.ndarray, sizes: np.ndarray, held: np.ndarray, target: np.ndarray) -> bool:
    """Make the best swap of two groups between their parts, if any helps."""
    if len(part) > _MOST_SWAPPED:
        return False
    off = held - target
    more = sizes[None, :] - sizes[:, None]  # what the row's part gains
    before = np.abs(off[part])[:, None] + np.abs(off[part])[None, :]
    after = np.abs(off[part][:, None] + more) + np.abs(off[part][None, :] - more)
    gain = np.where(part[:, None] == part[None, :], 0, before - after)
    one, two = np.unravel_index(np.argmax(gain), gain.shape)
    if gain[one, two] <= 0.5:
        return False
    difference = sizes[two] - sizes[one]
    held[part[one]] += difference
    held[part[two]] -= difference
    part[one], part[two] = part[two], part[one]
    return True
