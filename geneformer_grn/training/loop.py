"""The training loop: one step reads from top to bottom in `take_step`.

Accelerate gives device, processes and gradient synchronisation, nothing else: batches are packed token
budgets that we shard ourselves (its default would slice them), and the loss of a step is the sum over every
masked token of all processes and accumulated batches divided by their number, so that results do not depend
on how the batches were spread. Numbers stay on the device between two reads (``run.log_every``): a GPU is
never made to wait for the log.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import BertForMaskedLM

from geneformer_grn._runtime import Precision, logger, progress
from geneformer_grn.cells.batches import PackedBatch
from geneformer_grn.model.layout import AttentionLayout, LayoutKind, make_layout
from geneformer_grn.model.objectives import masked_language_and_cell_loss, masked_language_loss
from geneformer_grn.training.checkpoints import Position, save_training_state, training_state
from geneformer_grn.training.config import PretrainConfig
from geneformer_grn.training.meter import write_pending
from geneformer_grn.training.optimizer import AnyOptimizer
from geneformer_grn.training.schedule import learning_rate
from geneformer_grn.training.sharding import is_sharded, whole, whole_model
from geneformer_grn.training.signals import stop_signals
from geneformer_grn.training.stream import StepData
from geneformer_grn.training.tracking import RunLog


class SummedLoss(nn.Module):
    """The losses as a module's forward, which is what gradient synchronisation hooks into.

    Parameters
    ----------
    model
        A ``BertForMaskedLM`` with fp32 weights.
    precision
        ``bf16``: matrix products in bfloat16 by autocast, weights and sums stay fp32.
    with_cells
        Also compute the loss of the cells' vectors, see `masked_language_and_cell_loss`.
    n_special
        Special tokens of the vocabulary; read only for the cells' vectors.
    """

    def __init__(
        self, model: BertForMaskedLM, precision: Precision, *, with_cells: bool = False, n_special: int = 0
    ) -> None:
        super().__init__()
        self.model = model
        self.precision = precision
        self.with_cells = with_cells
        self.n_special = n_special

    def forward(self, batch: PackedBatch, layout: AttentionLayout | None = None) -> torch.Tensor:
        """Return ``(2,)``: sums of cross-entropies (nats) over the masked tokens of `batch`.

        First as the head guesses them, then from the cell's vector (0 where that is not asked for). `layout`
        names the attention, see `make_layout`; None: the device's usual one.
        """
        with torch.autocast(batch.input_ids.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            if self.with_cells:
                losses = masked_language_and_cell_loss(self.model, batch, layout, n_special=self.n_special)
                return torch.stack(losses)
            loss_sum, _ = masked_language_loss(self.model, batch, layout)
        return torch.stack((loss_sum, torch.zeros_like(loss_sum)))


@dataclass
class Run:
    """The parts of a run that the loop drives, and how far it has come.

    Parameters
    ----------
    model
        `SummedLoss`, wrapped for the processes there are.
    facts
        Written into every checkpoint, see `save_training_state`.
    attention
        Which attention runs; None: the device's usual one.
    peak_flops
        Of one device in FLOP/s; None: not known.
    validate
        Returns held-out figures of a model; called on rank 0 only. None: no held-out corpus.
    keep_best
        Called with the model on rank 0 when the held-out loss is the lowest so far.
    export
        Writes a model as a plain folder, into every checkpoint.
    """

    config: PretrainConfig
    out: Path
    accelerator: Accelerator
    model: nn.Module
    optimizer: AnyOptimizer
    log: RunLog
    total_steps: int
    position: Position
    facts: dict[str, Any]
    attention: LayoutKind | None = None
    peak_flops: float | None = None
    validate: Callable[[BertForMaskedLM], dict[str, float]] | None = None
    keep_best: Callable[[BertForMaskedLM], None] | None = None
    export: Callable[[BertForMaskedLM, Path], None] | None = None
    pending: list[dict[str, Any]] = field(default_factory=list)

    @property
    def bare_model(self) -> BertForMaskedLM:
        """The model inside the wrappers."""
        module: SummedLoss = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        return module.model

    def whole_model(self) -> BertForMaskedLM:
        """Return the model with all its weights; where they are sharded, all processes must call it."""
        return whole_model(self.bare_model) if is_sharded(self.model) else self.bare_model

    def count_tokens(self, n_tokens: int) -> None:
        """Add to the tokens seen."""
        self.position = replace(self.position, tokens=self.position.tokens + n_tokens)


def train(run: Run, steps: Iterable[StepData]) -> bool:
    """Train until `run.total_steps`, a signal, or the time limit; save on the way and at the end.

    Parameters
    ----------
    run
        Brought up to date in place.
    steps
        The data of one step after the other, beginning behind `run.position`.

    Returns
    -------
    True when the run is complete, False when it was stopped and can be resumed.

    Raises
    ------
    ValueError
        A loss or a gradient is not finite, or the GPU's memory does not hold a batch; the last checkpoint is
        kept.
    """
    try:
        return _train(run, steps)
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"a batch of {run.config.data.token_budget:,} tokens does not fit into the memory of the GPU; "
            "what was saved is kept. Go on with --set run.activation_checkpointing=true --resume, or begin "
            "anew with a smaller data.token_budget and more optim.accumulation"
        ) from error


def _train(run: Run, steps: Iterable[StepData]) -> bool:
    settings = run.config.run
    bar = progress(total=run.total_steps, initial=run.position.step, unit="step", desc="pretrain")
    source = iter(steps)
    started = clock = time.perf_counter()
    run.model.train()
    with stop_signals() as stop, bar:
        while run.position.step < run.total_steps:
            waiting = time.perf_counter()
            data = next(source)
            waited = time.perf_counter() - waiting
            take_step(run, data, waited=waited)
            step = run.position.step
            bar.update()

            out_of_time = (
                settings.max_minutes is not None and time.perf_counter() - started > 60 * settings.max_minutes
            )
            last = step == run.total_steps
            at_read = last or step % settings.log_every == 0
            stopping = _agreed(run, wanted=bool(stop) or out_of_time, at_read=at_read)
            validating = run.validate is not None and (last or step % settings.validate_every == 0)
            saving = stopping or last or step % settings.checkpoint_every == 0
            if at_read or validating or saving:
                loss = write_pending(run, seconds=time.perf_counter() - clock)
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)  # with the bar's next state
            if validating:
                _validate(run)
            if saving:
                _save(run)
            if at_read or validating or saving:
                clock = time.perf_counter()
            if stopping and not last:
                logger.info("stopped at step %d of %d; --resume goes on from here", step, run.total_steps)
                return False
    return True


def take_step(run: Run, data: StepData, *, waited: float) -> None:
    """Make one update: forward and backward over the accumulated batches, clip, AdamW.

    The gradient is that of (sum of cross-entropies over all processes) / (masked tokens of all processes),
    the cells' vectors' sum added with the weight ``optim.cell_loss``.
    Gradient synchronisation averages over processes, hence the factor ``num_processes``.

    Parameters
    ----------
    run
        Its position and pending log lines are brought up to date.
    data
        This process's batches of the step.
    waited
        Seconds the loop waited for `data`.
    """
    accelerator, optim = run.accelerator, run.config.optim
    rate = learning_rate(run.position.step, run.total_steps, optim)
    for group in run.optimizer.param_groups:
        group["lr"] = rate

    n_masked, n_tokens, squared = _over_all(accelerator, data.n_masked, data.n_tokens, data.n_squared)
    loss_sums = torch.zeros(2, device=accelerator.device)
    for number, batch in zip(data.numbers, data.batches, strict=True):
        seed_dropout(run.config.run.seed, number)
        is_last = number == data.numbers[-1]
        with _synchronised(run, when=is_last):
            moved = batch.to(accelerator.device)
            layout = run.attention and make_layout(run.attention, moved.cu_seqlens, moved.n_tokens)
            losses = run.model(moved, layout)
            minimised = losses[0] + optim.cell_loss * losses[1]
            accelerator.backward(minimised * (accelerator.num_processes / n_masked))
        loss_sums += losses.detach()

    grad_norm = whole(nn.utils.clip_grad_norm_(run.model.parameters(), optim.clip_norm))
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)

    epoch, batch_in_epoch = data.after
    run.position = replace(run.position, step=run.position.step + 1, epoch=epoch, batch=batch_in_epoch)
    run.pending.append(
        {
            "step": run.position.step,
            "epoch": epoch,
            "loss_sums": loss_sums,
            "masked_tokens": n_masked,
            "tokens": n_tokens,
            "squared": squared,
            "lr": rate,
            "grad_norm": grad_norm,
            "data_wait_s": round(waited, 6),
            "data": data,
        }
    )


def seed_dropout(seed: int, number: tuple[int, int]) -> None:
    """Seed torch for one batch by its place in the data (epoch, batch), whichever process it falls to.

    Dropout has no generator argument, so this is the one place that sets torch's own.
    """
    torch.manual_seed(int(np.random.SeedSequence((seed, *number)).generate_state(1)[0]))


@contextlib.contextmanager
def _synchronised(run: Run, *, when: bool) -> Iterator[None]:
    """Let the backward pass within exchange gradients between processes only `when` asked to."""
    if isinstance(run.model, FSDPModule):
        run.model.set_requires_gradient_sync(when)
        yield
    else:
        with contextlib.nullcontext() if when else run.accelerator.no_sync(run.model):
            yield


def _over_all(accelerator: Accelerator, *counts: int) -> tuple[Any, ...]:
    """Return the sums of `counts` over all processes, on the device so that nothing waits, or as they are."""
    if accelerator.num_processes == 1:
        return counts
    return tuple(accelerator.reduce(torch.tensor(counts, device=accelerator.device), "sum"))


def _agreed(run: Run, *, wanted: bool, at_read: bool) -> bool:
    """Return whether any process wants to stop; several processes ask each other when metrics are read."""
    if run.accelerator.num_processes == 1:
        return wanted
    if not at_read:
        return False
    flag = torch.tensor(int(wanted), device=run.accelerator.device)
    return bool(run.accelerator.reduce(flag, "sum").item())


def _validate(run: Run) -> None:
    model = run.whole_model()
    if run.accelerator.is_main_process and run.validate is not None:
        figures = run.validate(model)
        run.model.train()
        loss = figures["validation_loss"]
        if not math.isfinite(loss):
            raise ValueError(
                f"the held-out loss ({loss}) of step {run.position.step} is not finite. The last checkpoint "
                "and the best model are kept. A lower optim.lr or a longer optim.warmup_steps may help."
            )
        run.log.write({"step": run.position.step, **figures})
        run.log.flush()
        logger.info(
            "step %d: held-out loss %.4f, accuracy %.4f",
            run.position.step, loss, figures["validation_accuracy"],
        )  # fmt: skip
        if run.position.best_loss is None or loss < run.position.best_loss:
            run.position = replace(run.position, best_loss=loss)
            if run.keep_best is not None:
                run.keep_best(model)
    run.accelerator.wait_for_everyone()


def _save(run: Run) -> None:
    state = training_state(run.bare_model, run.optimizer)
    model, export = run.whole_model(), run.export
    if run.accelerator.is_main_process:
        save_training_state(
            run.out, state, run.position, facts=run.facts, keep_last=run.config.run.keep_last,
            export=None if export is None else lambda folder: export(model, folder),
        )  # fmt: skip
    run.accelerator.wait_for_everyone()
