"""The figures of a fine-tuning run, as SVG files beside its table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geneformer_grn._runtime import atomic_path
from geneformer_grn.workflows.finetune_inputs import FinetuneInputs
from geneformer_grn.workflows.finetune_rows import FINETUNED, Row
from geneformer_grn.workflows.finetune_scores import joined_predictions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from geneformer_grn.training.supervision import Prediction, Task


def write_figures(
    out: Path, results: dict[str, Any], *, rows: Sequence[Row], inputs: FinetuneInputs
) -> list[str]:
    """Write the figures that the results allow, and return their file names.

    Parameters
    ----------
    out
        Folder of the run; figures go to ``figures/``.
    results
        What ``results.json`` holds.
    rows, inputs
        Predictions and truth.
    """
    from geneformer_grn.report.drawing import to_svg

    names = []
    for task in inputs.tasks:
        prediction = joined_predictions(rows, task.name, FINETUNED)[None, 0]
        for kind, figure in _figures(task, prediction, results).items():
            name = f"{kind}_{task.name}.svg".replace("/", "-")
            with atomic_path(out / "figures" / name) as temporary:
                temporary.write_text(to_svg(figure), encoding="utf-8")
            names.append(name)
    return names


def _figures(task: Task, prediction: Prediction, results: dict[str, Any]) -> dict[str, Figure]:
    from geneformer_grn.evaluation.label_curves import ranking_curves
    from geneformer_grn.report.label_figures import (
        calibration_figure,
        confusion_figure,
        few_shot_figure,
        ranking_figure,
    )

    if task.kind == "regression":
        return {}
    found, titles = results["tasks"][task.name], results["titles"]
    card = found["methods"][FINETUNED]
    curves = ranking_curves(task, prediction)
    shown = [FINETUNED, found["best_baseline"]] if found["best_baseline"] else [FINETUNED]
    bins = {titles[name]: pd.DataFrame(found["methods"][name]["reliability"]) for name in shown}
    figures = {
        "confusion": confusion_figure(np.array(card["confusion"]), task.classes),
        "roc": ranking_figure(curves, "roc"),
        "precision_recall": ranking_figure(curves, "precision_recall"),
        "calibration": calibration_figure(bins),
    }
    if found["few_shot"]:
        draws = pd.DataFrame(found["few_shot"])
        measure = found["main_measure"]
        draws = draws.assign(
            method=draws["method"].map(titles), per_class=draws["labels"], value=draws[measure]
        )
        figures["learning_curve"] = few_shot_figure(draws, measure=measure.replace("_", " "))
    return figures
