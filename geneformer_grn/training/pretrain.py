"""Pretraining from a config to a checkpoint folder: opens the data, runs the loop, exports the model.

A run's folder holds ``run.json`` (resolved config, versions, plan), ``log.jsonl``, ``checkpoints/`` (to
resume), ``best/`` (lowest held-out loss) and, when it is complete, ``model/`` and ``result.json``. ``model/``
and ``best/`` are plain Hugging Face folders that any tool loads.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from transformers import BertForMaskedLM

from geneformer_grn._runtime import (
    atomic_path,
    choose_device,
    library_versions,
    logger,
    plain_json,
    write_json,
)
from geneformer_grn.cells.rank_position import RankPositionBaseline
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.model.encoder import save_checkpoint
from geneformer_grn.training import checkpoints
from geneformer_grn.training.config import PretrainConfig
from geneformer_grn.training.data import PretrainingData, open_data
from geneformer_grn.training.failing import failing_together
from geneformer_grn.training.loop import Run, train
from geneformer_grn.training.plan import plan_steps
from geneformer_grn.training.pretrain_start import require_usable, start_run
from geneformer_grn.training.record import FILE as RECORD_FILE
from geneformer_grn.training.record import training_record
from geneformer_grn.training.stream import Prefetched, Share, training_steps
from geneformer_grn.training.tracking import FILE, read_log, require_tracker
from geneformer_grn.training.validation import masked_cells, masked_gene_scores


def plan_run(config: PretrainConfig, *, world_size: int | None = None) -> dict[str, Any]:
    """Return the size, length and cost of a run without starting it, see `plan_steps`.

    Parameters
    ----------
    config
        What is asked.
    world_size
        Processes; default: those of the launcher that started this one, else 1.
    """
    data = open_data(config)
    world_size = world_size or int(os.environ.get("WORLD_SIZE", "1"))
    return plan_steps(config, data.corpus.lengths, data.vocabulary, data.batches, world_size=world_size)


def run_pretraining(
    config: PretrainConfig,
    out: Path | str,
    *,
    resume: bool = False,
    branch_from: tuple[Path, int] | None = None,
) -> dict[str, Any]:
    """Pretrain a model and export it; in each of several processes if a launcher started them.

    Parameters
    ----------
    config
        What is asked.
    out
        Folder of the run, made if needed.
    resume
        Go on from the newest readable checkpoint in `out`; begin where there is none.
    branch_from
        Begin at the checkpoint of this step of the run in this folder, which stays as it is; see
        `require_same_rates`. What that run did up to there counts as done in `out`.

    Returns
    -------
    ``out``, ``step``, ``total_steps``, ``tokens``, ``finished`` (False: stopped by a signal or the time
    limit, to be resumed), ``loss`` (of the last step) and, with a held-out corpus, its last figures.

    Raises
    ------
    FileExistsError
        `out` holds a run and `resume` is False.
    FileNotFoundError
        A corpus is not there, or the checkpoint to branch from.
    ValueError
        The config does not fit the checkpoint, the data do not fit the config, held-out cells are trained on,
        the loss is not finite, or the GPU's memory does not hold a batch.
    PermissionError
        `out` cannot be written.
    OSError
        The disk is full; the checkpoints written before are kept.
    """
    require_tracker(config.run.tracker)
    device = choose_device(config.run.device)
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    # Autocast is ours (see SummedLoss), so a launcher's mixed_precision is overruled.
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no",
        project_dir=str(out),  # where TensorBoard writes
        log_with=None if config.run.tracker == "off" else config.run.tracker,
    )
    with failing_together(), checkpoints.full_disk_told(Path(out)):
        summary = _run_pretraining(config, Path(out), accelerator, resume=resume, branch_from=branch_from)
    accelerator.state.destroy_process_group()
    return summary


def _run_pretraining(
    config: PretrainConfig,
    out: Path,
    accelerator: Accelerator,
    *,
    resume: bool,
    branch_from: tuple[Path, int] | None,
) -> dict[str, Any]:
    data = open_data(config)
    require_usable(out, resume=resume)
    if branch_from is not None and branch_from[0].absolute() == out.absolute():
        raise ValueError(f"a branch of {out} needs a folder of its own; give another --out")
    accelerator.wait_for_everyone()  # nobody writes into `out` before everybody has looked
    run = start_run(config, out, data, accelerator, resume=resume, branch_from=branch_from)
    share = Share(accelerator.process_index, accelerator.num_processes, config.optim.accumulation)
    start = (run.position.epoch, run.position.batch)
    steps = training_steps(data.corpus, data.vocabulary, data.batches, share=share, start=start)
    try:
        baseline = _add_validation(run, data)
        run.export = lambda model, folder: export(model, data.vocabulary, folder)
        with Prefetched(steps, accelerator.device) as ready:
            finished = train(run, ready)
    finally:
        run.log.close()
    summary = _summary(run, finished=finished)
    model = run.whole_model()
    if accelerator.is_main_process and finished:
        record = training_record(
            config, read_log(out / FILE),
            corpus=data.corpus, held_out=data.validation, device=accelerator.device,
            started_from=data.started_from,
        )  # fmt: skip
        baseline = baseline or RankPositionBaseline.fit(data.corpus, data.vocabulary)
        dtype = config.run.export_dtype
        export(model, data.vocabulary, out / "model", baseline=baseline, record=record, dtype=dtype)
        write_json(out / "result.json", summary | {"versions": library_versions()})
        logger.info("wrote the model to %s", out / "model")
    accelerator.wait_for_everyone()
    return summary


def export(
    model: BertForMaskedLM,
    vocabulary: GeneVocabulary,
    folder: Path,
    *,
    baseline: RankPositionBaseline | None = None,
    record: dict[str, Any] | None = None,
    dtype: Literal["float32", "float16"] = "float32",
) -> None:
    """Write a plain Hugging Face folder with the vocabulary.

    Where they are given, ``rank_position.npz`` (the baseline) and ``training.json`` (the record) lie beside
    the weights, which are stored as `dtype` and load as float32 either way.
    """
    extra_files = {} if record is None else {RECORD_FILE: json.dumps(plain_json(record), indent=1) + "\n"}
    with atomic_path(folder) as temporary:
        save_checkpoint(model, vocabulary, temporary, dtype=dtype, extra_files=extra_files)
        if baseline is not None:
            baseline.save(temporary / "rank_position.npz")


def _add_validation(run: Run, data: PretrainingData) -> RankPositionBaseline | None:
    """Make rank 0 of `run` score the held-out corpus; return the baseline, fitted on the training corpus."""
    if data.validation is None:
        return None
    if not run.accelerator.is_main_process:
        run.validate = lambda _model: {}  # all processes know when to wait for rank 0
        return None
    held_out, vocabulary, settings = data.validation, data.vocabulary, run.config.run
    baseline = RankPositionBaseline.fit(data.corpus, vocabulary)
    guess = baseline.score(masked_cells(held_out, vocabulary, max_cells=settings.validation_cells))

    def validate(model: BertForMaskedLM) -> dict[str, float]:
        scores = masked_gene_scores(
            model, held_out, vocabulary, max_cells=settings.validation_cells,
            device=run.accelerator.device, precision=settings.precision,
            token_budget=run.config.data.token_budget,
        )  # fmt: skip
        return {
            "validation_loss": scores["loss"],
            "validation_accuracy": scores["accuracy"],
            "baseline_loss": guess["loss"],
            "baseline_accuracy": guess["accuracy"],
            "validation_masked": scores["n_masked"],
        }

    run.validate = validate
    run.keep_best = lambda model: export(model, vocabulary, run.out / "best", baseline=baseline)
    return baseline


def _summary(run: Run, *, finished: bool) -> dict[str, Any]:
    """Return where the run stands, with the last figures of its log."""
    log = read_log(run.out / FILE) if run.accelerator.is_main_process else []
    trained = [line for line in log if "loss" in line]
    validated = [line for line in log if "validation_loss" in line]
    return {
        "out": run.out.name,
        "finished": finished,
        "step": run.position.step,
        "total_steps": run.total_steps,
        "tokens": run.position.tokens,
        "loss": trained[-1]["loss"] if trained else None,
        **({key: value for key, value in validated[-1].items() if key != "step"} if validated else {}),
    }
