"""What must hold of tasks, splits and cells before an encoder is taught, with a message where it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.training.finetune_settings import FinetuneModel
from geneformer_grn.training.supervision import Level, Split, Task


def check_tasks(ranked: RankedCells, tasks: Sequence[Task], splits: Mapping[Level, Split]) -> None:
    """Raise `ValueError` where tasks and cells do not fit, parts overlap, or nothing can be learnt."""
    names = [task.name for task in tasks]
    if not tasks or len(set(names)) < len(names):
        raise ValueError(f"fine-tuning needs one or more tasks of different names, found {names}")
    for level, split in splits.items():
        for part, units in (("validation", split.validation), ("test", split.test)):
            if len(both := np.intersect1d(split.train, units)):
                raise ValueError(
                    f"{len(both)} {level}s are in the training and in the {part} part: that is a leak"
                )
    for task in tasks:
        if task.level not in splits:
            raise ValueError(
                f"task {task.name!r} is about {task.level}s, but there is no split of {task.level}s"
            )
        if task.level == "cell" and len(task.values) != len(ranked):
            raise ValueError(
                f"task {task.name!r} labels {len(task.values):,} cells, there are {len(ranked):,}"
            )
        if task.level == "gene" and task.gene_tokens is None:
            raise ValueError(f"task {task.name!r} is about genes, but does not say which (gene_tokens)")
        train = splits[task.level].train
        found = np.unique(task.values[train][task.labelled[train]])
        if len(found) == 0:
            raise ValueError(f"no {task.level} of the training part has a label of task {task.name!r}")
        if len(found) == 1:
            what = task.classes[int(found[0])] if task.classes else found[0]
            raise ValueError(
                f"all labelled training {task.level}s of task {task.name!r} are {what!r}: there is "
                "nothing to tell apart; choose another split or another label"
            )


def check_vocabulary(tasks: Sequence[Task], vocabulary: GeneVocabulary, settings: FinetuneModel) -> None:
    """Raise `ValueError` where the vocabulary lacks what is asked: ``<cls>``, or a labelled gene."""
    if settings.pooling == "cls" and vocabulary.special("<cls>") is None:
        raise ValueError(
            f"pooling 'cls' needs a <cls> token, which a vocabulary of setting {vocabulary.setting!r} does "
            "not have; use pooling mean or attention"
        )
    for task in tasks:
        if task.gene_tokens is None:
            continue
        outside = (task.gene_tokens < vocabulary.n_special) | (task.gene_tokens >= len(vocabulary))
        n_twice = len(task.gene_tokens) - len(np.unique(task.gene_tokens))
        if outside.any() or n_twice:
            raise ValueError(
                f"task {task.name!r} labels {int(outside.sum())} tokens that are no gene of the vocabulary, "
                f"and {n_twice} genes twice"
            )
