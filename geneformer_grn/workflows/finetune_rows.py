"""The rows of the fine-tuning table: every method on every condition, each kept as soon as it is done.

A row is one method's prediction of the test units of one condition (a fold, or a draw of few labels). The
fine-tuned model and its baselines get the same split object, and a row is a file of its own, so that a killed
run loses one row at most.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geneformer_grn._runtime import atomic_path, logger, plain_json
from geneformer_grn.training.finetune_config import FinetuneConfig
from geneformer_grn.training.finetune_settings import Mode
from geneformer_grn.training.splits import few_shot
from geneformer_grn.training.supervision import Prediction, Split, Task
from geneformer_grn.workflows.finetune_inputs import FinetuneInputs

if TYPE_CHECKING:
    from geneformer_grn.evaluation.label_data import Baseline, LabelData
    from geneformer_grn.model.encoder import Encoder
    from geneformer_grn.model.heads import Finetuned

FINETUNED = "finetuned"
"""Name of the row of the model that the run is about."""


def finetuned_modes(config: FinetuneConfig) -> dict[str, Mode]:
    """Return the rows of fine-tuned models and the mode of each: the run's own, then the curve's others."""
    return {FINETUNED: config.model.mode} | {
        few_shot_row(config, mode): mode for mode in few_shot_modes(config)
    }


def few_shot_modes(config: FinetuneConfig) -> tuple[Mode, ...]:
    """Return the modes of the learning curve, that of its goals first."""
    return config.evaluation.few_shot_modes or (config.model.mode,)


def few_shot_row(config: FinetuneConfig, mode: Mode) -> str:
    """Return the name of a mode's row in the learning curve."""
    return FINETUNED if mode == config.model.mode else f"{FINETUNED}_{mode}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Condition:
    """What all methods are given once.

    Parameters
    ----------
    key
        A name for files, such as ``fold1`` or ``shot5-draw0``.
    split
        Who teaches, chooses and is scored.
    repeat
        Conditions of one repeat score every unit at most once, and are scored together.
    per_class
        Labels a class of a few-shot condition; None: all.
    unlabelled
        Training units whose labels are withheld: they may be looked at.
    """

    key: str
    split: Split
    repeat: int = 0
    per_class: int | None = None
    unlabelled: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """A method's predictions of one condition, one for each task it serves."""

    method: str
    condition: Condition
    predictions: tuple[Prediction, ...]


def make_conditions(inputs: FinetuneInputs, config: FinetuneConfig) -> list[Condition]:
    """Return the folds of the split, then the draws of the learning curve, spread over the folds."""
    none = np.empty(0, dtype=np.int64)
    per_repeat = max(1, len(inputs.splits) // config.split.repeats)
    found = [
        Condition(key=f"fold{number + 1}", split=split, repeat=number // per_repeat, unlabelled=none)
        for number, split in enumerate(inputs.splits)
    ]
    section = config.evaluation
    for per_class in section.few_shot:
        for draw in range(section.few_shot_draws):
            whole = inputs.splits[draw % len(inputs.splits)]
            split = few_shot(whole, inputs.tasks[0].values, per_class=per_class, seed=config.run.seed + draw)
            if section.few_shot_test is not None and section.few_shot_test < len(whole.test):
                generator = np.random.default_rng([config.run.seed, draw, 104_729])
                tested = np.sort(generator.choice(whole.test, section.few_shot_test, replace=False))
                split = replace(split, test=tested)
            found.append(Condition(
                key=f"shot{per_class}-draw{draw + 1}", split=split, repeat=draw, per_class=per_class,
                unlabelled=np.setdiff1d(whole.train, split.train),
            ))  # fmt: skip
    return found


def choose_baselines(config: FinetuneConfig, tasks: Sequence[Task]) -> dict[str, Baseline]:
    """Return the baselines that the config names, in the order of the table; unnamed: all that apply.

    Raises
    ------
    ValueError
        A name is no baseline of such tasks.
    """
    known = all_baselines(config.level)
    kinds = {task.kind for task in tasks}
    fitting = {name: one for name, one in known.items() if one.kinds & kinds}
    section = config.evaluation
    for name in (*(section.baselines or ()), *(section.few_shot_baselines or ())):
        if name not in fitting:
            raise ValueError(
                f"there is no baseline {name!r} for these tasks; there are: {', '.join(fitting)}"
            )
    if section.baselines is not None:
        return {name: one for name, one in fitting.items() if name in section.baselines}
    return {name: one for name, one in fitting.items() if not one.extra}


def methods_of(condition: Condition, work: Work) -> dict[str, Mode | Baseline]:
    """Return what runs on a condition by name of the row: fine-tuned models by their mode, then baselines."""
    config = work.config
    few = config.evaluation.few_shot_baselines
    if condition.per_class is None:
        return {FINETUNED: config.model.mode, **work.baselines}
    known = all_baselines(config.level)
    chosen = work.baselines if few is None else {name: known[name] for name in known if name in few}
    return {few_shot_row(config, mode): mode for mode in few_shot_modes(config)} | chosen


def all_baselines(level: str) -> dict[str, Baseline]:
    """Return every baseline of cells or of genes by name."""
    from geneformer_grn.evaluation import gene_baselines, label_baselines

    return gene_baselines.GENE_BASELINES if level == "gene" else label_baselines.CELL_BASELINES


def label_data(inputs: FinetuneInputs, encoder: Encoder, config: FinetuneConfig) -> LabelData:
    """Return the cells as baselines see them."""
    from geneformer_grn.evaluation.label_data import LabelData

    return LabelData(
        counts=inputs.counts, ranked=inputs.ranked, vocabulary=inputs.vocabulary, encoder=encoder,
        settings=config.settings(), random_settings=config.random_settings(),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """What rows are computed from, and where they are kept."""

    inputs: FinetuneInputs
    config: FinetuneConfig
    encoder: Encoder
    data: LabelData
    baselines: dict[str, Baseline]
    out: Path


def compute_rows(work: Work, conditions: Sequence[Condition]) -> Iterator[Row]:
    """Yield every row, reading those that an earlier run finished."""
    for condition in conditions:
        data = replace(work.data, unlabelled=condition.unlabelled) if len(condition.unlabelled) else work.data
        for name, method in methods_of(condition, work).items():
            path = work.out / "rows" / f"{condition.key}.{name}.npz"
            predictions = _read_row(path)
            if predictions is None:
                logger.info("%s: %s", condition.split.name or "the split", name)
                predictions = (
                    _finetuned(work, condition, name, method)
                    if isinstance(method, str)
                    else _baseline(method, data, work, condition)
                )
                _write_row(path, predictions)
            yield Row(method=name, condition=condition, predictions=tuple(predictions))


def _finetuned(work: Work, condition: Condition, name: str, mode: Mode) -> list[Prediction]:
    """Return a fine-tuned model's predictions of all tasks; the first fold's model is kept."""
    from geneformer_grn.model.head_files import save_finetuned
    from geneformer_grn.training.finetune import finetune

    inputs, config = work.inputs, work.config
    progress = work.out / "rows" / f"{condition.key}.{name}.progress"
    weights = {section.name: section.weight for section in config.tasks}
    result = finetune(
        work.encoder, inputs.ranked, inputs.tasks, {config.level: condition.split},
        config.settings(mode), out=progress, seed=config.run.seed, resume=True, weights=weights,
    )  # fmt: skip
    units = condition.split.test
    cells = units if config.level == "cell" else None
    tables = result.model.predict(inputs.ranked, cells=cells)
    details = {
        "seconds": result.seconds, "best_epoch": result.best_epoch, "history": result.history,
        "n_train_units": result.n_train_units, "encoder_before": result.fingerprint_before,
        "encoder_after": result.fingerprint_after,
    }  # fmt: skip
    if condition.key == "fold1":
        record = {
            "run": config.name, "split": condition.split.rule, "fold": condition.split.name, **details,
            "calibration": _calibration(result.model, inputs, condition.split),
        }  # fmt: skip
        save_finetuned(result.model, work.out / "model", record=record)
    shutil.rmtree(progress, ignore_errors=True)
    return [_prediction(task, tables[task.name], condition.split, details) for task in inputs.tasks]


def _prediction(task: Task, table: np.ndarray, split: Split, details: dict[str, Any]) -> Prediction:
    """Return the prediction of every test unit: one that the model says nothing of is scored, too."""
    from geneformer_grn.evaluation.label_data import without_gaps

    scores = table if task.gene_tokens is None else table[task.gene_tokens[split.test]]
    return without_gaps(Prediction(task.name, split.test, scores, details), task, split)


def _calibration(model: Finetuned, inputs: FinetuneInputs, split: Split) -> dict[str, dict[str, float]]:
    """Return for each task of classes the temperature that fits the validation units, and how many they are.

    Scores of the table are the model's own: calls do not change, and rivals are not calibrated either.
    """
    from geneformer_grn.evaluation.calibration import fit_temperature

    units = split.validation
    found = {}
    for task in inputs.tasks:
        if task.kind == "regression":
            continue
        if task.gene_tokens is None:
            scores = model.predict(inputs.ranked, cells=units, tasks=[task.name])[task.name]
        else:
            scores = model.predict(inputs.ranked, tasks=[task.name])[task.name][task.gene_tokens[units]]
        known = task.labelled[units] & ~np.isnan(scores).any(axis=1)
        temperature = fit_temperature(scores[known], task.values[units[known]])
        found[task.name] = {"temperature": temperature, "n_units": int(known.sum())}
    return found


def _baseline(baseline: Baseline, data: LabelData, work: Work, condition: Condition) -> list[Prediction]:
    return [
        baseline(data, task, condition.split, seed=work.config.run.seed)
        for task in work.inputs.tasks
        if task.kind in baseline.kinds
    ]


def _write_row(path: Path, predictions: Sequence[Prediction]) -> None:
    arrays: dict[str, np.ndarray] = {}
    for number, one in enumerate(predictions):
        arrays |= {f"units{number}": one.units, f"scores{number}": one.scores}
    details = [{"task": one.task, "details": plain_json(one.details)} for one in predictions]
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(handle, predictions=np.array(json.dumps(details)), **arrays)  # type: ignore[arg-type]


def _read_row(path: Path) -> list[Prediction] | None:
    """Return the predictions that a file holds; None where there is none."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as held:
        return [
            Prediction(one["task"], held[f"units{number}"], held[f"scores{number}"], one["details"])
            for number, one in enumerate(json.loads(str(held["predictions"])))
        ]
