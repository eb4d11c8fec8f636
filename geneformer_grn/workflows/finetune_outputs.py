"""What a fine-tuning run leaves: the table, predictions as a tidy table and in AnnData, figures, a card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geneformer_grn._runtime import atomic_path, write_json
from geneformer_grn.network.edges import write_table
from geneformer_grn.training.supervision import Prediction, Task
from geneformer_grn.workflows.finetune_inputs import FinetuneInputs
from geneformer_grn.workflows.finetune_rows import FINETUNED, Row
from geneformer_grn.workflows.finetune_scores import few_shot_means, joined_predictions

_SHOWN = {
    "classification": ("macro_f1", "balanced_accuracy", "accuracy", "auroc", "auprc", "ece"),
    "ordinal": ("quadratic_kappa", "macro_f1", "accuracy", "mae", "ece"),
    "regression": ("r2", "spearman", "mae"),
}
_WORDS = {"macro_f1": "macro F1", "auroc": "AUROC", "auprc": "AUPRC", "ece": "ECE", "r2": "R²", "mae": "MAE"}


def write_outputs(out: Path, results: dict[str, Any], *, rows: Sequence[Row], inputs: FinetuneInputs) -> None:
    """Write everything; each file is complete or absent."""
    write_json(out / "results.json", results)
    with atomic_path(out / "table.tsv") as temporary:
        write_table(results_table(results), temporary)
    with atomic_path(out / "predictions.parquet") as temporary:
        predictions_table(rows, inputs).to_parquet(temporary, index=False)
    if inputs.tasks[0].level == "cell":
        _write_cells(out / "predictions.h5ad", rows, inputs, results)
    with atomic_path(out / "card.md") as temporary:
        from geneformer_grn.workflows.finetune_card import render_finetuned_card

        temporary.write_text(render_finetuned_card(results), encoding="utf-8")
    from geneformer_grn.workflows.finetune_figures import write_figures

    write_figures(out, results, rows=rows, inputs=inputs)


def results_table(results: dict[str, Any]) -> pd.DataFrame:
    """Return the table: a row for each task, number of labels and method, the main measure's best first.

    Parameters
    ----------
    results
        What ``results.json`` holds.

    Returns
    -------
    pandas.DataFrame
        ``task``, ``labels`` (``all``, or labels a class), ``method``, ``title``, ``n_units``, every measure,
        ``low`` and ``high`` of the main measure, ``behind`` (the fine-tuned model less this one) with
        ``behind_low`` and ``behind_high``, ``seconds``.
    """
    rows: list[dict[str, Any]] = []
    for name, task in results["tasks"].items():
        main = task["main_measure"]
        for method, card in task["methods"].items():
            row = {"task": name, "labels": "all", "method": method, "title": results["titles"][method]}
            row |= {"n_units": card["n_units"]} | {
                key: value for key, value in card.items() if isinstance(value, float)
            }
            low, high = card["intervals"].get(main, [np.nan, np.nan])
            row |= {"low": low, "high": high} | dict.fromkeys(("behind", "behind_low", "behind_high"), np.nan)
            if method in task["against"]:
                ends = task["against"][method]["differences"][main]
                row |= {"behind": ends["difference"], "behind_low": ends["low"], "behind_high": ends["high"]}
            rows.append(row)
        measures = _SHOWN[task["kind"]]
        means = {measure: few_shot_means(task["few_shot"], measure) for measure in measures}
        for labels, by_method in means[measures[0]].items():
            for method in by_method:
                row = {
                    "task": name,
                    "labels": str(labels),
                    "method": method,
                    "title": results["titles"][method],
                }
                rows.append(row | {measure: means[measure][labels][method] for measure in measures})
    table = pd.DataFrame(rows)
    main = table["task"].map({name: task["main_measure"] for name, task in results["tasks"].items()})
    best = [-row[measure] for measure, (_, row) in zip(main, table.iterrows(), strict=True)]
    blocks = table.groupby(["task", "labels"], sort=False).ngroup()
    order = np.lexsort((np.arange(len(table)), np.array(best), blocks.to_numpy()))
    return table.iloc[order].reset_index(drop=True)


def terminal_tables(results: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return title, headings and rows of text of a table for each task and number of labels."""
    table = results_table(results)
    shown = []
    for (name, labels), part in table.groupby(["task", "labels"], sort=False):
        task = results["tasks"][name]
        main = task["main_measure"]
        measures = [main, *(one for one in _SHOWN[task["kind"]] if one != main)][:4]
        whole = labels == "all"
        draws = len({row["draw"] for row in task["few_shot"]})
        few = f"{labels} label{'s' * (labels != '1')} a class, mean of {draws} draw{'s' * (draws != 1)}"
        title = f"{name}, {'all labels' if whole else few}"
        heads = ["method", *(_WORDS.get(one, one.replace("_", " ")) for one in measures)]
        heads[2:2] = ["95 %", "fine-tuned less this"] if whole else []
        rows = []
        for _, row in part.iterrows():
            cells = [str(row["title"]), *(_figure(row[one]) for one in measures)]
            if whole:
                ends = f"{row['behind']:+.3f} [{row['behind_low']:+.3f}, {row['behind_high']:+.3f}]"
                cells[2:2] = [
                    f"{_figure(row['low'])} to {_figure(row['high'])}",
                    "" if np.isnan(row["behind"]) else ends,
                ]
            rows.append(cells)
        shown.append((title, heads, rows))
    return shown


def _figure(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3f}"


def predictions_table(rows: Sequence[Row], inputs: FinetuneInputs) -> pd.DataFrame:
    """Return every prediction in tidy form.

    Returns
    -------
    pandas.DataFrame
        ``task``, ``method``, ``labels`` (``all`` or a number), ``condition``, ``unit`` (cell name or Ensembl
        ID), ``truth``, ``predicted``, ``probability`` of the predicted class (a regression's is NaN).
    """
    tasks = {task.name: task for task in inputs.tasks}
    parts = []
    for row in rows:
        for prediction in row.predictions:
            task = tasks[prediction.task]
            predicted, probability = _called(task, prediction)
            truth = task.values[prediction.units]
            parts.append(pd.DataFrame({
                "task": task.name, "method": row.method, "labels": str(row.condition.per_class or "all"),
                "condition": row.condition.key, "unit": _unit_names(task, inputs)[prediction.units],
                "truth": _names(task, truth), "predicted": predicted, "probability": probability,
            }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def joined_rows(rows: Sequence[Row]) -> dict[str, Prediction]:
    """Return the model's predictions of the first repeat, the folds together, by task."""
    names = {one.task: None for row in rows for one in row.predictions}
    return {name: joined_predictions(rows, name, FINETUNED)[None, 0] for name in names}


def _called(task: Task, prediction: Prediction) -> tuple[np.ndarray, np.ndarray]:
    scores = prediction.scores
    if task.kind == "regression":
        return scores.astype(str).astype(object), np.full(len(scores), np.nan)
    known = ~np.isnan(scores).any(axis=1)
    calls = np.where(known, scores.argmax(axis=1), -1)
    return _names(task, calls), np.where(known, scores.max(axis=1), np.nan)


def _names(task: Task, values: np.ndarray) -> np.ndarray:
    if task.kind == "regression":
        return values.astype(str).astype(object)
    return np.array([*task.classes, ""], dtype=object)[values]  # -1, a missing label, is the last


def _unit_names(task: Task, inputs: FinetuneInputs) -> np.ndarray:
    if task.gene_tokens is not None:
        return inputs.vocabulary.ensembl_ids[task.gene_tokens]
    return inputs.counts.obs.index.to_numpy().astype(object)


def _write_cells(path: Path, rows: Sequence[Row], inputs: FinetuneInputs, results: dict[str, Any]) -> None:
    """Write the cells with the model's predictions, each by a model that had not seen the cell."""
    import anndata

    obs = inputs.counts.obs.copy()
    part = np.full(len(obs), "", dtype=object)
    for name in ("train", "validation", "test"):
        part[getattr(inputs.splits[0], name)] = name
    obs["geneformer_part"] = pd.Categorical(part)
    whole = joined_rows(rows)
    for task in inputs.tasks:
        one = whole[task.name]
        if task.kind == "regression":
            values = np.full(len(obs), np.nan)
            values[one.units] = one.scores
            obs[f"predicted_{task.name}"] = values
            continue
        predicted = np.full(len(obs), "", dtype=object)
        probability = np.full(len(obs), np.nan)
        predicted[one.units], probability[one.units] = _called(task, one)
        obs[f"predicted_{task.name}"] = pd.Categorical(predicted)
        obs[f"probability_{task.name}"] = probability
    counts = inputs.counts
    var = pd.DataFrame(index=pd.Index(inputs.vocabulary.ensembl_ids[counts.column_tokens].astype(str)))
    var["gene_symbol"] = inputs.vocabulary.symbols[counts.column_tokens].astype(str)
    adata = anndata.AnnData(X=counts.matrix, obs=obs, var=var)
    adata.uns["geneformer_grn"] = {"finetune": {
        "name": results["name"], "model": results["model"]["name"], "split": results["data"]["split"],
        "vocabulary_fingerprint": inputs.vocabulary.fingerprint,
        "package_version": results["versions"]["geneformer-grn"],
    }}  # fmt: skip
    with atomic_path(path) as temporary:
        adata.write_h5ad(temporary, compression="gzip")
