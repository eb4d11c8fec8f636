"""Encoders whose layers are held in 8 or 4 bits while heads, or low-rank changes beside them, learn.

For models that would not fit into a GPU otherwise (Dettmers et al. 2022, 2023; through bitsandbytes). What is
returned in the end is not quantised: low-rank changes are added to the weights that were given.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from geneformer_grn.cells.packing import PackedBatch
from geneformer_grn.model.encoder import Encoder, packed_states


@dataclass(frozen=True, eq=False)
class QuantisedEncoder(Encoder):
    """An encoder with quantised layers, which only its own modules can run.

    Parameters
    ----------
    original
        The encoder whose weights were quantised.
    """

    original: Encoder | None = None

    def _run(self, batch: PackedBatch, n_layers: int) -> Tensor:
        with self._autocast():
            return packed_states(self.model, batch, n_layers=n_layers)[0].float()


def require_quantisation(device: torch.device) -> Any:
    """Return the module bitsandbytes.

    Raises
    ------
    ValueError
        `device` is no CUDA GPU.
    ModuleNotFoundError
        bitsandbytes is not installed.
    """
    if device.type != "cuda":
        raise ValueError(
            f"quantised layers need a CUDA GPU, and this run is on {device.type!r}; use quantised 'none'"
        )
    try:
        import bitsandbytes
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'quantised layers need bitsandbytes; install it with pip install "geneformer-grn[quantised]"'
        ) from error
    return bitsandbytes


def quantised(encoder: Encoder, bits: Literal["8bit", "4bit"], device: torch.device) -> QuantisedEncoder:
    """Return a copy of `encoder` on `device` with the matrices of its layers in so many bits.

    Raises as `require_quantisation` does.
    """
    library = require_quantisation(device)
    model = cast("Any", copy.deepcopy(encoder.model))
    for parent in list(model.bert.encoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, _quantised_linear(child, bits, library))
    setattr(model.bert, f"is_loaded_in_{bits}", True)  # peft asks
    return QuantisedEncoder(
        model=model.to(device), vocabulary=encoder.vocabulary, device=device, precision=encoder.precision,
        name=encoder.name, original=encoder,
    )  # fmt: skip


def dequantised(encoder: QuantisedEncoder) -> Encoder:
    """Return the original encoder, low-rank changes of the quantised one added to a copy of its weights."""
    original = cast("Encoder", encoder.original)
    adapted = {name: module for name, module in encoder.model.named_modules() if hasattr(module, "lora_A")}
    if not adapted:
        return replace(original)
    model = copy.deepcopy(original.model)
    with torch.no_grad():
        for name, module in adapted.items():
            (adapter,) = cast("Any", module).lora_A
            weight = cast("Any", model.get_submodule(name)).weight
            weight.add_(cast("Any", module).get_delta_weight(adapter).to(weight))
    return replace(original, model=model)


def _quantised_linear(linear: nn.Linear, bits: Literal["8bit", "4bit"], library: Any) -> nn.Module:
    shape, has_bias = (linear.in_features, linear.out_features), linear.bias is not None
    if bits == "8bit":
        made = library.nn.Linear8bitLt(*shape, bias=has_bias, has_fp16_weights=False)
        made.weight = library.nn.Int8Params(linear.weight.data, requires_grad=False, has_fp16_weights=False)
    else:
        made = library.nn.Linear4bit(*shape, bias=has_bias, compute_dtype=torch.bfloat16, quant_type="nf4")
        made.weight = library.nn.Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4")
    if has_bias:
        made.bias = nn.Parameter(linear.bias.data, requires_grad=False)
    return cast("nn.Module", made)
