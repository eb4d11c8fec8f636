"""The model of a notebook call: loaded by name, or the one that is there already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from geneformer_grn.model.encoder import Encoder


def encoder_of(model: str | Path | Encoder, *, device: str, precision: Literal["fp32", "bf16"]) -> Encoder:
    """Return the encoder that `model` names or is.

    Raises
    ------
    ValueError
        It is an encoder, and `device` or `precision` ask for another one than it was loaded with.
    """
    from geneformer_grn.model.encoder import Encoder, load_encoder

    if not isinstance(model, Encoder):
        return load_encoder(model, device=device, precision=precision)
    loaded = f"{model.precision} on {model.device.type}"
    if (precision == "bf16" and model.precision != "bf16") or device not in {"auto", model.device.type}:
        raise ValueError(
            f"the encoder was loaded in {loaded}, asked for is {precision} on {device}; load it so "
            "(load_encoder), or leave both out"
        )
    return model
