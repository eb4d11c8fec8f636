"""A pretraining run at its beginning, or where its newest checkpoint or another run's left it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from torch import nn

from geneformer_grn._runtime import library_versions, logger, plain_json, write_json
from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.model.encoder import ModelConfig, new_model
from geneformer_grn.model.objectives import recompute_activations
from geneformer_grn.training import checkpoints
from geneformer_grn.training.attention import choose_attention
from geneformer_grn.training.branching import copy_branch_point, require_same_rates
from geneformer_grn.training.config import SCHEDULE_KEYS, PretrainConfig, flat_config
from geneformer_grn.training.data import PretrainingData
from geneformer_grn.training.flops import peak_flops
from geneformer_grn.training.initialization import starting_model
from geneformer_grn.training.loop import Run, SummedLoss
from geneformer_grn.training.optimizer import AnyOptimizer, make_optimizer
from geneformer_grn.training.plan import plan_steps
from geneformer_grn.training.sharding import shard
from geneformer_grn.training.tracking import RunLog, start_tracker


def require_usable(out: Path, *, resume: bool) -> None:
    """Raise unless a run can be written into `out`.

    Raises
    ------
    FileExistsError
        It holds a run, and `resume` is False.
    NotADirectoryError, PermissionError
        It is a file, or cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out {out} is a file; a run needs a folder")
    nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not os.access(nearest, os.W_OK):
        raise PermissionError(f"cannot write the run to {out}: {nearest} is not writable")
    if not resume and checkpoints.holds_run(out):
        raise FileExistsError(
            f"{out} already holds a run; pass --resume to go on with it, or another --out for a new one"
        )


def start_run(
    config: PretrainConfig,
    out: Path,
    data: PretrainingData,
    accelerator: Accelerator,
    *,
    resume: bool,
    branch_from: tuple[Path, int] | None,
) -> Run:
    """Return a run at its beginning or at its newest checkpoint, and record what it is in ``run.json``.

    Parameters
    ----------
    config
        What is asked.
    out
        Folder of the run; made here.
    data
        Its corpora.
    accelerator
        Its processes.
    resume
        Go on from the newest checkpoint in `out`, where there is one.
    branch_from
        Another run and the step whose checkpoint a new run goes on from.

    Raises
    ------
    FileNotFoundError
        There is no such checkpoint to branch from.
    ValueError
        The config does not fit the checkpoint.
    PermissionError
        `out` cannot be made.
    """
    checkpoint = checkpoints.load_newest(out) if resume else None
    branch = branch_from if checkpoint is None else None  # a branch that is under way is a run like any other
    if branch is not None:
        checkpoint = checkpoints.load_step(*branch)
    before = None if checkpoint is None else checkpoint.facts.get("attention")
    attention = choose_attention(config, data, accelerator, before=before)
    per_step = accelerator.num_processes * config.optim.accumulation
    known = {"attention": attention, "batches a step": per_step}
    facts = plain_json(flat_config(config) | _identity(data.corpus) | known)
    plan = plan_steps(
        config, data.corpus.lengths, data.vocabulary, data.batches, world_size=accelerator.num_processes
    )
    if checkpoint is not None:
        checkpoints.require_same_run(checkpoint.facts, facts, besides=() if branch is None else SCHEDULE_KEYS)
        if branch is not None:
            require_same_rates(branch, config.optim, total_steps=plan["steps"])
            checkpoint = replace(checkpoint, position=replace(checkpoint.position, best_loss=None))
        if (formerly := checkpoint.facts.get("batches a step")) != per_step:
            logger.warning(
                "a step was %s packed batches (processes x optim.accumulation), from here on it is %s",
                formerly, per_step,
            )  # fmt: skip
    if checkpoint is None:
        bare_model = starting_model(config.model, data.corpus, seed=config.run.seed)
    else:
        bare_model = new_model(ModelConfig(**config.model.shape), data.vocabulary, seed=config.run.seed)
    position = checkpoint.position if checkpoint is not None else checkpoints.Position()
    if accelerator.is_main_process:
        _make_folder(out)
        checkpoints.remove_leftovers(out)
        if branch is not None:
            copy_branch_point(branch, out, position, facts)
        record = {"config": config.model_dump(), "plan": plan, "vocabulary": data.vocabulary.fingerprint}
        write_json(out / "run.json", record | {"versions": library_versions()})
        logger.info(
            "%s parameters, %s steps of about %s tokens, from step %s, on %d process(es) on %s",
            *(f"{plan[key]:,}" for key in ("parameters", "steps", "tokens_per_step")),
            f"{position.step:,}", accelerator.num_processes, accelerator.device.type,
        )  # fmt: skip
    accelerator.wait_for_everyone()
    start_tracker(accelerator, config.run.tracker, flat_config(config), out=out)

    module = SummedLoss(
        bare_model,
        config.run.precision,
        with_cells=config.optim.cell_loss > 0,
        n_special=data.vocabulary.n_special,
    )
    model, optimizer = _prepare(module, config, accelerator)
    if checkpoint is not None:
        checkpoints.restore(checkpoint, module.model, optimizer)
    return Run(
        config=config, out=out, accelerator=accelerator, model=model, optimizer=optimizer,
        log=RunLog(out, accelerator, after_step=position.step),
        total_steps=plan["steps"], position=position, facts=facts, attention=attention,
        peak_flops=peak_flops(accelerator.device, config.run.precision),
    )  # fmt: skip


def _prepare(
    module: SummedLoss, config: PretrainConfig, accelerator: Accelerator
) -> tuple[nn.Module, AnyOptimizer]:
    """Return the module as it is called in training, and its optimizer: compiled, wrapped or sharded."""
    run, device = config.run, accelerator.device
    if run.activation_checkpointing:
        recompute_activations(module.model)
    if run.sharding == "fsdp2":
        module.to(device)
        for layer in module.model.bert.encoder.layer if run.compile else ():
            layer.compile(dynamic=False)  # FSDP's own work lies between the layers and is not compiled
        shard(module, module.model, device)
        return module, make_optimizer(module, config.optim, device=device)
    if run.compile:
        module.compile(dynamic=False)
    # The optimizer stays ours: Accelerate would wrap it for loss scaling and accumulation we do not use.
    optimizer = make_optimizer(module.to(device), config.optim, device=device)
    return accelerator.prepare(module), optimizer


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PermissionError(f"cannot write the run to {out}: {error.strerror}") from error


def _identity(corpus: Corpus) -> dict[str, Any]:
    """Return what tells one corpus from another, whatever its folder is called."""
    lengths = np.ascontiguousarray(corpus.lengths, dtype=np.int32)
    return {
        "corpus vocabulary": corpus.vocabulary.fingerprint,
        "corpus cells": len(corpus),
        "corpus tokens": int(lengths.sum(dtype=np.int64)),
        "corpus lengths": hashlib.sha256(lengths.tobytes()).hexdigest()[:16],
    }
