"""Attention over packed cells: many cells of different lengths in one row, none of which sees another.

Packing wastes no work on padding, but BERT cannot see it in ``position_ids``: without ``cu_seqlens`` cells
would attend to each other in silence. So the function registered here refuses to run without it. Which
kernel runs is the choice of an :class:`~geneformer_grn.model.layout.AttentionLayout`; without one it is
PyTorch's variable-length kernel on CUDA (bf16/fp16), on CPU the operator of `attention_cpu`, and elsewhere a
loop over the cells in plain PyTorch. None has attention dropout: packed training needs
``attention_probs_dropout_prob = 0``.
"""

from __future__ import annotations

import itertools
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from geneformer_grn.model.attention_cpu import batched, equal_length_runs, packed_attention_cpu
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


def _attend_segments(query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Return the attention output ``(T, H, D)``, cell by cell, on any device and differentiable."""
    parts = [
        functional.scaled_dot_product_attention(
            batched(query[rows], shape), batched(key[rows], shape), batched(value[rows], shape)
        )
        .transpose(1, 2)
        .flatten(0, 1)
        for rows, shape in equal_length_runs(cu_seqlens, query.shape[0])
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
