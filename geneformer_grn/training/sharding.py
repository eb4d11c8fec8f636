"""Models above one GPU: weights, gradients and moments spread over the processes by FSDP2, gathered to save.

Checkpoints are written whole, by one process, so that a run can go on with another number of processes, or
without sharding. The price is that the whole state passes through the memory of rank 0.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import BertForMaskedLM


def shard(module: nn.Module, model: BertForMaskedLM, device: torch.device) -> None:
    """Spread the weights of `module` over all processes, layer by layer, in place.

    Parameters
    ----------
    module
        What is called in training, holding `model`.
    model
        The encoder, on `device`, equal in all processes.
    device
        Of this process.

    Raises
    ------
    ValueError
        This is the only process.
    """
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        raise ValueError(
            "run.sharding is 'fsdp2', but there is one process; start several with torchrun or accelerate "
            "launch, or set run.sharding=none"
        )
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for layer in model.bert.encoder.layer:
        fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)


def is_sharded(module: nn.Module) -> bool:
    """Return whether `shard` was called on `module`."""
    return isinstance(module, FSDPModule)


def whole(value: Any) -> Any:
    """Return a state without sharded tensors; all processes must call it, in the same order."""
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, DTensor):
        return value.full_tensor()
    return value


def whole_model(model: BertForMaskedLM) -> BertForMaskedLM:
    """Return an unsharded copy of a sharded model; all processes must call it."""
    state = whole(model.state_dict())
    with torch.device("meta"):
        plain = BertForMaskedLM(copy.deepcopy(model.config))
    device = next(iter(state.values())).device
    plain.to_empty(device=device)
    plain.load_state_dict(state, strict=False)  # position_ids and the like are no weights, see below
    plain.tie_weights()
    for (_, ours), (_, theirs) in zip(plain.named_buffers(), model.named_buffers(), strict=True):
        ours.copy_(theirs)
    return plain


def load_whole(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Put whole weights into a model that may be sharded."""
    targets = model.state_dict()
    with torch.no_grad():
        model.load_state_dict({name: _as(targets[name], tensor) for name, tensor in state.items()})


def spread_moments(state: Any, parameters: list[nn.Parameter]) -> Any:
    """Return an optimizer's whole state, ``{number: {name: tensor}}``, spread like the parameters."""
    return {
        number: {
            name: _as(parameters[number], value) if _has_shape_of(value, parameters[number]) else value
            for name, value in moments.items()
        }
        for number, moments in state.items()
    }


def _has_shape_of(value: Any, parameter: nn.Parameter) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape == parameter.shape


def _as(target: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """Return `tensor` laid out as `target`; every process holds all of it already."""
    if not isinstance(target, DTensor):
        return tensor
    return distribute_tensor(tensor.to(target.device), target.device_mesh, target.placements)
