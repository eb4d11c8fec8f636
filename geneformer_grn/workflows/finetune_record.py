"""``run.json``: what the rows of a fine-tuning run rest on, so that a resumed run keeps what still holds.

Rows of simple baselines rest on cells, labels and splits. Those of the model rest on its weights, too, and a
checkpoint's name does not tell them: a model that was trained anew has the old name.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from geneformer_grn._runtime import library_versions, logger, write_json
from geneformer_grn.training.finetune_config import FinetuneConfig, resolved
from geneformer_grn.workflows.finetune_inputs import FinetuneInputs
from geneformer_grn.workflows.finetune_rows import FINETUNED

_RECORD = "run.json"
# What may differ on --resume: none of it changes a row that is done.
_HARMLESS = frozenset({
    "run.threads", "run.device", "split.why", "evaluation.baselines", "evaluation.bootstrap",
    "evaluation.few_shot", "evaluation.few_shot_draws", "evaluation.few_shot_modes",
    "evaluation.few_shot_baselines",
})  # fmt: skip
_HARMLESS_SECTIONS = ("evaluation.goals", "search")


def require_same_run(out: Path, config: FinetuneConfig, *, resume: bool) -> None:
    """Refuse a folder that holds another run, or one that would be overwritten.

    Raises
    ------
    FileExistsError
        There is a run, and it is not to be resumed.
    ValueError
        It is of another config; the message names what differs.
    """
    record = out / _RECORD
    if not record.is_file():
        return
    if not resume:
        raise FileExistsError(f"{out.name} holds a run; go on with it by --resume, or choose another --out")
    held = _flat(json.loads(record.read_text(encoding="utf-8"))["config"])
    asked = _flat(resolved(config))
    differing = [
        key for key in sorted(held.keys() | asked.keys())
        if held.get(key) != asked.get(key)
        and key not in _HARMLESS and not key.startswith(_HARMLESS_SECTIONS)
    ]  # fmt: skip
    if differing:
        first = differing[0]
        raise ValueError(
            f"{out.name} holds a run with another config: {first} is {held.get(first)!r} there, "
            f"{asked.get(first)!r} here{f', and {len(differing) - 1} more' * (len(differing) > 1)}; choose "
            "another --out"
        )


def record_run(
    out: Path, config: FinetuneConfig, inputs: FinetuneInputs, *, weights: str, of_model: Collection[str]
) -> None:
    """Write the record of the run; drop the rows of an earlier one that another model made.

    Parameters
    ----------
    out
        Folder of the run.
    config, inputs
        What is asked for, and on which cells, labels and splits.
    weights
        Fingerprint of the encoder.
    of_model
        Names of the baselines whose rows rest on it, as those of fine-tuned models do.

    Raises
    ------
    ValueError
        The folder's run is on other cells, labels or splits.
    """
    record = out / _RECORD
    rests_on = {"model": weights, "vocabulary": inputs.vocabulary.fingerprint, **_digests(inputs)}
    if record.is_file():
        held = json.loads(record.read_text(encoding="utf-8"))
        if held["data"]["files"] != inputs.facts["files"]:
            name = held["data"]["files"][0]["name"]
            raise ValueError(f"{out.name} holds a run on other cells: {name}; choose another --out")
        before = held.get("rests_on", {})
        if before.get("vocabulary") != rests_on["vocabulary"]:
            _drop(out, None)
        else:
            for what in ("cells", "labels", "splits"):
                if before[what] != rests_on[what]:
                    raise ValueError(f"{out.name} holds a run with other {what}; choose another --out")
            if before["model"] != weights:
                _drop(out, of_model)
    out.mkdir(parents=True, exist_ok=True)
    facts = {"config": resolved(config), "data": inputs.facts, "rests_on": rests_on}
    write_json(record, facts | {"versions": library_versions()})


def _drop(out: Path, of_model: Collection[str] | None) -> None:
    """Remove the rows of fine-tuned models and of some baselines (None: of all), and the model."""
    rows = []
    for path in sorted((out / "rows").glob("*.npz")):
        method = path.name.split(".")[1]
        if of_model is None or method in of_model or method.startswith(FINETUNED):
            rows.append(path)
    unfinished = list((out / "rows").glob("*.progress"))
    if rows or unfinished:
        logger.warning("%s holds rows of another model: %d are computed again", out.name, len(rows))
    for path in rows:
        path.unlink()
    for folder in (*unfinished, out / "model"):
        shutil.rmtree(folder, ignore_errors=True)


def _digests(inputs: FinetuneInputs) -> dict[str, str]:
    """Return digests of the cells (as counts), of the labels and of the splits."""
    matrix = inputs.counts.matrix
    labels: list[Any] = []
    for task in inputs.tasks:
        labels += [task.name, *task.classes, task.values]
        labels += [] if task.gene_tokens is None else [task.gene_tokens]
    splits = [units for split in inputs.splits for units in (split.train, split.validation, split.test)]
    return {
        "cells": _digest([matrix.data, matrix.indices, matrix.indptr]), "labels": _digest(labels),
        "splits": _digest(splits),
    }  # fmt: skip


def _digest(parts: Collection[np.ndarray | str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(part.encode() + b"\0")
        else:
            digest.update(f"{part.shape}{part.dtype}".encode() + np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:16]


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(content, dict):
        return {
            k: v
            for key, value in content.items()
            for k, v in _flat(value, f"{prefix}.{key}".strip(".")).items()
        }
    if isinstance(content, list) and content and isinstance(content[0], dict):
        return {
            k: v for number, one in enumerate(content) for k, v in _flat(one, f"{prefix}.{number}").items()
        }
    return {prefix: content}
