"""The fine-tuning table: a labelled data set in; a model, and what it is worth beside simple baselines, out.

Reads from top to bottom in `run_finetuning`. The model's figure never stands alone: every baseline learns
from the same units, chooses by the same and is scored on the same, and the split's rule is printed with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from geneformer_grn._runtime import library_versions, logger
from geneformer_grn.training.finetune_config import FinetuneConfig, resolved
from geneformer_grn.workflows.finetune_inputs import FinetuneInputs, open_inputs
from geneformer_grn.workflows.finetune_outputs import write_outputs
from geneformer_grn.workflows.finetune_record import record_run, require_same_run
from geneformer_grn.workflows.finetune_rows import (
    Work,
    all_baselines,
    choose_baselines,
    compute_rows,
    finetuned_modes,
    label_data,
    make_conditions,
)
from geneformer_grn.workflows.finetune_scores import Scoring, score_rows


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
    from geneformer_grn.model.fingerprint import encoder_fingerprint
    from geneformer_grn.training.finetune_network import encoder_to_train

    out = Path(out)
    require_same_run(out, config, resume=resume)
    encoder = load_encoder(
        config.model.checkpoint, device=config.run.device, precision=config.optim.precision
    )
    n_parameters = encoder_to_train(encoder, config.model).n_parameters  # refused before cells are read
    inputs = open_inputs(config, files)
    baselines = choose_baselines(config, inputs.tasks)
    conditions = make_conditions(inputs, config)
    known = all_baselines(config.level)
    of_model = {name for name, one in known.items() if one.needs_model}
    record_run(out, config, inputs, weights=encoder_fingerprint(encoder.model), of_model=of_model)
    work = Work(
        inputs=inputs, config=config, encoder=encoder, data=label_data(inputs, encoder, config),
        baselines=baselines, out=out,
    )  # fmt: skip
    rows = list(compute_rows(work, conditions))
    titles = {name: f"Fine-tuned {encoder.name} ({mode})" for name, mode in finetuned_modes(config).items()}
    trained = rows[0].predictions[0].details
    results: dict[str, Any] = {
        "kind": "finetune",
        "name": config.name,
        "date": datetime.now(tz=UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "model": {
            "name": encoder.name, "mode": config.model.mode,
            "parameters": n_parameters,
            "vocabulary_fingerprint": encoder.vocabulary.fingerprint,
            "encoder_before": trained["encoder_before"], "encoder_after": trained["encoder_after"],
        },
        "data": inputs.facts,
        "titles": titles | {name: one.title for name, one in known.items()},
        **score_rows(rows, Scoring(inputs=inputs, config=config)),
        "config": resolved(config),
        "versions": library_versions(),
    }  # fmt: skip
    write_outputs(out, results, rows=rows, inputs=inputs)
    logger.info("wrote %s", out)
    return FinetuneTable(results=results, inputs=inputs)
