"""Losses of fine-tuning: one number a unit, and their sum over tasks.

Sums are divided by the weight of all units of a step, over all processes and accumulated batches, so that
results do not depend on how batches were spread.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from geneformer_grn.model.heads import HeadSpec, TaskHead
from geneformer_grn.training.finetune_settings import FinetuneOptim

_FAR = 1e4  # stands for an infinite threshold: no gradient, no NaN


def unit_losses(head: TaskHead, outputs: Tensor, targets: Tensor, settings: FinetuneOptim) -> Tensor:
    """Return the loss of each unit, ``(n,)`` float32.

    Cross-entropy in nats of a classification (focal: times ``(1 - p)^gamma``, Lin et al. 2017) and of an
    ordinal label (cumulative-link model, McCullagh 1980), squared error of a regression.

    Parameters
    ----------
    head
        Whose outputs they are.
    outputs
        ``(n, n_outputs)`` float32.
    targets
        ``(n,)`` class indices int64, or standardised values float32.
    settings
        Which loss.
    """
    if head.spec.kind == "regression":
        return (outputs[:, 0] - targets).square()
    if head.spec.kind == "ordinal":
        return _ordinal_losses(head.thresholds, outputs[:, 0], targets)
    losses = functional.cross_entropy(outputs, targets, reduction="none")
    if settings.loss == "focal":
        losses = losses * (-torch.expm1(-losses)).clamp(min=1e-12) ** settings.gamma
    return losses


def joined_loss(
    losses: Tensor,
    specs: tuple[HeadSpec, ...],
    *,
    factors: Tensor,
    log_variances: Tensor,
    shares: Tensor,
    weighting: Literal["fixed", "uncertainty"],
) -> Tensor:
    """Return one loss for several tasks.

    Parameters
    ----------
    losses
        ``(n_tasks,)``: this batch's part of each task's mean loss.
    specs
        Of the tasks.
    factors
        ``(n_tasks,)`` fixed weights.
    log_variances
        ``(n_tasks,)`` of ``uncertainty`` (Kendall et al. 2018): learnt, a task of much noise weighs less.
    shares
        ``(n_tasks,)`` share of the step's weight that this batch holds, so that the penalty of the
        variances counts once in a step.
    weighting
        ``fixed`` or ``uncertainty``.
    """
    if weighting == "fixed":
        return (factors * losses).sum()
    halves = torch.tensor([0.5 if spec.kind == "regression" else 1.0 for spec in specs], device=losses.device)
    penalty = 0.5 * log_variances * shares
    return (factors * (halves * torch.exp(-log_variances) * losses + penalty)).sum()


def _ordinal_losses(thresholds: Tensor, places: Tensor, targets: Tensor) -> Tensor:
    far = thresholds.new_full((1,), _FAR)
    edges = torch.cat([-far, thresholds, far])
    above, below = edges[targets + 1] - places, edges[targets] - places
    # log(sigmoid(a) - sigmoid(b)) without the difference of two numbers near 0 or 1.
    gap = torch.log(-torch.expm1((below - above).clamp(max=-1e-6)))
    return -(functional.logsigmoid(above) + functional.logsigmoid(-below) + gap)
