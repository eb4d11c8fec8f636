"""The encoder with a gate on every key, to be differentiated instead of run once per perturbation.

Knocking a gene out means that no other token reads it in any layer. So every token gets one gate, shared by
all layers and heads, that is open (1) and would be shut (0) by its knock-out. One backward pass then gives
the gradient by the gates of all tokens at once.

The states are those of the encoder. Only one cell is run at a time, which keeps the arithmetic plain; scores
are formed again in the backward pass, for a block of queries at a time, so that memory is linear in tokens.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers import BertForMaskedLM

_QUERIES = 128  # whose scores are held at once: they stay in cache
_CERTAIN = 1e-3  # a key that takes all attention is weighted as one that leaves this much to the others


def embed(model: BertForMaskedLM, input_ids: Tensor, position_ids: Tensor) -> Tensor:
    """Return the embedding output ``(L, d)`` of one cell's tokens at given positions."""
    states: Tensor = model.bert.embeddings(input_ids=input_ids[None], position_ids=position_ids[None])
    return states[0]


def gated_states(model: BertForMaskedLM, embedded: Tensor, gates: Tensor, *, n_layers: int) -> Tensor:
    """Run one cell through the first layers, differentiably in its embedding and its gates.

    Parameters
    ----------
    model
        A BERT in eval mode.
    embedded
        ``(L, d)`` output of `embed`.
    gates
        ``(L,)`` of ones; only their gradient is used.
    n_layers
        How many layers to run.

    Returns
    -------
    ``(L, d)`` states, those of the ungated encoder. The gradient by gate ``j`` is the change of the output
    per opening of the gate, with the effect of shutting it counted in full within a layer (not to first
    order), and to first order across layers. What token ``j`` reads of itself is not gated.
    """
    n_heads = model.config.num_attention_heads
    states = embedded
    for layer in cast("Any", model.bert.encoder.layer)[:n_layers]:
        attention = layer.attention.self
        query, key, value = (
            part(states).unflatten(-1, (n_heads, -1)).transpose(0, 1)
            for part in (attention.query, attention.key, attention.value)
        )
        read = cast("Tensor", _GatedAttention.apply(query, key, value, gates))
        states = layer.attention.output(read.transpose(0, 1).flatten(1), states)
        states = layer.output(layer.intermediate(states), states)
    return states


class _GatedAttention(torch.autograd.Function):
    """Softmax attention ``(H, L, D)`` with a gradient by gates ``(L,)`` on its keys."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, gates: Tensor) -> Tensor:
        output = functional.scaled_dot_product_attention(query[None], key[None], value[None])[0]
        ctx.save_for_backward(query, key, value, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        query, key, value, output = ctx.saved_tensors
        (grad,) = grads
        scaling = query.shape[-1] ** -0.5
        grad_query = torch.empty_like(query)
        grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
        grad_gates = query.new_zeros(query.shape[1])
        for start in range(0, query.shape[1], _QUERIES):
            rows = slice(start, start + _QUERIES)
            share = torch.softmax(query[:, rows] @ key.mT * scaling, dim=-1)
            own = (grad[:, rows] * output[:, rows]).sum(dim=-1, keepdim=True)
            by_score = share * (grad[:, rows] @ value.mT - own)
            grad_query[:, rows] = by_score @ key * scaling
            grad_key += by_score.mT @ query[:, rows] * scaling
            grad_value += share.mT @ grad[:, rows]
            # Without key j a query's output moves by share / (1 - share) times (output - value j): the first
            # order of a gate has the share alone.
            by_gate = by_score / (1.0 - share).clamp(min=_CERTAIN)
            by_gate.diagonal(offset=start, dim1=-2, dim2=-1).zero_()
            grad_gates += by_gate.sum(dim=(0, 1))
        return grad_query, grad_key, grad_value, grad_gates
