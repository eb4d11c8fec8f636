"""From rows to the table: folds scored together, baselines compared on the same units, goals judged.

The best baseline is the one with the best figure on the test units, chosen after the fact, which favours the
baselines: a model that is ahead of it is ahead of what anyone would have picked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from geneformer_grn.evaluation.label_measures import LOWER_IS_BETTER
from geneformer_grn.evaluation.labels import compare_predictions, score_labels
from geneformer_grn.training.finetune_config import FinetuneConfig, GoalSection
from geneformer_grn.training.supervision import MISSING, Prediction, Task
from geneformer_grn.workflows.finetune_inputs import FinetuneInputs
from geneformer_grn.workflows.finetune_rows import (
    FINETUNED,
    Row,
    few_shot_modes,
    few_shot_row,
    finetuned_modes,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scoring:
    """How rows are scored."""

    inputs: FinetuneInputs
    config: FinetuneConfig

    @property
    def how(self) -> dict[str, Any]:
        """Keyword arguments of the score cards."""
        groups = self.inputs.groups if self.config.level == "cell" else None
        return {
            "groups": groups,
            "n_bootstrap": self.config.evaluation.bootstrap,
            "seed": self.config.run.seed,
        }


def main_measure(task: Task) -> str:
    """Return the measure that methods are ranked by."""
    if task.kind == "regression":
        return "r2"
    if task.kind == "ordinal":
        return "quadratic_kappa"
    return "auroc" if len(task.classes) == 2 else "macro_f1"


def joined_predictions(
    rows: Sequence[Row], task: str, method: str
) -> dict[tuple[int | None, int], Prediction]:
    """Return a method's predictions by (labels a class, repeat), the folds of a repeat together."""
    found: dict[tuple[int | None, int], list[Prediction]] = {}
    for row in rows:
        if row.method == method:
            key = (row.condition.per_class, row.condition.repeat)
            found.setdefault(key, []).extend(one for one in row.predictions if one.task == task)
    return {
        key: Prediction(
            task,
            np.concatenate([one.units for one in parts]),
            np.concatenate([one.scores for one in parts]),
            {"parts": [one.details for one in parts]},
        )
        for key, parts in found.items()
        if parts
    }


def score_rows(rows: Sequence[Row], scoring: Scoring) -> dict[str, Any]:
    """Return the results of all tasks.

    Parameters
    ----------
    rows
        Of all methods and conditions.
    scoring
        Labels, groups, bootstrap.

    Returns
    -------
    dict
        ``tasks``: by task ``main_measure``, ``methods`` (name -> score card of the first repeat, with
        ``repeats`` figures, ``settings`` and ``seconds``), ``against`` (baseline -> paired difference),
        ``best_baseline``, ``few_shot`` (rows of ``method``, ``labels``, ``draw`` and measures) and ``goals``.
    """
    methods = list(dict.fromkeys(row.method for row in rows))
    tasks = {}
    for task in scoring.inputs.tasks:
        by_method = {method: joined_predictions(rows, task.name, method) for method in methods}
        by_method = {method: found for method, found in by_method.items() if found}
        tasks[task.name] = _task_results(task, by_method, scoring)
    return {"tasks": tasks}


def _task_results(
    task: Task, by_method: dict[str, dict[tuple[int | None, int], Prediction]], scoring: Scoring
) -> dict[str, Any]:
    measure = main_measure(task)
    cards: dict[str, Any] = {}
    for method, found in by_method.items():
        whole = {repeat: one for (labels, repeat), one in found.items() if labels is None}
        if not whole:  # of the learning curve alone
            continue
        card = score_labels(task, whole[0], **scoring.how)
        card |= _by_donor(task, whole[0], scoring)
        parts = cast("list[dict[str, Any]]", whole[0].details["parts"])
        if method == FINETUNED:
            kept = ("best_epoch", "n_train_units", "history")
            card["training"] = [{key: part[key] for key in kept} for part in parts]
        else:
            card["settings"] = [part.get("settings") for part in parts]
        card["seconds"] = float(sum(part.get("seconds", 0.0) for part in parts))
        if len(whole) > 1:
            again = [
                score_labels(task, one, **(scoring.how | {"n_bootstrap": 0}))[measure]
                for one in whole.values()
            ]
            card["repeats"] = {measure: again}
        cards[method] = card
    against = {
        method: compare_predictions(
            task, by_method[FINETUNED][None, 0], by_method[method][None, 0], **scoring.how
        )
        for method in cards
        if method != FINETUNED
    }
    result: dict[str, Any] = {
        "level": task.level, "kind": task.kind, "classes": list(task.classes), "main_measure": measure,
        "methods": cards, "against": against, "best_baseline": best_baseline(cards, measure),
        "few_shot": _few_shot(task, by_method, scoring),
    }  # fmt: skip
    first = task.name == scoring.inputs.tasks[0].name
    goals = scoring.config.evaluation.goals if first else ()
    result["goals"] = [_judged(goal, result, scoring.config) for goal in goals]
    return result


def best_baseline(cards: dict[str, Any], measure: str) -> str | None:
    """Return the baseline with the best figure; None without baselines."""
    sign = -1.0 if measure in LOWER_IS_BETTER else 1.0
    figures = {
        name: sign * card[measure]
        for name, card in cards.items()
        if name != FINETUNED and np.isfinite(card[measure])
    }
    return max(figures, key=lambda name: figures[name], default=None)


def _few_shot(
    task: Task, by_method: dict[str, dict[tuple[int | None, int], Prediction]], scoring: Scoring
) -> list[dict[str, Any]]:
    """Return a row for each method, number of labels and draw."""
    rows = []
    for method, found in by_method.items():
        for (labels, draw), prediction in found.items():
            if labels is None:
                continue
            card = score_labels(task, prediction, n_bootstrap=0, seed=scoring.config.run.seed)
            measures = {name: value for name, value in card.items() if isinstance(value, float)}
            rows.append({"method": method, "labels": labels, "draw": draw + 1} | measures)
    return rows


def few_shot_means(rows: Sequence[dict[str, Any]], measure: str) -> dict[int, dict[str, float]]:
    """Return labels a class -> method -> mean of a measure over the draws."""
    found: dict[int, dict[str, list[float]]] = {}
    for row in rows:
        found.setdefault(row["labels"], {}).setdefault(row["method"], []).append(row[measure])
    return {
        labels: {method: float(np.mean(values)) for method, values in by_method.items()}
        for labels, by_method in sorted(found.items())
    }


def _by_donor(task: Task, prediction: Prediction, scoring: Scoring) -> dict[str, Any]:
    """Return the score card of donors, where the label is theirs: a donor's call is its cells' mean."""
    groups = scoring.inputs.groups
    if task.level != "cell" or task.kind == "regression" or groups is None:
        return {}
    known = task.labelled[prediction.units] & ~np.isnan(prediction.scores).any(axis=1)
    labels, names = task.values[prediction.units[known]], groups[prediction.units[known]]
    donors = sorted(set(names.tolist()))
    if len(donors) < 2 or any(len(set(labels[names == donor].tolist())) > 1 for donor in donors):
        return {}
    truth = np.array([labels[names == donor][0] for donor in donors], dtype=np.int64)
    scores = np.stack([prediction.scores[known][names == donor].mean(axis=0) for donor in donors])
    of_donors = Task(task.name, "cell", task.kind, truth, task.classes)
    card = score_labels(of_donors, Prediction(task.name, np.arange(len(donors)), scores), n_bootstrap=0)
    calls = [task.classes[label] for label in scores.argmax(axis=1)]
    rows = [
        {"group": donor, "truth": task.classes[label], "call": call}
        for donor, label, call in zip(donors, truth.tolist(), calls, strict=True)
        if label != MISSING
    ]
    return {"donors": {"n": len(donors), "accuracy": card["accuracy"], "auroc": card["auroc"], "calls": rows}}


def _judged(goal: GoalSection, result: dict[str, Any], config: FinetuneConfig) -> dict[str, Any]:
    """Return the goal with what was found and whether it is met."""
    modes = finetuned_modes(config)
    name = FINETUNED if goal.labels is None else few_shot_row(config, few_shot_modes(config)[0])
    where = "all labels" if goal.labels is None else f"{goal.labels} labels a class (mode {modes[name]})"
    found: dict[str, Any] = {"measure": goal.measure, "labels": goal.labels}
    if goal.labels is None:
        figures = {name: card[goal.measure] for name, card in result["methods"].items()}
    else:
        figures = few_shot_means(result["few_shot"], goal.measure)[goal.labels]
    ours = figures[name]
    figures = {rival: value for rival, value in figures.items() if rival not in modes}
    if goal.at_least is not None:
        met = ours >= goal.at_least
        text = f"{goal.measure} {ours:.3f} with {where}; goal at least {goal.at_least:g}"
    elif not figures:
        met, text = None, "no baseline to compare with"
    else:
        rival = max(figures, key=lambda name: figures[name])
        gain = ours - figures[rival]
        text = f"{goal.measure} {ours:.3f} with {where}, {gain:+.3f} against {rival} ({figures[rival]:.3f})"
        if goal.labels is None:
            ends = result["against"][rival]["differences"][goal.measure]
            text += f" [{ends['low']:+.3f}, {ends['high']:+.3f}]"
        if goal.ahead_by == 0.0:
            met = bool(gain >= 0 or (goal.labels is None and ends["high"] >= 0))
            text += "; goal no worse than the best baseline, by the interval"
        else:
            met = gain >= goal.ahead_by
            text += f"; goal {goal.ahead_by:+g}"
        found |= {"baseline": rival, "difference": gain}
    return found | {"value": ours, "met": met, "text": text}
