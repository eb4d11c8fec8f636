"""The figures of a fine-tuning run, as SVG files beside its table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from geneformer_grn._runtime import atomic_path
from geneformer_grn.workflows.finetune_inputs import FinetuneInputs
from geneformer_grn.workflows.finetune_rows import FINETUNED, Row


def write_figures(
    out: Path, results: dict[str, Any], *, rows: Sequence[Row], inputs: FinetuneInputs
) -> list[str]:
    """Write the figures that the results allow, and return their names.

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
    from geneformer_grn.report.learning_curve import learning_curve_figure

    figures = {}
    for name, task in results["tasks"].items():
        if task["few_shot"]:
            figures[f"learning_curve_{name}"] = learning_curve_figure(
                pd.DataFrame(task["few_shot"]), measure=task["main_measure"], titles=results["titles"],
                first=FINETUNED,
            )  # fmt: skip
    for name, figure in figures.items():
        with atomic_path(out / "figures" / f"{name.replace('/', '-')}.svg") as temporary:
            temporary.write_text(to_svg(figure), encoding="utf-8")
    return list(figures)
