"""Figures of predicted labels show what the tables say, with few and with many long-named classes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import geneformer_grn as gg
from geneformer_grn.report.drawing import to_png
from geneformer_grn.report.explanation_figures import driver_genes_figure
from geneformer_grn.report.label_figures import (
    calibration_figure,
    confusion_figure,
    few_shot_figure,
    ranking_figure,
)

LONG = [f"CD8-positive, alpha-beta memory T cell of kind {i}" for i in range(20)]


def inside(figure) -> bool:
    """Whether all that is drawn lies on the paper."""
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    return box.x0 >= -0.02 and box.y0 >= -0.02 and box.x1 <= width + 0.02 and box.y1 <= height + 0.02


def labels(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_the_confusion_matrix_is_in_percent_of_the_true_class() -> None:
    counts = np.array([[3, 1, 0, 0], [0, 500, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    axes = confusion_figure(counts, ["A", "B", "C", "D"]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["75", "25", "100", "<1"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["A (4)", "B (501)"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["A", "B", "C"]
    with pytest.raises(ValueError, match="no unit was scored"):
        confusion_figure(np.zeros((2, 2)), ["A", "B"])
    with pytest.raises(ValueError, match="of 3 classes was given the shape"):
        confusion_figure(counts, ["A", "B", "C"])


def test_twenty_long_names_stay_apart_and_on_the_paper() -> None:
    figure = confusion_figure(np.eye(20) * 7 + 1, LONG)
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert len(set(names)) == 20
    assert inside(figure)
    rates = {"false_positive_rate": [0, 1] * 20, "recall": [0, 1] * 20, "precision": [1, 0.2] * 20}
    points = pd.DataFrame({"class": np.repeat(LONG, 2), "auroc": 0.5, "auprc": 0.25} | rates)
    for figure in (ranking_figure(points, "roc"), ranking_figure(points, "precision_recall")):
        assert len(set(labels(figure.axes[0]))) == 20
        assert inside(figure)
        lines = figure.axes[0].get_lines()[:20]
        assert (
            len({(line.get_color(), line.get_linestyle(), str(line._dash_pattern)) for line in lines}) == 20
        )


def test_truth_and_probabilities_are_drawn_as_they_are() -> None:
    truth = ["T", "T", "B", "B", None]
    probabilities = pd.DataFrame({"B": [0.1, 0.6, 0.8, 0.7, 0.5], "T": [0.9, 0.4, 0.2, 0.3, 0.5]})
    axes = gg.pl.roc(truth, probabilities).axes[0]
    assert labels(axes) == ["B  1.000", "T  1.000"]
    np.testing.assert_allclose(axes.get_lines()[0].get_xydata()[[0, 2, -1]], [[0, 0], [0, 1], [1, 1]])
    assert labels(gg.pl.precision_recall(truth, probabilities).axes[0]) == ["B  1.000", "T  1.000"]
    lines = gg.pl.calibration(truth, probabilities).axes[0].get_lines()
    np.testing.assert_allclose(lines[1].get_xydata(), [[0.6, 0], [0.7, 1], [0.8, 1], [0.9, 1]])
    both = gg.pl.calibration(truth, {"ours": probabilities, "other": probabilities}).axes[0]
    assert labels(both) == ["ours", "other"]
    axes = gg.pl.confusion(truth, ["T", "B", "B", "B", "B"]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["100", "50", "50"]
    with pytest.raises(ValueError, match="label 'NK' has no column of probabilities; there are: B, T"):
        gg.pl.roc(["NK", "T", "B", "B", "B"], probabilities)
    with pytest.raises(ValueError, match="2 labels were given for 5 rows"):
        gg.pl.roc(["T", "B"], probabilities)


def test_few_labels_a_line_a_method() -> None:
    rows = [(method, k, 0.1 * k + 0.01 * draw) for method in LONG[:3] for k in (1, 5) for draw in (0, 2)]
    table = pd.DataFrame(rows, columns=["method", "per_class", "value"])
    figure = gg.pl.few_shot(table)
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.get_lines()[1].get_ydata(), [0.11, 0.51])
    assert len(set(labels(axes))) == 3
    assert inside(figure)
    single = table.drop_duplicates(["method", "per_class"]).assign(low=0.0, high=1.0)
    assert len(few_shot_figure(single).axes[0].collections) == 3
    with pytest.raises(ValueError, match="needs the columns per_class"):
        few_shot_figure(table.drop(columns="per_class"))


def test_driver_genes_the_strongest_first() -> None:
    rows = [
        (name, f"ENSG{i}", f"GENE{i}", float(i), i - 0.5, i + 0.5, i / 12)
        for name in LONG[:5]
        for i in range(12)
    ]
    table = pd.DataFrame(
        rows, columns=["class", "gene", "gene_symbol", "score", "ci_low", "ci_high", "stability"]
    )
    figure = gg.pl.driver_genes(table.assign(method="occlusion"), n_genes=4)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [
        "GENE11",
        "GENE10",
        "GENE9",
        "GENE8",
    ]
    assert len(figure.axes) == 5
    assert len({axes.get_title(loc="left") for axes in figure.axes}) == 5
    assert inside(figure)
    assert len(to_png(driver_genes_figure(table[["class", "gene", "score"]]))) > 5000
    with pytest.raises(ValueError, match="no row with a score"):
        driver_genes_figure(table.head(0))


def test_calibration_needs_bins() -> None:
    with pytest.raises(ValueError, match="at least one method"):
        calibration_figure({})
