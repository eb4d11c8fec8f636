"""AdamW, or Muon for matrices with AdamW for the rest; weight decay, decoupled, on matrices only."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from geneformer_grn.training.config import OptimSection


class MuonWithAdamW:
    """Muon for the matrices of the layers and AdamW for everything else, driven as one optimizer.

    Muon (Jordan et al., 2024) makes the momentum of a matrix orthogonal before it is applied; embeddings,
    norms and biases are no such matrices. Its updates are scaled to the size of AdamW's (Liu et al., 2025),
    so both take the same learning rate.

    Parameters
    ----------
    muon, adamw
        The two, each with parameters of its own.
    """

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW) -> None:
        self._parts: dict[str, torch.optim.Optimizer] = {"muon": muon, "adamw": adamw}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both; changes apply."""
        return [group for part in self._parts.values() for group in part.param_groups]

    def step(self) -> None:
        """Apply the gradients."""
        for part in self._parts.values():
            part.step()

    def zero_grad(self, *, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for part in self._parts.values():
            part.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the moments of both, as ``state``."""
        return {
            "state": {name: part.state_dict()["state"] for name, part in self._parts.items()},
            "param_groups": [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the moments of `state`; settings stay as they are."""
        for name, part in self._parts.items():
            groups = part.state_dict()["param_groups"]
            part.load_state_dict({"state": state["state"][name], "param_groups": groups})


AnyOptimizer = torch.optim.Optimizer | MuonWithAdamW


def make_optimizer(model: nn.Module, settings: OptimSection, *, device: torch.device) -> AnyOptimizer:
    """Return the optimizer that `settings` ask for.

    AdamW (Loshchilov & Hutter 2019) with decay on matrices only, no norms or biases, and no embeddings
    unless ``decay_embeddings``; or Muon for the matrices beside it, see `MuonWithAdamW`.

    Parameters
    ----------
    model
        Whose parameters are trained.
    settings
        Kind, rate, betas and decay.
    device
        Where the parameters are: AdamW is fused on CPU and CUDA.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    parameters = list(model.parameters())
    tables = [parameter for parameter in parameters if id(parameter) in embeddings]
    matrices = [weight for weight in parameters if weight.ndim >= 2 and id(weight) not in embeddings]
    vectors = [parameter for parameter in parameters if parameter.ndim < 2]
    decay = settings.weight_decay
    rest = [
        {"params": tables, "weight_decay": decay if settings.decay_embeddings else 0.0},
        {"params": vectors, "weight_decay": 0.0},
    ]

    def adamw(groups: list[dict[str, Any]]) -> torch.optim.AdamW:
        fused = device.type in {"cpu", "cuda"}
        return torch.optim.AdamW(
            groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=fused
        )  # fmt: skip

    if settings.optimizer == "adamw":
        return adamw([{"params": matrices, "weight_decay": decay}, *rest])
    muon = torch.optim.Muon(
        matrices, lr=settings.lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
    )  # fmt: skip
    return MuonWithAdamW(muon, adamw(rest))
