"""The figures of a step: kept on the device until the log is read, then checked and written, one line a step.

What is not finite ends the run there: nothing broken is saved, and the batches at fault are kept for whoever
wants to know why.
"""

from __future__ import annotations

import math
import resource
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from geneformer_grn._runtime import atomic_path
from geneformer_grn.training.flops import flops_of_sums
from geneformer_grn.training.stream import StepData

if TYPE_CHECKING:
    from geneformer_grn.training.loop import Run

BAD_BATCHES = "not_finite"


def write_pending(run: Run, *, seconds: float) -> float:
    """Read the metrics off the device, check them, and write one log line per step.

    A line holds ``step``, ``epoch``, ``loss`` (nats per masked token), with ``optim.cell_loss`` also
    ``cell_loss`` (the same genes, guessed from the cell's vector), ``masked_tokens`` and ``tokens`` (of
    all processes, filling left out), ``lr``, ``grad_norm`` (before clipping), ``tokens_per_s``, ``mfu``
    (needed arithmetic over the peak of all devices, see `flops`; None where the peak is not known),
    ``peak_memory_mb``, ``data_wait_s`` and ``data_wait_share`` (of the step's time).

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
        A loss or gradient norm is not finite; this process's batches of the step are saved.
    """
    accelerator, pending = run.accelerator, run.pending
    loss_sums = accelerator.reduce(torch.stack([line.pop("loss_sums") for line in pending]), "sum").tolist()
    memory = peak_memory_mb(accelerator.device)
    mean_step_s = seconds / len(pending)
    peak = None if run.peak_flops is None else run.peak_flops * accelerator.num_processes
    for line, (loss_sum, cell_sum) in zip(pending, loss_sums, strict=True):
        n_masked, n_tokens, norm = int(line["masked_tokens"]), int(line["tokens"]), float(line["grad_norm"])
        loss, cell_loss = loss_sum / n_masked, cell_sum / n_masked
        data = line.pop("data")
        if not all(map(math.isfinite, (loss, cell_loss, norm))):
            saved = save_batches(run.out, data, step=line["step"], rank=accelerator.process_index)
            raise ValueError(
                f"the loss ({loss}) or the gradient norm ({norm}) of step {line['step']} is not finite. The "
                f"last checkpoint is kept, and the batches of the step are in {BAD_BATCHES}/{saved.name}. A "
                "lower optim.lr, a longer optim.warmup_steps or run.precision=fp32 may help."
            )
        needed = flops_of_sums(
            run.bare_model.config, n_tokens=n_tokens, squared=int(line.pop("squared")), n_masked=n_masked
        )
        line |= {"loss": loss, "masked_tokens": n_masked, "tokens": n_tokens, "grad_norm": norm}
        if run.config.optim.cell_loss:
            line["cell_loss"] = cell_loss
        run.log.write(
            {
                **line,
                "tokens_per_s": round(n_tokens / mean_step_s),
                "mfu": None if peak is None else round(needed / mean_step_s / peak, 4),
                "peak_memory_mb": memory,
                "data_wait_share": round(line["data_wait_s"] / mean_step_s, 4),
            }
        )
    run.log.flush()
    n_seen = sum(line["tokens"] for line in pending)
    mean_loss = sum(of_tokens for of_tokens, _ in loss_sums) / sum(line["masked_tokens"] for line in pending)
    run.count_tokens(n_seen)
    pending.clear()
    return mean_loss


def save_batches(out: Path, data: StepData, *, step: int, rank: int) -> Path:
    """Write the batches of one process's step: a list of dicts of tensors, for ``torch.load``."""
    path = out / BAD_BATCHES / f"step-{step:08d}-process-{rank}.pt"
    batches = [
        {item.name: getattr(batch, item.name) for item in fields(batch)} for batch in data.batches
    ]  # fmt: skip
    with atomic_path(path) as temporary:
        torch.save({"numbers": data.numbers, "batches": batches}, temporary)
    return path


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory in MB: the GPU's on CUDA, else the process's resident set."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    unit = 1.0 if sys.platform == "darwin" else 1024.0  # ru_maxrss is in bytes on macOS, in KiB on Linux
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
