"""Whether labels say something that the data can tell apart from where the cells come from.

A disease state is a property of a donor: with one donor a class, or one study a class, a model that
recognises the donor or the study has learnt nothing of the disease, and no split of cells shows it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from geneformer_grn._runtime import logger
from geneformer_grn.training.supervision import Task

_FEWEST = 3  # train, validation and test each take one


def require_unconfounded(task: Task, columns: Mapping[str, np.ndarray]) -> list[str]:
    """Refuse labels that coincide with where the cells come from.

    Parameters
    ----------
    task
        Labels of cells.
    columns
        Name -> ``(n,)`` str level of each cell, empty where unknown, of what must not coincide with the
        labels, such as donor and study.

    Returns
    -------
    list of str
        The columns that decide the label: it never varies within a level (a donor is ill or not). A split
        must keep their levels whole.

    Raises
    ------
    ValueError
        Within no level of a column the label varies, and some class has fewer than three levels: a disease
        seen in one donor, a study a class.
    """
    deciding: list[str] = []
    if task.kind == "regression":
        return deciding
    for name, levels in columns.items():
        known = task.labelled & (levels != "")
        if not known.any():
            raise ValueError(
                f"no labelled cell has a {name}, so it cannot be told whether {task.name!r} only mirrors it; "
                "take it out of split.confounders if you know"
            )
        table = pd.crosstab(levels[known], task.values[known])
        held = table.to_numpy() > 0
        varied = float((held.sum(axis=1) > 1).mean())
        if varied > 0:
            if varied < 0.2:
                logger.warning(
                    "%s varies within only %.0f %% of the levels of %s", task.name, 100 * varied, name
                )
            continue
        labels = table.columns.to_numpy(dtype=np.int64).tolist()
        per_class = zip(labels, held.sum(axis=0).tolist(), strict=True)
        few = {task.classes[label]: n for label, n in per_class if n < _FEWEST}
        if few:
            found = ", ".join(f"{label} ({n})" for label, n in few.items())
            raise ValueError(
                f"{task.name!r} is confounded with {name!r}: no {name} has more than one of the labels, and "
                f"with fewer than {_FEWEST} of them ({found}) recognising the {name} would look like an "
                f"answer; add more, or take {name!r} out of split.confounders knowingly"
            )
        deciding.append(name)
    return deciding
