"""The fine-tuning table: a labelled data set in; a model, and what it is worth beside simple baselines, out.

Reads from top to bottom in `run_finetuning`. The model's figure never stands alone: every baseline learns
from the same units, chooses by the same and is scored on the same, and the split's rule is printed with them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from geneformer_grn._runtime import library_versions, logger, write_json
from geneformer_grn.training.finetune_config import FinetuneConfig, resolved
from geneformer_grn.workflows.finetune_inputs import FinetuneInputs, open_inputs
from geneformer_grn.workflows.finetune_outputs import write_outputs
from geneformer_grn.workflows.finetune_rows import (
    FINETUNED,
    Work,
    choose_baselines,
    compute_rows,
    label_data,
    make_conditions,
)
from geneformer_grn.workflows.finetune_scores import Scoring, score_rows

# What may differ on --resume: none of it changes a row that is done.
_HARMLESS = (
    "run.threads", "run.device", "split.why", "evaluation.baselines", "evaluation.few_shot_baselines",
    "evaluation.bootstrap", "evaluation.goals", "search",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class FinetuneTable:
    """What a run found.

    Parameters
    ----------
    results
        What ``results.json`` holds, in plain values.
    inputs
        The cells, labels and splits it was found on.
    """

    results: dict[str, Any]
    inputs: FinetuneInputs


def run_finetuning(
    config: FinetuneConfig, out: Path, *, files: Sequence[Path] = (), resume: bool = False
) -> FinetuneTable:
    """Fine-tune as a config says, run the baselines on the same splits, and write the table.

    Parameters
    ----------
    config
        What to learn from what.
    out
        Folder: ``table.tsv``, ``results.json``, ``predictions.parquet``, ``predictions.h5ad``, figures,
        ``card.md``, ``model/`` (the first fold's), ``rows/`` (what `resume` goes on from), ``run.json``.
    files
        Where files that the config names lie.
    resume
        Go on with the rows that `out` lacks; begin where it holds nothing.

    Returns
    -------
    FinetuneTable
        What was written.

    Raises
    ------
    FileNotFoundError, ValueError
        The input or the config is not fit for use.
    FileExistsError
        `out` holds a run and `resume` is False.

    Examples
    --------
    >>> config = read_finetune_config("finetune/configs/sanity.toml")  # doctest: +SKIP
    >>> run_finetuning(config, Path("out")).results["tasks"]["disease"]["best_baseline"]  # doctest: +SKIP
    'l1_logistic'
    """
    from geneformer_grn.model.encoder import load_encoder

    out = Path(out)
    _require_same_run(out, config, resume=resume)
    inputs = open_inputs(config, files)
    baselines = choose_baselines(config, inputs.tasks)
    conditions = make_conditions(inputs, config)
    _start(out, config, inputs)
    encoder = load_encoder(
        config.model.checkpoint, device=config.run.device, precision=config.optim.precision
    )
    work = Work(
        inputs=inputs, config=config, encoder=encoder, data=label_data(inputs, encoder, config),
        baselines=baselines, out=out,
    )  # fmt: skip
    rows = list(compute_rows(work, conditions))
    trained = rows[0].predictions[0].details
    results: dict[str, Any] = {
        "kind": "finetune",
        "name": config.name,
        "date": datetime.now(tz=UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "model": {
            "name": encoder.name, "parameters": encoder.n_parameters, "mode": config.model.mode,
            "vocabulary_fingerprint": encoder.vocabulary.fingerprint,
            "encoder_before": trained["encoder_before"], "encoder_after": trained["encoder_after"],
        },
        "data": inputs.facts,
        "titles": {FINETUNED: f"Fine-tuned {encoder.name} ({config.model.mode})"}
        | {name: one.title for name, one in baselines.items()},
        **score_rows(rows, Scoring(inputs=inputs, config=config)),
        "config": resolved(config),
        "versions": library_versions(),
    }  # fmt: skip
    write_outputs(out, results, rows=rows, inputs=inputs)
    logger.info("wrote %s", out)
    return FinetuneTable(results=results, inputs=inputs)


def _require_same_run(out: Path, config: FinetuneConfig, *, resume: bool) -> None:
    """Refuse a folder that holds another run, or one that would be overwritten.

    Raises
    ------
    FileExistsError
        There is a run, and it is not to be resumed.
    ValueError
        It is of another config; the message names what differs.
    """
    record = out / "run.json"
    if not record.is_file():
        return
    if not resume:
        raise FileExistsError(f"{out.name} holds a run; go on with it by --resume, or choose another --out")
    held = _flat(json.loads(record.read_text(encoding="utf-8"))["config"])
    asked = _flat(resolved(config))
    differing = [
        key for key in sorted(held.keys() | asked.keys())
        if held.get(key) != asked.get(key) and not key.startswith(_HARMLESS)
    ]  # fmt: skip
    if differing:
        first = differing[0]
        raise ValueError(
            f"{out.name} holds a run with another config: {first} is {held.get(first)!r} there, "
            f"{asked.get(first)!r} here{f', and {len(differing) - 1} more' * (len(differing) > 1)}; choose "
            "another --out"
        )


def _start(out: Path, config: FinetuneConfig, inputs: FinetuneInputs) -> None:
    """Write the record of the run, or refuse to go on with other cells."""
    record = out / "run.json"
    facts = {"config": resolved(config), "data": inputs.facts}
    if record.is_file():
        held = json.loads(record.read_text(encoding="utf-8"))["data"]["files"]
        if held != inputs.facts["files"]:
            raise ValueError(
                f"{out.name} holds a run on other cells: {held[0]['name']}; choose another --out"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    write_json(record, facts | {"versions": library_versions()})


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
