"""The two models that `pretrain.py` compares, one update of each, and how much memory it took."""

from __future__ import annotations

import contextlib
import os
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from data_path import FlatCells
from torch import Tensor
from transformers import BertForMaskedLM

from geneformer_grn.cells.masking import IGNORED
from geneformer_grn.cells.packing import PackedBatch
from geneformer_grn.model.checkpoint import ModelConfig, new_model
from geneformer_grn.model.layout import make_layout
from geneformer_grn.model.objectives import masked_language_loss
from geneformer_grn.training.cost import operations_per_token

RECIPES = Path(__file__).resolve().parent.parent / "pretrain" / "configs"


class Models:
    """The plain and our model with equal weights, and one update of each.

    The learning rate is 0: AdamW does all its work, and the weights, so the losses, stay comparable.
    """

    def __init__(self, shape: str, cells: FlatCells, target: torch.device) -> None:
        section = tomllib.loads((RECIPES / f"{shape}.toml").read_text(encoding="utf-8"))["model"]
        names = ("n_layers", "hidden_size", "n_heads", "ffn_size", "activation")
        self.shape = ModelConfig(**{name: section[name] for name in names}, dropout=0.0)
        self.n_tokens, self.device = len(cells.vocabulary), target
        self.ours = new_model(self.shape, cells.vocabulary, seed=0).to(target)
        config = type(self.ours.config).from_dict(self.ours.config.to_dict())
        config._attn_implementation = "sdpa"
        self.plain = BertForMaskedLM(config).to(target).train()
        self.plain.load_state_dict(self.ours.state_dict())
        self.n_parameters = sum(weight.numel() for weight in self.ours.parameters())
        self.optimizers = {
            model: torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)
            for model in (self.ours, self.plain)
        }
        self.compiled_loss = torch.compile(masked_language_loss, dynamic=False)

    def operations(self, mean_length: float) -> float:
        shape: Any = SimpleNamespace(**vars(self.shape))
        return operations_per_token(shape, n_tokens=self.n_tokens, mean_length=mean_length, mask_rate=0.15)

    def step_plain(self, batch: dict[str, Tensor], precision: str) -> tuple[Tensor, Tensor]:
        batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        with autocast(self.device, precision):
            loss = self.plain(**batch).loss
        n_masked = (batch["labels"] != IGNORED).sum()
        self._update(self.plain, loss)
        return loss.detach() * n_masked, n_masked

    def step_ours(
        self, batch: PackedBatch, precision: str, *, kind: Any = "segments", compiled: bool = False
    ) -> tuple[Tensor, Tensor]:
        batch = batch.to(self.device)
        # The usual way of a CPU needs no preparation.
        layout = None if kind == "segments" else make_layout(kind, batch.cu_seqlens, batch.n_tokens)
        with autocast(self.device, precision):
            loss_of = self.compiled_loss if compiled else masked_language_loss
            loss, n_masked = loss_of(self.ours, batch, layout)
        self._update(self.ours, loss / n_masked)
        return loss.detach(), n_masked

    def _update(self, model: BertForMaskedLM, loss: Tensor) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        self.optimizers[model].step()
        self.optimizers[model].zero_grad(set_to_none=True)

    def run(self, steps: Sequence[Callable[[], tuple[Tensor, Tensor]]]) -> dict[str, float]:
        """Make the steps; return their mean loss in nats and the peak memory in MB, weights and all."""
        reset_peak_memory(self.device)
        losses, counts = zip(*(step() for step in steps), strict=True)
        loss = float(torch.stack(losses).double().sum() / torch.stack(counts).sum())  # waits for the device
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return {"loss": loss, "peak_memory_mb": peak_memory_mb(self.device)}


def autocast(target: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(target.type, torch.bfloat16, enabled=precision == "bf16")


def reset_peak_memory(target: torch.device) -> None:
    if target.type == "cuda":
        torch.cuda.reset_peak_memory_stats(target)
    with contextlib.suppress(OSError):  # Linux's way to start the high-water mark anew
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_mb(target: torch.device) -> float | None:
    """Return the peak since the last reset: the GPU's, else this process's; None where it cannot be reset."""
    if target.type == "cuda":
        return torch.cuda.max_memory_allocated(target) / 1e6
    status = Path("/proc/self/status")
    if not status.is_file() or not os.access("/proc/self/clear_refs", os.W_OK):
        return None
    line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6
