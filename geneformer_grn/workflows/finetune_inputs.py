"""What a fine-tuning run starts from: cells, their labels and their splits, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from geneformer_grn._runtime import logger
from geneformer_grn.cells.counts import CellCounts
from geneformer_grn.cells.ranking import RankedCells, rank_cells
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.training.finetune_config import FinetuneConfig
from geneformer_grn.training.splits import given_split, make_splits, require_learnt, require_no_leak
from geneformer_grn.training.supervision import MISSING, Split, Task
from geneformer_grn.workflows.confounding import require_unconfounded
from geneformer_grn.workflows.finetune_cells import chosen_rows, copies_of, find_file, read_cells
from geneformer_grn.workflows.labels import cell_task, column_groups, gene_task
from geneformer_grn.workflows.regulator_labels import gene_families, regulator_task


@dataclass(frozen=True, kw_only=True, eq=False)
class FinetuneInputs:
    """Cells, labels and splits.

    Parameters
    ----------
    counts, ranked
        The cells, in one order.
    vocabulary
        The checkpoint's.
    tasks
        What to predict, all at one level.
    splits
        One per fold and repeat.
    groups
        ``(n_units,)`` str of what the split keeps whole, or of donors where cells have them; None: neither.
    groups_are
        What they are called; empty without.
    facts
        Plain values for the record: files with hashes, sizes, what was left out.
    """

    counts: CellCounts
    ranked: RankedCells
    vocabulary: GeneVocabulary
    tasks: tuple[Task, ...]
    splits: tuple[Split, ...]
    groups: np.ndarray | None
    groups_are: str
    facts: dict[str, Any]


def open_inputs(config: FinetuneConfig, places: Sequence[Path] = ()) -> FinetuneInputs:
    """Read the cells, take their labels, and divide them.

    Parameters
    ----------
    config
        What is asked for.
    places
        Where files that the config names lie, where that is not the working directory.

    Raises
    ------
    FileNotFoundError
        A file is not there.
    ValueError
        Cells, labels or splits are not fit for use; the message says which and the way out.
    """
    from geneformer_grn.model.folder import read_vocabulary, resolve_checkpoint

    vocabulary = read_vocabulary(resolve_checkpoint(config.model.checkpoint))
    counts, facts = read_cells(config, places, vocabulary)
    if config.level == "cell":
        counts = _labelled_only(counts, config)
    tasks: tuple[Task, ...]
    groups: np.ndarray | None
    if config.regulators:
        task, groups = regulator_task(
            config.tasks[0].name, counts, vocabulary, whole_families=config.split.by == "family",
            seed=config.run.seed,
        )  # fmt: skip
        tasks, groups_are = (task,), config.split_rule().groups_are
    else:
        tasks = tuple(_task(section, counts, vocabulary, places) for section in config.tasks)
        groups, groups_are = _groups(config, tasks[0], counts, vocabulary)
    splits = _splits(config, tasks, counts, groups)
    if groups_are == "donor" and config.split.by != "donor":
        splits = tuple(_saying_of_donors(split, tasks, groups) for split in splits)
    for task in tasks:
        logger.info("task %s: %s", task.name, _described(task))
    logger.info("split: %s.%s", splits[0].rule, f" {config.split.why}" * bool(config.split.why))
    facts |= {"n_cells": len(counts), "split": splits[0].rule, "split_why": config.split.why}
    return FinetuneInputs(
        counts=counts, ranked=rank_cells(counts, vocabulary), vocabulary=vocabulary, tasks=tasks,
        splits=splits, groups=groups, groups_are=groups_are, facts=facts,
    )  # fmt: skip


def _labelled_only(counts: CellCounts, config: FinetuneConfig) -> CellCounts:
    """Return the cells that have a label of some task."""
    labelled = np.zeros(len(counts), dtype=bool)
    for section in config.tasks:
        labelled |= cell_task(counts.obs, section).labelled
    if not labelled.all():
        logger.info(
            "%s of %s cells have no label and are left out", f"{(~labelled).sum():,}", f"{len(counts):,}"
        )
    return chosen_rows(counts, np.flatnonzero(labelled))


def _task(section: Any, counts: CellCounts, vocabulary: GeneVocabulary, places: Sequence[Path]) -> Task:
    if section.level == "cell":
        return cell_task(counts.obs, section)
    return gene_task(find_file(Path(section.table), places), section, vocabulary)


def _groups(
    config: FinetuneConfig, task: Task, counts: CellCounts, vocabulary: GeneVocabulary
) -> tuple[np.ndarray | None, str]:
    """Return what the split keeps whole; without such a thing, the donors of cells that all have one."""
    by = config.split.by
    missing = config.tasks[0].missing
    if task.gene_tokens is not None:
        return (gene_families(task.gene_tokens, vocabulary), "gene family") if by == "family" else (None, "")
    if by == "family":
        raise ValueError("split.by = 'family' is for genes; split cells at random or by an obs column")
    if by != "random" and not by.startswith("given:"):
        return column_groups(counts.obs, by, missing), by
    if "donor" in counts.obs:
        donors = column_groups(counts.obs, "donor", missing)
        if (donors != "").all() and len(set(donors.tolist())) > 1:
            return donors, "donor"
    return None, ""


def _splits(
    config: FinetuneConfig, tasks: Sequence[Task], counts: CellCounts, groups: np.ndarray | None
) -> tuple[Split, ...]:
    section, missing = config.split, config.tasks[0].missing
    units_are = f"{tasks[0].level}s"
    given = section.by.partition("given:")[2]
    if given:
        column = column_groups(counts.obs, given, ())
        splits = [given_split(column.tolist(), name=f"the obs column {given!r}")]
    else:
        whole = None if section.by == "random" and not config.regulators else groups
        values, kind = _stratify_by(tasks)
        splits = make_splits(
            values, config.split_rule(), kind=kind, groups=whole, units_are=units_are, seed=config.run.seed
        )
    columns = {name: column_groups(counts.obs, name, missing) for name in section.confounders}
    copies = copies_of(counts) if tasks[0].level == "cell" else None
    for task in tasks:
        deciding = require_unconfounded(task, columns) if task.level == "cell" else []
        for split in splits:
            require_no_leak(split, copies=copies)
            require_learnt(split, task, groups_are=config.split_rule().groups_are)
            for name in deciding:  # a donor is ill or not: its cells in two parts would give the answer
                require_no_leak(split, groups=columns[name], groups_are=name)
    if section.only_folds:
        splits = [splits[fold - 1] for fold in section.only_folds if 0 < fold <= len(splits)]
        if not splits:
            raise ValueError(f"split.only_folds names none of the folds: {section.only_folds}")
    return tuple(splits)


def _saying_of_donors(split: Split, tasks: Sequence[Task], donors: Any) -> Split:
    """Return a split that was asked for with what it does to donors in its rule.

    Cells of one donor resemble each other, and where a donor decides the label they give the answer away. It
    is not refused: the column may say no more than the label does, as of cell lines.
    """
    held = [set(donors[units].tolist()) for units in (split.train, split.validation, split.test)]
    if not (held[0] & held[2] or held[0] & held[1] or held[1] & held[2]):
        return split
    rule = f"{split.rule}; cells of one donor are in several parts"
    for task in tasks:
        if task.kind == "regression":
            continue
        pairs = set(zip(donors[task.labelled].tolist(), task.values[task.labelled].tolist(), strict=True))
        if len(pairs) == len(set(donors[task.labelled].tolist())):
            rule += f", and {task.name} never varies within a donor: who knows the donor knows the answer"
            logger.warning(
                "task %r never varies within a donor, and donors are in several parts, so the scores say how "
                "well donors are recognised; use split.by = 'donor'", task.name,
            )  # fmt: skip
    return replace(split, rule=rule)


def _stratify_by(tasks: Sequence[Task]) -> tuple[np.ndarray, Any]:
    """Return one label a unit: the first task's, and where that lacks one, the next one's."""
    if len(tasks) == 1:
        return tasks[0].values, tasks[0].kind
    values = np.full(len(tasks[0].values), MISSING, dtype=np.int64)
    offset = 0
    for task in tasks:
        free = task.labelled & (values == MISSING)
        own = np.zeros(len(values), dtype=np.int64) if task.kind == "regression" else task.values
        values[free] = own[free] + offset
        offset += max(len(task.classes), 1)
    return values, "classification"


def _described(task: Task) -> str:
    """Return how many units have which label, in words."""
    if task.kind == "regression":
        low, high = np.nanmin(task.values), np.nanmax(task.values)
        return f"{int(task.labelled.sum()):,} {task.level}s from {low:.4g} to {high:.4g}"
    sizes = np.bincount(task.values[task.labelled], minlength=len(task.classes)).tolist()
    named = ", ".join(f"{name} {size:,}" for name, size in zip(task.classes, sizes, strict=True))
    return f"{sum(sizes):,} {task.level}s ({named})"
