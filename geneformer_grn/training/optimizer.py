"""AdamW, and its learning rate as a function of the step alone.

The schedule has no state, so there is nothing of it to store in a checkpoint and nothing to restore wrongly.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from geneformer_grn.training.config import OptimSection


def make_optimizer(
    model: nn.Module, settings: OptimSection, *, device: torch.device
) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov & Hutter 2019) with decay on matrices only: no norms, biases or embeddings."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for parameter in model.parameters():
        (decayed if parameter.ndim >= 2 and id(parameter) not in embeddings else free).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=device.type in {"cpu", "cuda"}
    )


def learning_rate(step: int, total_steps: int, settings: OptimSection) -> float:
    """Return the learning rate of one update.

    Linear warm-up to the peak over ``warmup_steps`` updates, then half a cosine (Loshchilov & Hutter 2017)
    or a line down to ``final_lr_share`` of the peak.

    Parameters
    ----------
    step
        Updates made before this one (the first update is 0).
    total_steps
        Updates of the whole run.
    settings
        Peak, warm-up and shape.
    """
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, total_steps - settings.warmup_steps)
    done = min(done, 1.0)
    left = 0.5 * (1.0 + math.cos(math.pi * done)) if settings.schedule == "cosine" else 1.0 - done
    return settings.lr * (settings.final_lr_share + (1.0 - settings.final_lr_share) * left)
