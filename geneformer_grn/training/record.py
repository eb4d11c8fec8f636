"""What a checkpoint says of its own training: ``training.json`` beside the weights, for cards and readers."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geneformer_grn._runtime import library_versions
from geneformer_grn.model.folder import resolve_checkpoint
from geneformer_grn.training.config import PretrainConfig, flat_config

if TYPE_CHECKING:
    import torch

    from geneformer_grn.cells.corpora.corpus import Corpus

FILE = "training.json"
_POINTS = 40  # of the loss curve
_LEFT_OUT = {
    "n_dropped_copies": "copies", "n_elsewhere": "elsewhere", "n_dropped_where": "rules",
    "n_dropped_filter": "rules", "n_dropped_min_genes": "rules", "n_dropped_min_counts": "rules",
    "n_dropped_empty": "rules", "n_not_sampled": "not sampled",
}  # fmt: skip


def training_record(
    config: PretrainConfig,
    log: Sequence[dict[str, Any]],
    *,
    corpus: Corpus,
    held_out: Corpus | None,
    device: torch.device,
    started_from: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what a model was trained on and how, in plain values.

    Parameters
    ----------
    config
        Of the run.
    log
        Lines of its ``log.jsonl``.
    corpus, held_out
        Its cells; recorded are file names, numbers and hashes, and of how many cells in the file which were
        left out: ``copies`` of cells kept apart, those ``elsewhere`` (in another part of a split), by
        ``rules`` of quality or choice, ``not sampled``; and which part of which ``splits`` the rest is.
    device
        Where it ran.
    started_from
        Whose weights it began with, as `earlier_training` returns it.

    Returns
    -------
    dict
        ``config``, ``corpus``, ``held_out``, ``steps``, ``tokens``, ``hours`` (of training steps, from the
        logged speed), ``loss_curve`` (at most 40 spans of the run: last ``step``, mean ``loss`` in nats per
        masked gene), ``validation`` (as logged), ``device``, ``versions``, ``started_from`` (as given).
    """
    steps = [line for line in log if "loss" in line]
    return {
        "config": flat_config(config),
        "corpus": _contents(corpus),
        "held_out": None if held_out is None else _contents(held_out),
        "steps": len(steps),
        "tokens": sum(line["tokens"] for line in steps),
        "hours": round(sum(line["tokens"] / max(line["tokens_per_s"], 1) for line in steps) / 3600, 3),
        "loss_curve": _curve(steps),
        "validation": [line for line in log if "validation_loss" in line],
        "device": device_name(device),
        "versions": library_versions(),
        "started_from": started_from,
    }


def earlier_training(config: PretrainConfig) -> dict[str, Any] | None:
    """Return whose weights a run begins with: ``name``, and ``training``, its record (None without one).

    None for a run that begins at none. A model has seen what its start had seen: cards and the refusal of
    cells that are no test read both.

    Raises
    ------
    FileNotFoundError
        There is no such checkpoint.
    ValueError
        Its record cannot be read.
    """
    start = config.model.start_from
    if start is None:
        return None
    record = read_training_record(resolve_checkpoint(start))
    return {"name": flat_config(config)["model.start_from"], "training": record}


def read_training_record(folder: Path) -> dict[str, Any] | None:
    """Return the record of the training beside the weights, None where there is none.

    Raises
    ------
    ValueError
        It is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for stage in training_stages(record) or [record]:
            for entry in stage["corpus"]["files"]:
                if not isinstance(entry["sha256"], str):
                    raise TypeError(f"sha256 is {entry['sha256']!r}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read ({error!r}), so it is not known which cells the model has seen; copy it "
            "again from where the checkpoint came from"
        ) from error
    return record


def training_stages(record: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the records of all trainings that made a model, the last first; empty without a record."""
    stages = []
    while record is not None:
        stages.append(record)
        record = (record.get("started_from") or {}).get("training")
    return stages


def device_name(device: torch.device) -> str:
    """Return what hardware a device is: the GPU's name, or the CPU's architecture and threads."""
    import torch  # here, since cards read records without it

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def _contents(corpus: Corpus) -> dict[str, Any]:
    keys = ("name", "sha256", "n_cells", "n_tokens")
    return {
        "n_cells": len(corpus),
        "n_tokens": int(corpus.lengths.sum()),
        "files": [
            {key: entry[key] for key in keys}
            | {"left_out": _left_out(entry), "splits": entry.get("splits", [])}
            for entry in corpus.manifest["files"]
        ],
    }


def _left_out(entry: dict[str, Any]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for key, why in _LEFT_OUT.items():
        counts[why] = counts.get(why, 0) + entry.get(key, 0)
    return {why: n for why, n in counts.items() if n}


def _curve(steps: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    span = max(1, -(-len(steps) // _POINTS))
    curve = []
    for start in range(0, len(steps), span):
        part = steps[start : start + span]
        n_masked = sum(line["masked_tokens"] for line in part)
        mean = sum(line["loss"] * line["masked_tokens"] for line in part) / n_masked
        curve.append({"step": part[-1]["step"], "loss": round(mean, 4)})
    return curve
