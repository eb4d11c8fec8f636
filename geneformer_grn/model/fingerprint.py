"""A fingerprint of an encoder's weights, so that a run can show which ones it began with and left behind."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

PARTS = ("embeddings.", "encoder.")


def encoder_fingerprint(model: nn.Module) -> str:
    """Return the sha256 of the embeddings and layers of a BERT, hexadecimal.

    Heads on it, and low-rank changes beside its weights that are not merged, do not count.

    Parameters
    ----------
    model
        A ``BertModel``, or a model that has one as ``bert``.
    """
    return _fingerprint(getattr(model, "bert", model).state_dict())


def checkpoint_fingerprint(folder: Path) -> str:
    """Return what `encoder_fingerprint` gives of the weights in a checkpoint folder, read without a model.

    Parameters
    ----------
    folder
        Holds ``model.safetensors``.

    Raises
    ------
    FileNotFoundError
        It does not.
    """
    path = folder / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no model.safetensors, so its weights cannot be compared")
    with safe_open(path, framework="pt") as weights:
        return _fingerprint({name.removeprefix("bert."): weights.get_tensor(name) for name in weights.keys()})  # noqa: SIM118


def _fingerprint(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        weight = weights[name]
        if name.startswith(PARTS) and weight.is_floating_point() and "lora_" not in name:
            digest.update(f"{name.replace('.base_layer', '')} {tuple(weight.shape)}\n".encode())
            digest.update(weight.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()
