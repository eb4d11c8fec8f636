"""Attention over packed cells: many cells of different lengths in one row, none of which sees another.

Packing wastes no work on padding, but BERT cannot see it in ``position_ids``: without ``cu_seqlens`` cells
would attend to each other in silence. So the function registered here refuses to run without it. Which
kernel runs is the choice of an :class:`~geneformer_grn.model.layout.AttentionLayout`; without one it is
PyTorch's variable-length kernel on CUDA (bf16/fp16), on CPU a loop of flash-attention calls over the cells,
wrapped as one operator that ``torch.compile(fullgraph=True)`` sees through, and elsewhere the same loop in
plain PyTorch. None has attention dropout: packed training needs ``attention_probs_dropout_prob = 0``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from geneformer_grn.model.layout import AttentionLayout, attend_buckets, attend_flex

PACKED_ATTENTION = (
    "geneformer_grn_packed"  # no "flash" in the name: transformers would look for a kernel on the hub
)


class AttentionCapture(Protocol):
    """What receives queries and keys while the encoder runs, one cell and layer at a time.

    The receiver computes what it needs of the probabilities ``softmax(scaling * query @ key.mT)`` itself, in
    chunks of queries if it likes: the full attention matrices of a batch are never held.
    """

    def add(self, layer_index: int, segment: int, query: Tensor, key: Tensor, scaling: float) -> None:
        """Take one cell's queries and keys of one layer.

        Parameters
        ----------
        layer_index
            Encoder layer, counted from 0 at the input.
        segment
            Which cell of the packed batch: row of ``cu_seqlens`` and of ``cell_index``.
        query, key
            ``(H, L, D)`` for heads, tokens of the cell, head size; views, to be read before returning.
        scaling
            Factor of the dot products.
        """


def register_attention() -> None:
    """Register the packed attention with ``transformers``; doing so again is harmless."""
    AttentionInterface.register(PACKED_ATTENTION, attend_packed)


def attend_packed(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within each cell of a packed row, in the signature of ``transformers``' attention functions.

    Parameters
    ----------
    module
        The attention module that calls (named in messages).
    query, key, value
        ``(1, H, T, D)``; fp32, bf16 or fp16.
    attention_mask
        Must be None: a packed row has no padding.
    scaling
        Factor of the dot products; must be ``D ** -0.5`` (the CUDA kernel has no other with positional
        arguments).
    dropout
        Must be 0.
    **kwargs
        ``cu_seqlens`` ``(N+1,)`` int32, where cells start and end; repeated entries are empty cells.
        ``max_seqlen`` int, at least the longest cell. Optionally ``layout`` (an `AttentionLayout` of this
        batch), and ``capture`` (an `AttentionCapture`) with ``layer_index``.

    Returns
    -------
    tuple
        The output ``(1, T, H, D)``, and None for the attention weights, which are never formed.

    Raises
    ------
    ValueError
        ``cu_seqlens`` or ``max_seqlen`` is missing, a mask or dropout is given, or there is more than one
        row.
    """
    cu_seqlens, max_seqlen = kwargs.get("cu_seqlens"), kwargs.get("max_seqlen")
    if cu_seqlens is None or max_seqlen is None:
        raise ValueError(
            f"{type(module).__name__} runs with packed attention, but cu_seqlens or max_seqlen is missing: "
            "the cells of "
            "the batch would attend to each other. Pass both from the PackedBatch, or load the model without "
            f"attn_implementation={PACKED_ATTENTION!r}."
        )
    if attention_mask is not None or query.shape[0] != 1:
        raise ValueError(
            f"packed attention takes one row without attention_mask, got {query.shape[0]} rows"
            f"{'' if attention_mask is None else ' and a mask'}; pack the cells with cells.batches.pack"
        )
    if dropout != 0.0:
        raise ValueError(
            f"packed attention has no attention dropout, the model asks for {dropout}; set "
            "config.attention_probs_dropout_prob to 0 to train it (in eval mode it is off anyway)"
        )
    # By hand and not by math.isclose, which cannot be traced once two models made the scaling a symbol.
    if scaling is not None and abs(scaling * query.shape[-1] ** 0.5 - 1.0) > 1e-6:
        raise ValueError(f"packed attention scales by head_size**-0.5, the model asks for {scaling}")
    if kwargs.get("capture") is not None:
        q_thd, k_thd = query[0].transpose(0, 1), key[0].transpose(0, 1)
        _capture_segments(kwargs["capture"], kwargs["layer_index"], q_thd, k_thd, cu_seqlens)
    return attend_layout(query, key, value, cu_seqlens, max_seqlen, layout=kwargs.get("layout")), None


def attend_layout(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    layout: AttentionLayout | None,
) -> Tensor:
    """Return the attention output ``(1, T, H, D)`` of ``(1, H, T, D)`` inputs, by the kernel of `layout`.

    Parameters
    ----------
    query, key, value
        ``(1, H, T, D)``.
    cu_seqlens, max_seqlen
        As in `attend_packed`.
    layout
        Of this batch (`make_layout`). None: the variable-length kernel on CUDA in half precision, else
        segments.
    """
    is_half = query.device.type == "cuda" and query.dtype in (torch.bfloat16, torch.float16)
    kind = layout.kind if layout is not None else "varlen" if is_half else "segments"
    if layout is not None and kind == "flex":
        return attend_flex(query, key, value, layout).transpose(1, 2)
    # (1, H, T, D) is a transposed view of the contiguous (1, T, H, D): this undoes it without a copy.
    q_thd, k_thd, v_thd = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if layout is not None and kind == "buckets":
        output_thd = attend_buckets(q_thd, k_thd, v_thd, layout)
    elif kind == "varlen":
        from torch.nn.attention.varlen import varlen_attn

        # Positional only: the keywords differ between PyTorch versions.
        output_thd = cast(
            "Tensor", varlen_attn(q_thd, k_thd, v_thd, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen)
        )
    elif query.device.type == "cpu":
        output_thd, _ = packed_attention_cpu(q_thd, k_thd, v_thd, cu_seqlens)
    else:
        output_thd = _attend_segments(q_thd, k_thd, v_thd, cu_seqlens)
    return output_thd.unsqueeze(0)


def _lse_dtype(query: Tensor) -> torch.dtype:
    """Return the dtype the CPU kernel keeps the log-sum-exp in: float32, or float64 for float64."""
    return torch.promote_types(query.dtype, torch.float32)


@torch.library.custom_op("geneformer_grn::packed_attention", mutates_args=(), device_types="cpu")
def packed_attention_cpu(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the attention output ``(T, H, D)`` and the log-sum-exp ``(T, H)`` of each query, cell by cell.

    `query`, `key`, `value` are ``(T, H, D)``; `cu_seqlens` is ``(N+1,)`` int32 and ends at ``T``. The flash
    kernels are called by their own names because only so the log-sum-exp comes out, without which the
    backward pass would have to run the forward one again.
    """
    output = query.new_empty(query.shape)
    logsumexp = query.new_empty(query.shape[:2], dtype=_lse_dtype(query))
    for rows, shape in _equal_length_runs(cu_seqlens, query.shape[0]):
        part, part_logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            _batched(query[rows], shape), _batched(key[rows], shape), _batched(value[rows], shape)
        )
        _batched(output[rows], shape).copy_(part)
        _batched(logsumexp[rows], shape).copy_(part_logsumexp)
    return output, logsumexp


@packed_attention_cpu.register_fake
def _packed_attention_shapes(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor
) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), query.new_empty(query.shape[:2], dtype=_lse_dtype(query))


@torch.library.custom_op("geneformer_grn::packed_attention_backward", mutates_args=(), device_types="cpu")
def packed_attention_backward_cpu(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    logsumexp: Tensor,
    cu_seqlens: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `query`, `key` and `value`, all ``(T, H, D)``, given that of the output."""
    gradients = tuple(query.new_empty(query.shape) for _ in range(3))
    for rows, shape in _equal_length_runs(cu_seqlens, query.shape[0]):
        grad_part, *parts = (
            _batched(tensor[rows], shape) for tensor in (grad, query, key, value, output, logsumexp)
        )
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad_part, *parts, dropout_p=0.0, is_causal=False
        )
        for gradient, part in zip(gradients, found, strict=True):
            _batched(gradient[rows], shape).copy_(part)
    return gradients[0], gradients[1], gradients[2]


@packed_attention_backward_cpu.register_fake
def _packed_attention_backward_shapes(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    logsumexp: Tensor,
    cu_seqlens: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), query.new_empty(query.shape), query.new_empty(query.shape)


def _save_for_backward(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _grad_logsumexp: Tensor | None) -> tuple[Tensor, Tensor, Tensor, None]:
    query, key, value, cu_seqlens, output, logsumexp = ctx.saved_tensors
    return *packed_attention_backward_cpu(grad, query, key, value, output, logsumexp, cu_seqlens), None


packed_attention_cpu.register_autograd(_backward, setup_context=_save_for_backward)


def _equal_length_runs(cu_seqlens: Tensor, n_tokens: int) -> Iterator[tuple[slice, tuple[int, int]]]:
    """Yield ``(rows, (n_cells, length))`` for each run of neighbouring cells of equal length, none empty.

    One kernel call then serves the whole run: sorted inference batches and copies of one cell (perturbation)
    mostly consist of such runs.
    """
    offsets = (
        cu_seqlens.tolist()
    )  # on a GPU this waits for the device, which the variable-length kernel avoids
    if offsets[0] != 0 or offsets[-1] != n_tokens:
        raise ValueError(
            f"cu_seqlens runs from {offsets[0]} to {offsets[-1]}, the batch has {n_tokens} tokens"
        )
    start = run_length = 0
    for left, right in itertools.pairwise(offsets):
        if right - left != run_length:
            if run_length:
                yield slice(start, left), ((left - start) // run_length, run_length)
            start, run_length = left, right - left
    if run_length:
        yield slice(start, n_tokens), ((n_tokens - start) // run_length, run_length)


def _batched(rows: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return rows ``(n * L, H, ...)`` as the view ``(n, H, L, ...)``."""
    return rows.unflatten(0, shape).transpose(1, 2)


def _attend_segments(query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Return the attention output ``(T, H, D)``, cell by cell, on any device and differentiable."""
    parts = [
        functional.scaled_dot_product_attention(
            _batched(query[rows], shape), _batched(key[rows], shape), _batched(value[rows], shape)
        )
        .transpose(1, 2)
        .flatten(0, 1)
        for rows, shape in _equal_length_runs(cu_seqlens, query.shape[0])
    ]
    return torch.cat(parts)


def _capture_segments(
    capture: AttentionCapture, layer_index: int, query: Tensor, key: Tensor, cu_seqlens: Tensor
) -> None:
    """Hand every non-empty cell's ``(H, L, D)`` queries and keys to `capture`."""
    offsets = cu_seqlens.tolist()
    scaling = query.shape[-1] ** -0.5
    for segment, (left, right) in enumerate(itertools.pairwise(offsets)):
        if right > left:
            capture.add(
                layer_index,
                segment,
                query[left:right].transpose(0, 1),
                key[left:right].transpose(0, 1),
                scaling,
            )
