"""``gg.pl.confusion``, ``roc``, ``precision_recall``, ``calibration``, ``few_shot`` and ``driver_genes``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

    from geneformer_grn.training.supervision import Prediction, Task


def confusion(
    truth: Sequence[str] | np.ndarray | pd.Series, predicted: Sequence[str] | np.ndarray | pd.Series
) -> Figure:
    """Draw what cells of each true label were predicted to be, in percent.

    Parameters
    ----------
    truth, predicted
        ``(n,)`` labels, such as two columns of obs. Pairs with a missing one are left out.

    Returns
    -------
    matplotlib.figure.Figure
        Not held by pyplot.

    Raises
    ------
    ValueError
        The two differ in length, or no pair is complete.

    Examples
    --------
    >>> import geneformer_grn as gg
    >>> gg.pl.confusion(["T", "T", "B"], ["T", "B", "B"]).savefig("confusion.svg")  # doctest: +SKIP
    """
    import numpy as np
    import pandas as pd

    from geneformer_grn.report.label_figures import confusion_figure

    if len(truth) != len(predicted):
        raise ValueError(f"{len(truth):,} true labels were given for {len(predicted):,} predicted ones")
    pairs = (
        pd.DataFrame({"truth": np.asarray(truth), "predicted": np.asarray(predicted)}).dropna().astype(str)
    )
    names = sorted(set(pairs["truth"]) | set(pairs["predicted"]))
    table = pd.crosstab(pairs["truth"], pairs["predicted"]).reindex(index=names, columns=names, fill_value=0)
    return confusion_figure(table.to_numpy(), names)


def roc(truth: Sequence[str] | np.ndarray | pd.Series, probabilities: pd.DataFrame) -> Figure:
    """Draw a receiver operating characteristic per label, one against the rest.

    Parameters
    ----------
    truth
        ``(n,)`` labels; missing ones are left out.
    probabilities
        ``n`` rows, a column per label.

    Returns
    -------
    matplotlib.figure.Figure
        Not held by pyplot.

    Raises
    ------
    ValueError
        A label has no column, or lengths differ.

    Examples
    --------
    >>> gg.pl.roc(adata.obs["cell_type"], probabilities).savefig("roc.svg")  # doctest: +SKIP
    """
    from geneformer_grn.evaluation.label_curves import ranking_curves
    from geneformer_grn.report.label_figures import ranking_figure

    return ranking_figure(ranking_curves(*_scored(truth, probabilities)), "roc")


def precision_recall(truth: Sequence[str] | np.ndarray | pd.Series, probabilities: pd.DataFrame) -> Figure:
    """Draw precision against recall per label, one against the rest; arguments and errors as in `roc`.

    Examples
    --------
    >>> gg.pl.precision_recall(adata.obs["cell_type"], probabilities).savefig("pr.svg")  # doctest: +SKIP
    """
    from geneformer_grn.evaluation.label_curves import ranking_curves
    from geneformer_grn.report.label_figures import ranking_figure

    return ranking_figure(ranking_curves(*_scored(truth, probabilities)), "precision_recall")


def calibration(
    truth: Sequence[str] | np.ndarray | pd.Series, probabilities: pd.DataFrame | Mapping[str, pd.DataFrame]
) -> Figure:
    """Draw how often the predicted label is right against its probability.

    Parameters
    ----------
    truth
        ``(n,)`` labels; missing ones are left out.
    probabilities
        As in `roc`, or several by the name of their method.

    Returns
    -------
    matplotlib.figure.Figure
        Not held by pyplot.

    Raises
    ------
    ValueError
        As in `roc`.

    Examples
    --------
    >>> gg.pl.calibration(labels, {"model": a, "baseline": b}).savefig("calibration.svg")  # doctest: +SKIP
    """
    import pandas as pd

    from geneformer_grn.evaluation.labels import score_labels
    from geneformer_grn.report.label_figures import calibration_figure

    several = {"model": probabilities} if isinstance(probabilities, pd.DataFrame) else probabilities
    cards = {
        name: score_labels(*_scored(truth, table), n_bootstrap=0)["reliability"]
        for name, table in several.items()
    }
    return calibration_figure({name: pd.DataFrame(rows) for name, rows in cards.items()})


def few_shot(scores: pd.DataFrame, *, measure: str = "macro-F1") -> Figure:
    """Draw how a score grows with the labels per class, a line per method.

    Parameters
    ----------
    scores
        Rows: ``method``, ``per_class``, ``value``; optional ``low``, ``high``.
    measure
        What ``value`` is.

    Returns
    -------
    matplotlib.figure.Figure
        Not held by pyplot.

    Raises
    ------
    ValueError
        A required column is missing.

    Examples
    --------
    >>> gg.pl.few_shot(scores).savefig("few_shot.svg")  # doctest: +SKIP
    """
    from geneformer_grn.report.label_figures import few_shot_figure

    return few_shot_figure(scores, measure=measure)


def driver_genes(drivers: pd.DataFrame, *, method: str | None = None, n_genes: int = 10) -> Figure:
    """Draw the genes that speak most for each class, with their intervals.

    Parameters
    ----------
    drivers
        Table of driver genes: ``class``, ``gene``, ``score``; optional ``gene_symbol``, ``method``,
        ``ci_low``, ``ci_high``, ``stability`` (pale bars: few resamples name the gene).
    method
        Which rows to draw; may be left out where the table holds one.
    n_genes
        At most so many genes a class.

    Returns
    -------
    matplotlib.figure.Figure
        Not held by pyplot.

    Raises
    ------
    ValueError
        A required column is missing, or no row has the method asked for.

    Examples
    --------
    >>> gg.pl.driver_genes(drivers).savefig("drivers.svg")  # doctest: +SKIP
    """
    from geneformer_grn.pl._choose import choose_rows
    from geneformer_grn.report.explanation_figures import driver_genes_figure

    return driver_genes_figure(choose_rows(drivers, method=method), n_genes=n_genes)


def _scored(
    truth: Sequence[str] | np.ndarray | pd.Series, probabilities: pd.DataFrame
) -> tuple[Task, Prediction]:
    """Return labels and probabilities as what the score card takes."""
    import numpy as np
    import pandas as pd

    from geneformer_grn.training.supervision import MISSING, Prediction, Task

    if len(truth) != len(probabilities):
        raise ValueError(f"{len(truth):,} labels were given for {len(probabilities):,} rows of probabilities")
    names = [str(name) for name in probabilities.columns]
    labels = pd.Series(np.asarray(truth, dtype=object))
    codes = pd.Index(names).get_indexer(pd.Index(labels.astype(str)))
    unknown = sorted(set(labels[(codes < 0) & labels.notna().to_numpy()].astype(str)))
    if unknown:
        raise ValueError(
            f"label {unknown[0]!r} has no column of probabilities; there are: {', '.join(names)}"
        )
    values = np.where(labels.notna(), codes, MISSING).astype(np.int64)
    task = Task("labels", "cell", "classification", values, tuple(names))
    scores = probabilities.to_numpy(dtype=np.float64)
    return task, Prediction("labels", np.arange(len(values)), scores)
