"""The language-model head and its cross-entropy in one, a few hundred positions at a time.

The logits of all masked genes of a batch are the largest tensor of a training step (10,000 × 25,000), and
several copies of it are made on the way to the loss and back. Here a slice of them lives at a time: its part
of the loss and of all gradients is taken at once, since the gradient of a sum of cross-entropies does not
wait for what comes later. The idea is that of fused linear cross-entropy (Hsu et al., "Liger Kernel", 2024),
in plain torch: the same products as before, without their copies.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# Logits alive at a time. On a GPU what its kernels want; on a CPU what the memory just freed can hold:
# above 32 MiB the allocator fetches fresh pages for every slice, which costs as much as its products.
SLICE_VALUES = {"cpu": 1 << 22, "cuda": 1 << 26}


def head_loss(states: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, *, ignored: int) -> Tensor:
    """Return the summed cross-entropy of ``states @ weight.T + bias``.

    Parameters
    ----------
    states
        ``(M, d)``.
    weight, bias
        ``(V, d)`` and ``(V,)`` of the head's last layer.
    labels
        ``(M,)`` int64, or `ignored`.
    ignored
        The label of positions that are left out.

    Returns
    -------
    Tensor
        ``()`` float32 (float64 for float64 states), in nats. Under autocast, products are in its
        type.
    """
    kind = states.device.type
    lower = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
    rows = max(1, SLICE_VALUES.get(kind, SLICE_VALUES["cpu"]) // len(weight))
    loss: Tensor = _HeadLoss.apply(states, weight, bias, labels, ignored, rows, lower)
    return loss


class _HeadLoss(torch.autograd.Function):
    """Loss and gradients in the forward pass; the backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor,
        labels: Tensor,
        ignored: int,
        rows: int,
        lower: torch.dtype,
    ) -> Tensor:
        full = torch.float64 if lower == torch.float64 else torch.float32
        wanted = any(ctx.needs_input_grad)
        with torch.autocast(states.device.type, enabled=False):
            low_states, low_weight = states.to(lower), weight.to(lower)
            loss = torch.zeros((), dtype=full, device=states.device)
            of_states = torch.empty_like(low_states) if wanted else states.new_empty(0)
            of_weight = torch.zeros_like(weight, dtype=full) if wanted else states.new_empty(0)
            of_bias = torch.zeros_like(bias, dtype=full) if wanted else states.new_empty(0)
            for start in range(0, len(states), rows):
                some = low_states[start : start + rows]
                some_labels = labels[start : start + rows]
                known = (some_labels != ignored)[:, None]
                target = torch.where(known, some_labels[:, None], 0)
                # Each further pass over the slice costs a tenth of its products, so what is ignored is taken
                # out of the small matrices, and the one large one is changed in place.
                logits = functional.linear(some, low_weight).to(full)
                logits += bias
                log_shares = torch.log_softmax(logits, dim=1)
                loss -= torch.where(known, log_shares.gather(1, target), 0.0).sum()
                if not wanted:
                    continue
                slope = log_shares.exp_()
                slope.scatter_add_(1, target, -known.to(full))
                low_slope, counted = slope.to(lower), known.to(lower)
                of_states[start : start + rows] = (low_slope @ low_weight) * counted
                if lower == full:
                    of_weight.addmm_(low_slope.T, some * counted)
                else:
                    of_weight += low_slope.T @ (some * counted)
                of_bias.addmv_(slope.T, known[:, 0].to(full))
        ctx.save_for_backward(of_states, of_weight, of_bias)
        ctx.types = (states.dtype, weight.dtype, bias.dtype)
        return loss

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = outputs
        gradients = [
            (gradient * scale).to(dtype) for gradient, dtype in zip(ctx.saved_tensors, ctx.types, strict=True)
        ]
        return (*gradients, None, None, None, None)
