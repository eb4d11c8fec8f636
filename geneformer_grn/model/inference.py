"""The layers of a BERT for inference alone: the same arithmetic as ``transformers``', with less around it.

No module calls, no autograd, no dropout; sums go into buffers that are there already; in bf16 the weights are
cast once and not in every batch. The residual stream and the norms stay in float32 in both precisions.
Training and attention capture go through the modules (`encoder.packed_states`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertForMaskedLM

from geneformer_grn.model.attention import attend_layout
from geneformer_grn.model.attention_cpu import equal_length_runs
from geneformer_grn.model.layout import AttentionLayout

_SCORES = (
    1 << 21
)  # scores (of all heads) held at once by the half-precision attention of a CPU: fits its cache


class Affine(NamedTuple):
    """A linear map: weight ``(out, in)`` and bias ``(out,)``."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, states: Tensor) -> Tensor:
        """Return ``(T, out)`` of states ``(T, in)``."""
        return functional.linear(states, self.weight, self.bias)

    def added_to(self, residual: Tensor, states: Tensor) -> Tensor:
        """Return ``residual + self(states)`` in float32."""
        if states.dtype != residual.dtype:
            return self(states).float().add_(residual)
        total = residual.clone() if self.bias is None else residual + self.bias
        return total.addmm_(states, self.weight.t())  # into what is there: one trip through memory less


@dataclass(frozen=True, eq=False)
class InferenceLayer:
    """One layer's weights, the linear ones in the precision of the matrix products."""

    query: Affine
    key: Affine
    value: Affine
    mix: Affine
    up: Affine
    down: Affine
    norms: tuple[nn.LayerNorm, nn.LayerNorm]
    activation: Callable[[Tensor], Tensor]

    def heads(self, states: Tensor, n_heads: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values ``(T, H, D)`` of float32 states ``(T, d)``."""
        rows = states.to(self.query.weight.dtype)
        return tuple(part(rows).unflatten(-1, (n_heads, -1)) for part in (self.query, self.key, self.value))  # type: ignore[return-value]

    def after_attention(self, states: Tensor, mixed: Tensor) -> Tensor:
        """Return the layer's float32 output ``(T, d)``, given its input and what attention made of it."""
        dtype = self.query.weight.dtype
        states = _norm(self.norms[0], self.mix.added_to(states, mixed.to(dtype)))
        hidden = self.activation(self.up(states.to(dtype)))
        return _norm(self.norms[1], self.down.added_to(states, hidden))


class InferenceLayers:
    """A model's embedding and layers, ready to run packed cells.

    Parameters
    ----------
    model
        On its device, weights in float32; in float32 they are shared and not copied.
    dtype
        Of the matrix products: float32, or bfloat16 (the weights are then copied once).
    """

    def __init__(self, model: BertForMaskedLM, dtype: torch.dtype) -> None:
        self.n_heads = int(model.config.num_attention_heads)
        self.dtype = dtype
        self._embeddings: Any = model.bert.embeddings
        self.layers = [_layer(layer, dtype) for layer in model.bert.encoder.layer]

    def embed(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Return the float32 embedding ``(T, d)`` of tokens ``(T,)`` at positions ``(T,)``."""
        tables = self._embeddings
        states = functional.embedding(input_ids, tables.word_embeddings.weight)
        states += tables.token_type_embeddings.weight[0]
        states += functional.embedding(position_ids, tables.position_embeddings.weight)
        return _norm(tables.LayerNorm, states)

    def run(
        self,
        states: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        *,
        layers: range,
        layout: AttentionLayout | None = None,
    ) -> Tensor:
        """Return float32 states ``(T, d)`` of packed cells after `layers`, given those before them.

        Parameters
        ----------
        states
            ``(T, d)`` float32.
        cu_seqlens, max_seqlen, layout
            As in `attention.attend_packed`.
        layers
            Which layers to run, neighbours in ascending order.
        """
        runs = None
        if states.device.type == "cpu":
            runs = list(equal_length_runs(cu_seqlens, len(states)))
        for number in layers:
            layer = self.layers[number]
            query, key, value = layer.heads(states, self.n_heads)
            if runs is None:
                q_bhtd, k_bhtd, v_bhtd = (part.transpose(0, 1)[None] for part in (query, key, value))
                mixed = attend_layout(q_bhtd, k_bhtd, v_bhtd, cu_seqlens, max_seqlen, layout=layout)
                mixed = mixed[0].flatten(1)
            else:
                mixed = attend_runs(query, key, value, runs)
            states = layer.after_attention(states, mixed)
        return states


def attend_runs(
    query: Tensor, key: Tensor, value: Tensor, runs: Sequence[tuple[slice, tuple[int, int]]]
) -> Tensor:
    """Return the attention output ``(T, H * D)`` of ``(T, H, D)`` inputs on a CPU, without a log-sum-exp.

    Parameters
    ----------
    query, key, value
        ``(T, H, D)``.
    runs
        Runs of equally long cells, rows and ``(n, L)`` each.
    """
    attend = _attend_half if query.dtype != torch.float32 else _attend_single
    parts = [
        attend(*(part[rows].unflatten(0, shape) for part in (query, key, value))) for rows, shape in runs
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _attend_single(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return ``(n * L, H * D)`` of ``(n, L, H, D)``, by the flash kernel."""
    output = functional.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    )
    return output.transpose(1, 2).reshape(-1, output.shape[1] * output.shape[3])


def _attend_half(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return ``(n * L, H * D)`` of ``(n, L, H, D)`` in half precision, by plain matrix products.

    A CPU's flash kernel gains nothing from bfloat16; products of a head's queries with all its keys do, as
    long as their scores stay in the cache.
    """
    n_cells, length, n_heads, size = query.shape
    block = -(-length // -(-length * length // _SCORES))  # equal blocks, none beyond it
    output = torch.empty_like(query)
    scores = query.new_empty((block, length))
    weights = torch.empty_like(scores)
    q_nhld, k_nhld, v_nhld = (part.transpose(1, 2).contiguous() for part in (query * size**-0.5, key, value))
    for cell, head in itertools.product(range(n_cells), range(n_heads)):
        keys, values = k_nhld[cell, head].t(), v_nhld[cell, head]
        for rows, written in zip(
            q_nhld[cell, head].split(block), output[cell, :, head].split(block), strict=True
        ):
            held = torch.mm(rows, keys, out=scores[: len(rows)])
            written.copy_(torch.mm(torch.softmax(held, dim=-1, out=weights[: len(rows)]), values))
    return output.view(n_cells * length, n_heads * size)


def _norm(norm: nn.LayerNorm, states: Tensor) -> Tensor:
    return functional.layer_norm(states, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _layer(layer: Any, dtype: torch.dtype) -> InferenceLayer:
    def affine(linear: nn.Linear) -> Affine:
        bias = None if linear.bias is None else linear.bias.detach().to(dtype)
        return Affine(linear.weight.detach().to(dtype), bias)

    activation = layer.intermediate.intermediate_act_fn
    return InferenceLayer(
        query=affine(layer.attention.self.query),
        key=affine(layer.attention.self.key),
        value=affine(layer.attention.self.value),
        mix=affine(layer.attention.output.dense),
        up=affine(layer.intermediate.dense),
        down=affine(layer.output.dense),
        norms=(layer.attention.output.LayerNorm, layer.output.LayerNorm),
        activation=torch.relu_ if isinstance(activation, nn.ReLU) else activation,
    )
