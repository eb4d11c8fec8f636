"""Which cell of a corpus recipe goes where: trained on, held out, or left out, and why.

Copies are sought over all files together. Of several copies of a cell the one that is judged on stays, and
the training corpus loses it. Counting reads anew with another annotation changes a few counts in a hundred,
and half of such copies are missed; so a donor of whom one copy is found is left out whole.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from geneformer_grn.cells.counts import CellCounts
from geneformer_grn.cells.duplicates import find_duplicates
from geneformer_grn.cells.filters import COPY
from geneformer_grn.genes.table import load_gene_table
from geneformer_grn.workflows.corpus_look import Look
from geneformer_grn.workflows.corpus_recipe import CorpusRecipe, Role

FILTERED, EMPTY = "filtered by the file itself", "no known gene"
COPY_OF: dict[Role, str] = {
    "kept apart": "copy of a cell kept apart",
    "held out": "copy of a held-out cell",
    "train": "copy of another training cell",
}
SAME_DONOR = "donor of a cell kept apart or held out"
FAILS = {
    "min_genes": "few genes",
    "min_counts": "few counts",
    "max_mitochondrial": "mitochondrial counts",
    "max_one_gene": "one gene holds too much",
}
HELD_OUT_ROW = "held out"
REASONS = (FILTERED, EMPTY, *COPY_OF.values(), SAME_DONOR, *FAILS.values())
"""Why cells are left out, in the order in which it is asked: a cell is counted under the first."""

TABLE = ("file", "row", "cell", "why")


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """What becomes of all cells.

    Parameters
    ----------
    left_out
        Cells that are in no corpus, a row each: :data:`TABLE`. It names cells: for the work, not for a card.
    held_out
        Held-out cells of files that are trained on otherwise, as rows of the same kind.
    files
        A row a file: its role, what of it goes where, and how many cells are left out for which reason.
    pairs
        Copies found, a row a pair of files: ``file``, ``kept_file``, ``n_cells``.
    """

    left_out: pd.DataFrame
    held_out: pd.DataFrame
    files: list[dict[str, Any]]
    pairs: list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class _Group:
    """Cells of one file with one role: place of the file, and places in its counts."""

    look: int
    role: Role
    cells: np.ndarray
    counts: CellCounts


def choose_cells(looks: Sequence[Look], recipe: CorpusRecipe) -> Choice:
    """Decide for every cell.

    Parameters
    ----------
    looks
        All files of the recipe, read.
    recipe
        What is asked.

    Raises
    ------
    ValueError
        A held-out donor is in no file, a donor is on both sides, or no cell is left to train on or hold out.
    """
    groups = _groups(looks, recipe)
    copies = _copies(groups)
    why = [np.full(len(look.counts), "", dtype=object) for look in looks]
    _mark_copies(why, copies, groups)
    if recipe.keep_apart.whole_donors:
        _mark_donors(why, copies, groups, looks)
    for look, reasons in zip(looks, why, strict=True):
        failed = (reasons == "") & (look.failed != "")
        reasons[failed] = [FAILS[rule] for rule in look.failed[failed]]
    _require_cells(why, groups, looks, recipe)
    _require_donors_apart(why, groups, looks)
    return Choice(
        left_out=_left_out(looks, why), held_out=_held_out(looks, groups, why),
        files=_file_facts(looks, groups, why), pairs=_pairs(copies, groups, looks),
    )  # fmt: skip


def _groups(looks: Sequence[Look], recipe: CorpusRecipe) -> list[_Group]:
    """Divide files by what becomes of their cells; held-out donors go by their names, whatever the file."""
    asked = set(recipe.held_out.donors)
    groups, found = [], set()
    for number, look in enumerate(looks):
        held = np.isin(look.donors, sorted(asked)) if asked else np.zeros(len(look.donors), dtype=bool)
        if look.file.role == "kept apart":
            held[:] = False
        found |= set(look.donors[held])
        if look.file.role != "train":
            held = np.zeros(len(held), dtype=bool)
        for role, chosen in ((look.file.role, ~held), ("held out", held)):
            if chosen.any():
                cells = np.flatnonzero(chosen)
                groups.append(_Group(number, role, cells, _some(look.counts, cells, f"{number}{role}")))
    for donor in recipe.held_out.donors:
        if donor not in found:
            _refuse_donor(donor, looks, recipe.held_out.column)
    return groups


def _some(counts: CellCounts, cells: np.ndarray, name: str) -> CellCounts:
    """Return some of the cells, under a name that tells groups apart."""
    if len(cells) == len(counts):
        return replace(counts, name=name)
    return replace(
        counts, matrix=counts.matrix[cells], n_counts=counts.n_counts[cells], obs=counts.obs.iloc[cells],
        kept=counts.kept[cells], name=name,
    )  # fmt: skip


def _refuse_donor(donor: str, looks: Sequence[Look], column: str) -> None:
    there = sorted(
        {name for look in looks if look.file.role != "kept apart" for name in set(look.donors)} - {""}
    )
    if not there:
        raise ValueError(
            f"[held_out] donors: no file has a donor in obs[{column!r}]; name another column in [held_out]"
        )
    near = difflib.get_close_matches(donor, there, n=1) or there[:5]
    raise ValueError(
        f"[held_out] donors: {donor!r} is in no file's obs[{column!r}], which names {len(there):,} donors, "
        f"such as {', '.join(near)}"
    )


def _copies(groups: Sequence[_Group]) -> list[list[int]]:
    """Return pairs of cells as (group, cell, group of the one that stays, its cell): places, not rows."""
    stay = [group.counts.name for group in groups if group.role != "train"]
    found = find_duplicates([group.counts for group in groups], len(load_gene_table()), stay=stay)
    number = {group.counts.name: place for place, group in enumerate(groups)}
    columns: list[np.ndarray] = []
    for prefix in ("", "kept_"):
        places = found[f"{prefix}file"].map(number).to_numpy(dtype=np.int64)
        cells = np.zeros(len(found), dtype=np.int64)
        rows = found[f"{prefix}row"].to_numpy(dtype=np.int64)
        for place in np.unique(places):
            mine, group = places == place, groups[place]
            cells[mine] = group.cells[np.searchsorted(group.counts.kept, rows[mine])]
        columns += [places, cells]
    pairs: list[list[int]] = np.column_stack(columns).tolist()
    return pairs


def _mark_copies(why: list[np.ndarray], copies: list[list[int]], groups: Sequence[_Group]) -> None:
    for number, cell, kept, _ in copies:
        if groups[number].role != "kept apart":
            why[groups[number].look][cell] = COPY_OF[groups[kept].role]


def _mark_donors(
    why: list[np.ndarray], copies: list[list[int]], groups: Sequence[_Group], looks: Sequence[Look]
) -> None:
    """Leave out all cells of donors of whom a copy is kept apart or held out, and the copies of these."""
    reached: dict[str, set[str | None]] = {}
    links: list[list[tuple[int, int]]] = []
    for number, cell, other, kept_cell in copies:
        group, kept = groups[number], groups[other]
        if (group.role, kept.role) == ("train", "train"):
            links.append([(group.look, cell), (kept.look, kept_cell)])
        elif group.role == "train":
            _add_person(reached, looks[group.look], cell)
    cells: set[tuple[int, int]] = set()
    before = -1
    while before != len(cells):  # a copy of a copy is the same person, too
        before = len(cells)
        for pair in links:
            if cells.intersection(pair) or any(_is_person(reached, looks[n], cell) for n, cell in pair):
                cells.update(pair)
                for number, cell in pair:
                    _add_person(reached, looks[number], cell)
    for group in groups:
        if group.role == "train":
            look = looks[group.look]
            mine = [cell for cell in group.cells.tolist() if _is_person(reached, look, cell)]
            cells.update((group.look, cell) for cell in mine)
    for number, cell in cells:
        if why[number][cell] in {"", COPY_OF["train"]}:
            why[number][cell] = SAME_DONOR


def _add_person(persons: dict[str, set[str | None]], look: Look, cell: int) -> None:
    if name := look.donors[cell]:
        persons.setdefault(name, set()).add(look.file.about.study)


def _is_person(persons: dict[str, set[str | None]], look: Look, cell: int) -> bool:
    return _meet(look.file.about.study, persons.get(look.donors[cell], set()))


def _meet(study: str | None, studies: set[str | None]) -> bool:
    """Return whether a donor of one name in a study may be that of others: unless all say other studies."""
    return any(study is None or other is None or study == other for other in studies)


def _require_cells(
    why: list[np.ndarray], groups: Sequence[_Group], looks: Sequence[Look], recipe: CorpusRecipe
) -> None:
    asked: list[Role] = ["train"]
    if recipe.held_out.files or recipe.held_out.donors:
        asked.append("held out")
    for role in asked:
        mine = [why[group.look][group.cells] for group in groups if group.role == role]
        reasons = Counter(reason for some in mine for reason in some)
        if reasons[""] == 0:
            shown = "; ".join(f"{n:,} {reason}" for reason, n in reasons.most_common(3)) or "there was none"
            what = "train on" if role == "train" else "hold out"
            raise ValueError(f"no cell is left to {what} ({shown}); loosen [quality], or name other files")


def _require_donors_apart(why: list[np.ndarray], groups: Sequence[_Group], looks: Sequence[Look]) -> None:
    trained: dict[str, dict[str | None, str]] = {}
    held_out: list[tuple[str, Look]] = []
    for group in groups:
        look = looks[group.look]
        kept = group.cells[why[group.look][group.cells] == ""]
        for name in sorted(set(look.donors[kept]) - {""}):
            if group.role == "train":
                trained.setdefault(name, {}).setdefault(look.file.about.study, look.file.name)
            elif group.role == "held out":
                held_out.append((name, look))
    for name, look in held_out:
        there = trained.get(name, {})
        if _meet(look.file.about.study, set(there)):
            raise ValueError(
                f"donor {name!r} is held out in {look.file.name} and trained on in "
                f"{next(iter(there.values()))}; add it to [held_out] donors, or give the two files different "
                "study names in [[files.about]] if these are two people"
            )


def _rows(looks: Sequence[Look], number: int, cells: np.ndarray, whys: Sequence[str]) -> pd.DataFrame:
    look = looks[number]
    rows = look.counts.kept[cells]
    values = (look.file.name, rows, look.obs_names[rows], list(whys))
    return pd.DataFrame(dict(zip(TABLE, values, strict=True)), columns=list(TABLE))


def _left_out(looks: Sequence[Look], why: list[np.ndarray]) -> pd.DataFrame:
    copies = set(COPY_OF.values())
    tables = []
    for number, look in enumerate(looks):
        if look.file.role != "kept apart":
            cells = np.flatnonzero(why[number] != "")
            whys = [COPY if reason in copies else reason for reason in why[number][cells]]
            tables.append(_rows(looks, number, cells, whys))
    return pd.concat(tables, ignore_index=True)


def _held_out(looks: Sequence[Look], groups: Sequence[_Group], why: list[np.ndarray]) -> pd.DataFrame:
    tables = [pd.DataFrame(columns=list(TABLE))]
    for group in groups:
        if group.role == "held out" and looks[group.look].file.role == "train":
            cells = group.cells[why[group.look][group.cells] == ""]
            tables.append(_rows(looks, group.look, cells, [HELD_OUT_ROW] * len(cells)))
    return pd.concat([table for table in tables if len(table)] or tables, ignore_index=True)


def _file_facts(
    looks: Sequence[Look], groups: Sequence[_Group], why: list[np.ndarray]
) -> list[dict[str, Any]]:
    facts = []
    for number, look in enumerate(looks):
        file = look.file
        reasons = Counter(why[number])
        kept = {
            role: sum(
                int((why[number][group.cells] == "").sum())
                for group in groups
                if group.look == number and group.role == role
            )
            for role in ("train", "held out")
        }
        counted = {FILTERED: look.n_filtered, EMPTY: look.n_empty, **reasons}
        facts.append({
            "name": file.name, "role": file.role, "study": file.about.study or file.path.stem,
            "source": file.source(look.stated), "licence": file.licence(look.stated),
            "may_be_shipped": file.may_be_shipped(look.stated), "reads": file.about.reads,
            "n_cells_file": look.n_file, "n_train": kept["train"], "n_held_out": kept["held out"],
            "left_out": {reason: int(counted[reason]) for reason in REASONS if counted.get(reason)}
            if file.role != "kept apart" else {},
            "untested": list(look.untested),
        })  # fmt: skip
    return facts


def _pairs(copies: list[list[int]], groups: Sequence[_Group], looks: Sequence[Look]) -> list[dict[str, Any]]:
    names = [looks[group.look].file.name for group in groups]
    found = Counter((names[a], names[b]) for a, _, b, _ in copies)
    return [{"file": a, "kept_file": b, "n_cells": n} for (a, b), n in sorted(found.items())]
