"""Which attention a run computes with: as asked, or on a GPU the fastest on cells of its own corpus."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from accelerate.utils import broadcast_object_list

from geneformer_grn._runtime import logger
from geneformer_grn.model.layout import LayoutKind, candidates, measure_layouts, require_trainable

if TYPE_CHECKING:
    from accelerate import Accelerator

    from geneformer_grn.training.config import PretrainConfig
    from geneformer_grn.training.data import PretrainingData


def choose_attention(
    config: PretrainConfig, data: PretrainingData, accelerator: Accelerator, *, before: str | None = None
) -> LayoutKind:
    """Return the attention of a run, the same in all processes.

    With ``auto`` on a GPU, forward and backward of one layer are timed on a batch of the corpus's lengths;
    elsewhere it is ``segments``. A resumed run keeps what it began with, so that it stays the same run bit
    for bit.

    Parameters
    ----------
    config, data, accelerator
        Of the run.
    before
        What the checkpoint says the run computed with.

    Raises
    ------
    ValueError
        What is asked cannot run here, see `require_trainable`; or nothing runs.
    """
    run, device = config.run, accelerator.device
    dtype = torch.bfloat16 if run.precision == "bf16" else torch.float32
    if run.attention != "auto":
        require_trainable(run.attention, device, dtype, compiled=run.compile)
        return run.attention
    kinds = candidates(device, dtype)
    for kind in kinds:
        if kind == before or len(kinds) == 1:
            return kind
    if run.compile:
        kinds = tuple(kind for kind in kinds if kind != "buckets")
    chosen: list[LayoutKind | None] = []
    if accelerator.is_main_process:
        seconds = measure_layouts(
            kinds, typical_boundaries(data).to(device),
            n_heads=config.model.n_heads, head_size=config.model.hidden_size // config.model.n_heads,
            dtype=dtype,
        )  # fmt: skip
        timed = ", ".join(f"{kind} {1e3 * value:.2f} ms" for kind, value in seconds.items())
        logger.info("attention of one layer, forward and backward: %s", timed or "none runs")
        chosen += sorted(seconds, key=seconds.__getitem__)[:1]
    (fastest,) = broadcast_object_list(chosen[:1] or [None])
    if fastest is None:
        raise ValueError(
            f"no attention of {', '.join(kinds)} runs on this {device.type} device; set "
            "run.attention=segments and run.compile=false"
        )
    return cast("LayoutKind", fastest)


def typical_boundaries(data: PretrainingData) -> torch.Tensor:
    """Return the boundaries ``(N+1,)`` int32 of a full batch of cells drawn from the corpus."""
    budget = data.batches.token_budget
    lengths = np.minimum(data.corpus.lengths, data.vocabulary.max_length)
    drawn = np.random.default_rng(0).choice(lengths, budget // max(1, int(lengths.min())) + 1)
    ends = np.cumsum(drawn)
    return torch.tensor([0, *ends[ends < budget], budget], dtype=torch.int32)
