"""The loop of fine-tuning: epochs, steps and validations of one run, in every mode.

What decides a result (order of the cells, dropout) is drawn from (seed, epoch, batch) and not from how far a
run came, so that a run that was killed goes on to the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from geneformer_grn._runtime import logger, progress
from geneformer_grn.model.encoder import Encoder
from geneformer_grn.model.heads import Finetuned, TaskHead
from geneformer_grn.training.config import OptimSection
from geneformer_grn.training.finetune_batches import Material, PooledStates, material, pool_once, standardise
from geneformer_grn.training.finetune_data import Lessons, Step, epochs_needed
from geneformer_grn.training.finetune_fit import FittedHead, fit_heads
from geneformer_grn.training.finetune_network import Network, merged, parameter_groups, trainable_copy
from geneformer_grn.training.finetune_predictions import Scored, kept_predictions, live_predictions
from geneformer_grn.training.finetune_processes import Processes
from geneformer_grn.training.finetune_settings import FinetuneOptim, FinetuneSettings
from geneformer_grn.training.finetune_state import Progress, save_progress, snapshot
from geneformer_grn.training.finetune_validation import Validation, validate, validation_units
from geneformer_grn.training.loop import seed_dropout
from geneformer_grn.training.schedule import learning_rate
from geneformer_grn.training.supervision import Level, Split, Task


@dataclass(eq=False)
class FinetuneRun:
    """The parts of a run that its functions share; `told` is called with each row of the history."""

    lessons: Lessons
    network: Network
    module: nn.Module  # `network`, wrapped for the processes there are
    settings: FinetuneOptim
    processes: Processes
    optimizer: torch.optim.Optimizer
    tasks: dict[str, tuple[Task, np.ndarray]]
    gene_cells: np.ndarray
    used: np.ndarray  # cells that teach or choose, ascending
    seed: int
    kept: PooledStates | None
    fits_heads: bool
    n_epochs: int
    total_steps: int
    told: Callable[[Mapping[str, Any]], None] | None = None
    progress: Progress = field(default_factory=Progress)


def start_run(
    encoder: Encoder,
    lessons: Lessons,
    splits: Mapping[Level, Split],
    *,
    settings: FinetuneSettings,
    processes: Processes,
    seed: int,
    weights: Mapping[str, float] | None,
) -> FinetuneRun:
    """Return a run at its beginning."""
    trained = trainable_copy(encoder, settings, processes.device, seed=seed)
    factors = torch.tensor([float((weights or {}).get(one.spec.name, 1.0)) for one in lessons.lessons])
    network = Network(trained, lessons.lessons, settings, factors=factors, seed=seed)
    standardise(network, lessons, seed=seed, token_budget=settings.optim.token_budget)
    for head, lesson in zip(network.heads, lessons.lessons, strict=True):
        if lesson.spec.kind == "ordinal":
            cast("TaskHead", head).start_at(lesson.task.values[lesson.units])
    tasks = {
        task.name: (task, validation_units(task, splits)) for task in (one.task for one in lessons.lessons)
    }
    generator = np.random.default_rng((seed, 1))
    gene_cells = np.sort(generator.permutation(lessons.cells)[: settings.optim.validation_cells])
    held_out = [units for task, units in tasks.values() if task.level == "cell"]
    used = np.unique(np.concatenate([lessons.cells, *held_out]))
    used = used[lessons.ranked.lengths[used] > 0]
    per_epoch = len(lessons.plan(settings.optim, seed=seed, epoch=0))
    per_epoch = -(-per_epoch // (processes.world_size * settings.optim.accumulation))
    groups = parameter_groups(network, settings.optim)
    optimizer = torch.optim.AdamW(groups, fused=processes.device.type in {"cpu", "cuda"})
    stays = not network.learns_encoder and settings.model.pooling != "attention"
    stays &= processes.is_main or not settings.model.fits_heads  # one process fits for all
    kept = pool_once(network, lessons, used, token_budget=settings.optim.token_budget) if stays else None
    n_epochs = epochs_needed(settings.optim, per_epoch, cheap=kept is not None)
    return FinetuneRun(
        lessons=lessons, network=network, module=processes.wrap(network), settings=settings.optim,
        processes=processes, optimizer=optimizer, tasks=tasks, gene_cells=gene_cells, used=used, seed=seed,
        kept=kept, fits_heads=settings.model.fits_heads, n_epochs=n_epochs, total_steps=per_epoch * n_epochs,
    )  # fmt: skip


def train(run: FinetuneRun, out: Path | None, facts: Mapping[str, Any]) -> None:
    """Run epochs until the last one, or until the validation part has not gained for long enough.

    Heads that are to be fitted are so first; with a frozen encoder that is all.
    """
    settings, state = run.settings, run.progress
    if run.fits_heads and not state.history and _fit(run):
        state.ended = not run.network.learns_encoder
        _keep(run, out, facts)
    if state.ended:
        return
    n_epochs = run.n_epochs
    if n_epochs > settings.epochs and run.processes.is_main:
        logger.info(
            "%d epochs in place of %d: an epoch has %d steps, too few to learn by (optim.min_steps)",
            n_epochs, settings.epochs, run.total_steps // n_epochs,
        )  # fmt: skip
    every = max(1, n_epochs // max(settings.epochs, 10))
    with progress(total=n_epochs, initial=state.epoch, unit="epoch", desc="finetune") as bar:
        while state.epoch < n_epochs and not state.ended:
            losses, n_cells, rate = _train_epoch(run)
            state.epoch += 1
            bar.update()
            if state.epoch % every and state.epoch < n_epochs:
                continue
            found = run.processes.agree(_validate(run, run.kept) if run.processes.is_main else None)
            row = _note(run, found, cells=n_cells, rate=rate, loss=float(losses.mean()))
            bar.set_postfix(loss=f"{row['loss']:.3f}", score=f"{found.score:.3f}", refresh=False)
            _keep(run, out, facts)


def _note(run: FinetuneRun, found: Validation, *, cells: int, rate: float, loss: float) -> dict[str, Any]:
    """Add a row to the history, and keep the weights if they are the best so far."""
    state = run.progress
    row = {"epoch": state.epoch, "step": state.step, "cells": cells, "lr": rate}
    row |= {"loss": loss, "score": found.score, "validation_loss": found.loss}
    row |= {f"{name} {key}": value for name, one in found.by_task.items() for key, value in one.items()}
    state.history.append(row)
    state.take(found, lambda: snapshot(run.network), run.settings)
    return row


def _keep(run: FinetuneRun, out: Path | None, facts: Mapping[str, Any]) -> None:
    """Write the progress, and tell whoever listens of its last row."""
    if out is not None and run.processes.is_main:
        save_progress(out, run.progress, run.network, run.optimizer, facts=facts)
    if run.told is not None:
        run.told(run.progress.history[-1])


def _fit(run: FinetuneRun) -> bool:
    """Bring the heads to their optimum on the states as they are; return whether there was room for it."""
    found: tuple[list[FittedHead], Validation] | None = None
    if run.processes.is_main:
        states = run.kept or pool_once(
            run.network, run.lessons, run.used, token_budget=run.settings.token_budget
        )
        if states is not None:
            heads = fit_heads(
                run.network.heads, run.lessons, states, run.settings,
                lambda name: _validate(run, states, only=name).by_task.get(name),
            )  # fmt: skip
            found = heads, _validate(run, states)
    found = run.processes.agree(found)
    if found is None:
        if run.processes.is_main:
            logger.warning(
                "heads learn by steps and are not fitted: the states of all cells do not fit in memory"
            )
        return False
    if (
        run.network.learns_encoder
        and run.processes.is_main
        and not any(len(u) for _, u in run.tasks.values())
    ):
        logger.warning("there is no validation part: what training spoils of the fitted heads stays spoilt")
    fitted, figures = found
    for module, head in zip(run.network.heads, fitted, strict=True):
        module.load_state_dict(head.weights)
        logger.info("head of %s fitted: C %g", cast("TaskHead", module).spec.name, head.c)
    row = _note(
        run,
        figures,
        cells=len(run.lessons.cells),
        rate=0.0,
        loss=float(np.mean([head.loss for head in fitted])),
    )
    for lesson, head in zip(run.lessons.lessons, fitted, strict=True):
        row |= {f"{lesson.spec.name} C": head.c, f"{lesson.spec.name} scale": head.scale}
    return True


def _train_epoch(run: FinetuneRun) -> tuple[np.ndarray, int, float]:
    """Return each task's mean loss over the epoch's steps, the cells seen, and the last rate."""
    settings, processes = run.settings, run.processes
    plan = run.lessons.plan(settings, seed=run.seed, epoch=run.progress.epoch)
    run.module.train()
    sums, n_steps, n_cells, rate = torch.zeros(len(run.tasks), device=processes.device), 0, 0, 0.0
    for step in run.lessons.steps(plan, settings, rank=processes.rank, world_size=processes.world_size):
        rate = _set_rates(run)
        sums += _take_step(run, step, fallback=plan[0][:1])
        n_steps, n_cells = n_steps + 1, n_cells + step.n_cells
        run.progress.step += 1
    sums = processes.total(sums) / n_steps
    if not bool(torch.isfinite(sums).all()):
        raise ValueError(
            f"the loss of epoch {run.progress.epoch + 1} is not finite; lower lr, or raise warmup"
        )
    return sums.cpu().numpy(), n_cells, rate


def _take_step(run: FinetuneRun, step: Step, *, fallback: np.ndarray) -> torch.Tensor:
    """Make one update; return this process's part of each task's mean loss."""
    device = run.processes.device
    parts = torch.zeros(len(run.tasks), device=device)
    for number, cells in zip(step.numbers, step.batches, strict=True):
        seed_dropout(run.seed, (run.progress.epoch, number))
        chosen, idle = (fallback, True) if cells is None else (cells, False)
        given = (
            run.kept.material(chosen, idle=idle)
            if run.kept is not None
            else _live(run, chosen, number, idle=idle)
        )
        with run.processes.synchronised(run.module, when=number == step.numbers[-1]):
            loss, losses = run.module(given.batch, given.rows, given.asked, step.divisors, given.pooled)
            (loss * run.processes.world_size).backward()
        parts += losses
    nn.utils.clip_grad_norm_(run.network.parameters(), run.settings.clip)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    return parts


def _live(run: FinetuneRun, cells: np.ndarray, number: int, *, idle: bool) -> Material:
    key = (run.seed, 2, run.progress.epoch, number)
    return material(
        run.lessons, cells, run.processes.device, idle=idle, dropout=run.settings.gene_dropout, key=key
    )


def _set_rates(run: FinetuneRun) -> float:
    """Set the learning rate of every group for the next step; return the largest."""
    settings, step = run.settings, run.progress.step
    warmup = round(settings.warmup * run.total_steps)
    if settings.schedule == "constant":
        share = min(1.0, (step + 1) / max(1, warmup))
    else:
        shape = OptimSection(lr=1.0, warmup_steps=warmup, schedule=settings.schedule)
        share = learning_rate(step, run.total_steps, shape)
    for group in run.optimizer.param_groups:
        group["lr"] = group["peak"] * share
    return max(float(group["lr"]) for group in run.optimizer.param_groups)


def _validate(run: FinetuneRun, kept: PooledStates | None, *, only: str | None = None) -> Validation:
    """Return the figures of the validation part, of one task or all, with the weights as they are."""
    run.network.eval()
    scored: Scored = {
        name: (task, units)
        for name, (task, units) in run.tasks.items()
        if len(units) and only in {None, name}
    }
    if kept is not None:
        predicted = kept_predictions(run.network, kept, scored, cells=run.gene_cells)
    else:
        model = Finetuned(
            merged(run.network.encoder), run.network.heads, run.network.specs, run.lessons.max_length
        )
        predicted = live_predictions(
            model, run.lessons.ranked, scored, cells=run.gene_cells, token_budget=run.settings.token_budget
        )
    deviations, taught = {}, {}
    for lesson in run.lessons.lessons:
        name = lesson.spec.name
        deviations[name] = lesson.deviation
        taught[name] = np.unique(lesson.task.values[lesson.units])
        if name in predicted:
            predicted[name] = predicted[name] * lesson.deviation + lesson.mean
    return validate(predicted, scored, deviations, taught)
