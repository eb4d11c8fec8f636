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
import resource
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from transformers import BertForMaskedLM

from geneformer_grn._runtime import Precision, logger, progress
from geneformer_grn.cells.batches import PackedBatch
from geneformer_grn.model.objectives import masked_language_loss
from geneformer_grn.training.checkpoints import Position, save_training_state
from geneformer_grn.training.config import PretrainConfig
from geneformer_grn.training.optimizer import learning_rate
from geneformer_grn.training.signals import stop_signals
from geneformer_grn.training.stream import StepData
from geneformer_grn.training.tracking import RunLog


class SummedLoss(nn.Module):
    """The masked-language loss as a module's forward, which is what gradient synchronisation hooks into.

    Parameters
    ----------
    model
        A ``BertForMaskedLM`` with fp32 weights.
    precision
        ``bf16``: matrix products in bfloat16 by autocast, weights and sums stay fp32.
    """

    def __init__(self, model: BertForMaskedLM, precision: Precision) -> None:
        super().__init__()
        self.model = model
        self.precision = precision

    def forward(self, batch: PackedBatch) -> torch.Tensor:
        """Return the sum of the cross-entropies (nats) over the masked tokens of `batch`."""
        with torch.autocast(batch.input_ids.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            loss_sum, _ = masked_language_loss(self.model, batch)
        return loss_sum


@dataclass
class Run:
    """The parts of a run that the loop drives, and how far it has come.

    Parameters
    ----------
    model
        `SummedLoss`, wrapped for the processes there are.
    facts
        Written into every checkpoint, see `save_training_state`.
    validate
        Returns held-out figures; called on rank 0 only. None: no held-out corpus.
    keep_best
        Called on rank 0 when the held-out loss is the lowest so far.
    """

    config: PretrainConfig
    out: Path
    accelerator: Accelerator
    model: nn.Module
    optimizer: torch.optim.Optimizer
    log: RunLog
    total_steps: int
    position: Position
    facts: dict[str, Any]
    validate: Callable[[], dict[str, float]] | None = None
    keep_best: Callable[[], None] | None = None
    pending: list[dict[str, Any]] = field(default_factory=list)

    @property
    def bare_model(self) -> BertForMaskedLM:
        """The model inside the wrappers."""
        module: SummedLoss = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        return module.model


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
        The loss or a gradient is not finite; the last checkpoint is kept.
    """
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
                bar.set_postfix(loss=f"{write_pending(run, seconds=time.perf_counter() - clock):.3f}")
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

    The gradient is that of (sum of cross-entropies over all processes) / (masked tokens of all processes).
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

    n_masked, n_tokens = _over_all(accelerator, data.n_masked, data.n_tokens)
    loss_sum = torch.zeros((), device=accelerator.device)
    for number, batch in zip(data.numbers, data.batches, strict=True):
        seed_dropout(run.config.run.seed, number)
        is_last = number == data.numbers[-1]
        with contextlib.nullcontext() if is_last else accelerator.no_sync(run.model):
            batch_loss = run.model(batch.to(accelerator.device))
            accelerator.backward(batch_loss * (accelerator.num_processes / n_masked))
        loss_sum += batch_loss.detach()

    grad_norm = accelerator.clip_grad_norm_(run.model.parameters(), optim.clip_norm)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)

    epoch, batch_in_epoch = data.after
    run.position = replace(run.position, step=run.position.step + 1, epoch=epoch, batch=batch_in_epoch)
    run.pending.append(
        {
            "step": run.position.step,
            "epoch": epoch,
            "loss_sum": loss_sum,
            "masked_tokens": n_masked,
            "tokens": n_tokens,
            "lr": rate,
            "grad_norm": grad_norm,
            "data_wait_s": round(waited, 6),
        }
    )


def seed_dropout(seed: int, number: tuple[int, int]) -> None:
    """Seed torch for one batch by its place in the data (epoch, batch), whichever process it falls to.

    Dropout has no generator argument, so this is the one place that sets torch's own.
    """
    torch.manual_seed(int(np.random.SeedSequence((seed, *number)).generate_state(1)[0]))


def write_pending(run: Run, *, seconds: float) -> float:
    """Read the metrics off the device, check them, and write one log line per step.

    Parameters
    ----------
    run
        Its pending lines are written, and its position learns the tokens.
    seconds
        Wall time of the pending steps; speed is given as their mean.

    Returns
    -------
    Mean loss of the pending steps (nats per masked token).

    Raises
    ------
    ValueError
        A loss or gradient norm is not finite.
    """
    accelerator, pending = run.accelerator, run.pending
    loss_sums = accelerator.reduce(torch.stack([line.pop("loss_sum") for line in pending]), "sum").tolist()
    memory = peak_memory_mb(accelerator.device)
    mean_step_s = seconds / len(pending)
    for line, loss_sum in zip(pending, loss_sums, strict=True):
        n_masked, n_tokens, norm = int(line["masked_tokens"]), int(line["tokens"]), float(line["grad_norm"])
        loss = loss_sum / n_masked
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise ValueError(
                f"the loss ({loss}) or the gradient norm ({norm}) of step {line['step']} is not finite. The "
                "last checkpoint is kept. A lower optim.lr, a longer optim.warmup_steps or "
                "run.precision=fp32 may help."
            )
        line |= {"loss": loss, "masked_tokens": n_masked, "tokens": n_tokens, "grad_norm": norm}
        run.log.write({**line, "tokens_per_s": round(n_tokens / mean_step_s), "peak_memory_mb": memory})
    run.log.flush()
    n_seen = sum(line["tokens"] for line in pending)
    mean_loss = sum(loss_sums) / sum(line["masked_tokens"] for line in pending)
    run.position = replace(run.position, tokens=run.position.tokens + n_seen)
    pending.clear()
    return mean_loss


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory in MB: the GPU's on CUDA, else the process's resident set."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    unit = 1.0 if sys.platform == "darwin" else 1024.0  # ru_maxrss is in bytes on macOS, in KiB on Linux
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


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
    if run.accelerator.is_main_process and run.validate is not None:
        figures = run.validate()
        run.model.train()
        loss = figures["validation_loss"]
        run.log.write({"step": run.position.step, **figures})
        run.log.flush()
        logger.info(
            "step %d: held-out loss %.4f, accuracy %.4f",
            run.position.step, loss, figures["validation_accuracy"],
        )  # fmt: skip
        if run.position.best_loss is None or loss < run.position.best_loss:
            run.position = replace(run.position, best_loss=loss)
            if run.keep_best is not None:
                run.keep_best()
    run.accelerator.wait_for_everyone()


def _save(run: Run) -> None:
    if run.accelerator.is_main_process:
        save_training_state(
            run.out, run.bare_model, run.optimizer, run.position,
            facts=run.facts, keep_last=run.config.run.keep_last,
        )  # fmt: skip
    run.accelerator.wait_for_everyone()
