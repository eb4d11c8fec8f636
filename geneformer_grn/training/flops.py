"""How much of the machine's arithmetic a step uses: floating-point operations that count, over the peak.

Only what the result needs is counted (model FLOPs utilisation, MFU; Chowdhery et al., 2022): no padding, no
filling, no head where nothing is masked, nothing computed twice by activation checkpointing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from geneformer_grn._runtime import Precision

if TYPE_CHECKING:
    from transformers import BertConfig

# Dense peak in 1e12 FLOP/s from NVIDIA's data sheets, (bf16 or fp16 matrix units, fp32 without TF32). The
# first entry whose name is part of the device's name counts. V100 has no bf16; its fp16 units are named.
_PEAKS = {
    "H100 PCIe": (756.0, 51.2),
    "H100": (989.4, 66.9),
    "H200": (989.4, 66.9),
    "A100": (311.9, 19.5),
    "L40S": (362.1, 91.6),
    "V100": (125.0, 15.7),
}
H100_PEAK: dict[Precision, float] = {"bf16": _PEAKS["H100"][0] * 1e12, "fp32": _PEAKS["H100"][1] * 1e12}


def model_flops(config: BertConfig, lengths: np.ndarray | Sequence[int], n_masked: int) -> float:
    """Return the floating-point operations of one training step on packed cells.

    A product of ``(m, k)`` and ``(k, n)`` costs ``2 m k n``. Forward, with width `d`, inner width `f`, `V`
    tokens and `T` = sum of the lengths `l`: each layer has four projections (``8 T d**2``), two matrices of
    the feed-forward part (``4 T d f``), and attention within cells, where scores and weighted values cost
    ``2 l**2 d`` each (``4 d sum(l**2)``). The head is a projection and the output matrix at the masked
    positions only (``2 n_masked (d**2 + d V)``). Backward multiplies each product twice more, for the
    gradients of both factors: three times forward in all. Norms, softmax, activations and the optimizer are
    not counted.

    Parameters
    ----------
    config
        Shape of the model.
    lengths
        ``(N,)`` tokens of each cell.
    n_masked
        Positions asked for.

    Examples
    --------
    >>> config = BertConfig(
    ...     hidden_size=2, num_attention_heads=1, intermediate_size=3, num_hidden_layers=1, vocab_size=7
    ... )
    >>> model_flops(config, [1, 2], n_masked=1)  # 3 * ((8*4 + 4*6) * 3 + 8 * 5 + 2 * (4 + 14))
    732.0
    """
    cells = np.asarray(lengths, dtype=np.float64)
    return flops_of_sums(
        config, n_tokens=float(cells.sum()), squared=float((cells**2).sum()), n_masked=n_masked
    )


def flops_of_sums(config: BertConfig, *, n_tokens: float, squared: float, n_masked: float) -> float:
    """Do `model_flops` from the sums of lengths and of squared lengths, which add up over processes."""
    return training_operations(
        n_layers=config.num_hidden_layers, width=config.hidden_size, inner=config.intermediate_size,
        vocabulary=config.vocab_size, n_tokens=n_tokens, squared=squared, n_masked=n_masked,
    )  # fmt: skip


def training_operations(
    *,
    n_layers: int,
    width: int,
    inner: int,
    vocabulary: int,
    n_tokens: float,
    squared: float,
    n_masked: float,
) -> float:
    """Do `model_flops` from the numbers of a shape, and the sums of lengths and of squared lengths."""
    layer = (8 * width**2 + 4 * width * inner) * n_tokens + 4 * width * squared
    head = 2 * n_masked * (width**2 + width * vocabulary)
    return 3.0 * (n_layers * layer + head)


def peak_flops(device: torch.device, precision: Precision) -> float | None:
    """Return the peak in FLOP/s of one device: a GPU's from a table, a CPU's measured; None: not known.

    Parameters
    ----------
    device
        Where a run computes.
    precision
        Of its matrix products.
    """
    if device.type == "cuda":
        return named_peak(torch.cuda.get_device_name(device), precision)
    return measured_peak(precision) if device.type == "cpu" else None


def named_peak(name: str, precision: Precision) -> float | None:
    """Return the peak in FLOP/s of a GPU by its name, or None where the table does not have it."""
    for known, (half, single) in _PEAKS.items():
        if known in name:
            return (half if precision == "bf16" else single) * 1e12
    return None


def measured_peak(precision: Precision, *, size: int = 1024, seconds: float = 0.2) -> float:
    """Return the FLOP/s of the fastest of some products of square matrices on the CPU, as threads are set.

    Parameters
    ----------
    precision
        Of the matrices.
    size
        Their width.
    seconds
        How long to try.
    """
    matrix = torch.ones(size, size, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    best = float("inf")
    end = time.perf_counter() + seconds
    while True:
        started = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - started)
        if time.perf_counter() > end:
            return 2.0 * size**3 / best
