"""How the cells of one packed batch lie in its row, prepared once and read by the attention of every layer.

Four ways to attend within cells, all exact, for different machines. ``segments`` calls a kernel for each run
of equally long cells: best on a CPU. ``varlen`` is PyTorch's variable-length kernel (CUDA, bf16 or fp16).
``flex`` is flex attention with a document mask (CUDA; on a CPU forward only), the one that runs in fp32 at
full speed and needs batches of one shape. ``buckets`` pads cells to a few lengths for plain scaled
dot-product attention: it runs everywhere and wastes up to a third. Which of the CUDA ones is fastest depends
on GPU, head size and lengths, hence `measure_layouts`.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, flex_attention

LayoutKind = Literal["segments", "varlen", "flex", "buckets"]
_BLOCK = 128  # tokens of one block of flex attention's mask
_SHORTEST_BUCKET = 64


@dataclass(frozen=True, eq=False)
class AttentionLayout:
    """What one kind of attention needs to know of a batch.

    Parameters
    ----------
    kind
        Which attention.
    block_mask
        For ``flex``.
    gather
        For ``buckets``: ``(n_b, L_b)`` int64 each, places in the row of the cells of a bucket; what is
        padding points at the cell's first token.
    is_token
        For ``buckets``: ``(n_b, 1, 1, L_b)`` bool each, False at padding.
    restore
        For ``buckets``: ``(T,)`` int64, where each token of the row lies in the buckets laid end to end.
    """

    kind: LayoutKind
    block_mask: BlockMask | None = None
    gather: tuple[Tensor, ...] = ()
    is_token: tuple[Tensor, ...] = ()
    restore: Tensor | None = None


def make_layout(kind: LayoutKind, cu_seqlens: Tensor, n_tokens: int) -> AttentionLayout:
    """Prepare one batch for one kind of attention, on the device of `cu_seqlens`.

    Parameters
    ----------
    kind
        Which attention.
    cu_seqlens
        ``(N+1,)`` int32 boundaries of the cells.
    n_tokens
        Length of the row, `T`.
    """
    if kind == "flex":
        return AttentionLayout(kind, block_mask=document_mask(cu_seqlens, n_tokens))
    if kind == "buckets":
        return _bucket_layout(cu_seqlens, n_tokens)
    return AttentionLayout(kind)


def document_mask(cu_seqlens: Tensor, n_tokens: int) -> BlockMask:
    """Return flex attention's mask "same cell", straight from the boundaries.

    `create_block_mask` looks at all ``T * T`` pairs; here the blocks that a row of blocks touches follow from
    the first and last cell in it. Nothing waits for the device, and shapes depend on `n_tokens` only.

    Parameters
    ----------
    cu_seqlens
        ``(N+1,)`` int32 boundaries; empty cells are allowed.
    n_tokens
        Length of the row.
    """
    device = cu_seqlens.device
    cell_of = torch.searchsorted(cu_seqlens[1:], torch.arange(n_tokens, device=device), right=True)
    n_blocks = -(-n_tokens // _BLOCK)
    block = torch.arange(n_blocks, device=device)
    first, last = block * _BLOCK, (block * _BLOCK + _BLOCK - 1).clamp(max=n_tokens - 1)
    begin = cu_seqlens[cell_of[first]][:, None]  # of the first cell in a row of blocks
    end = cu_seqlens[cell_of[last] + 1][:, None]  # of the last one
    touched = (first < end) & (last >= begin)
    # A block is full where one cell covers all its rows and columns: then no element is masked.
    one_cell = (cell_of[first] == cell_of[last])[:, None]
    whole_rows = (last == first + _BLOCK - 1)[:, None]
    full = one_cell & whole_rows & (first >= begin) & (first + _BLOCK <= end)
    partial_counts, partial_blocks = _ordered(touched & ~full)
    full_counts, full_blocks = _ordered(full)

    def same_cell(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return cell_of[query] == cell_of[key]

    return BlockMask.from_kv_blocks(
        partial_counts, partial_blocks, full_counts, full_blocks,
        BLOCK_SIZE=_BLOCK, mask_mod=same_cell, seq_lengths=(n_tokens, n_tokens),
    )  # fmt: skip


def _ordered(dense: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many blocks of each row are set, and their columns first, as flex attention stores them."""
    columns = torch.argsort(dense.to(torch.int32), dim=-1, descending=True, stable=True)
    return dense.sum(dim=-1, dtype=torch.int32)[None, None], columns.to(torch.int32)[None, None]


def _bucket_layout(cu_seqlens: Tensor, n_tokens: int) -> AttentionLayout:
    device = cu_seqlens.device
    offsets = cu_seqlens.cpu().long()  # on a GPU this waits for the device, once a batch
    starts, lengths = offsets[:-1], offsets.diff()
    sizes = torch.tensor([_bucket_size(length) for length in lengths.tolist()])
    gather, is_token = [], []
    restore = torch.zeros(n_tokens, dtype=torch.int64)
    before = 0
    for size in sorted(set(sizes.tolist()) - {0}):
        chosen = sizes == size
        place = torch.arange(size)[None]
        real = place < lengths[chosen][:, None]
        rows = starts[chosen][:, None] + torch.where(real, place, 0)
        flat = before + torch.arange(rows.numel()).view(rows.shape)
        restore[rows[real]] = flat[real]
        before += rows.numel()
        gather.append(rows.to(device))
        is_token.append(real[:, None, None].to(device))
    return AttentionLayout("buckets", None, tuple(gather), tuple(is_token), restore.to(device))


def _bucket_size(length: int) -> int:
    """Return `length` rounded up to 64, 96, 128, 192, 256, 384, ...; 0 stays 0."""
    if length == 0:
        return 0
    size = _SHORTEST_BUCKET
    while size < length:
        size += size // 2 if size & (size - 1) == 0 else size // 3
    return size


def attend_buckets(query: Tensor, key: Tensor, value: Tensor, layout: AttentionLayout) -> Tensor:
    """Return the attention output ``(T, H, D)`` of ``(T, H, D)`` inputs, cells padded to a few lengths."""
    parts = []
    for rows, is_token in zip(layout.gather, layout.is_token, strict=True):
        q, k, v = (tensor[rows].transpose(1, 2) for tensor in (query, key, value))
        part = functional.scaled_dot_product_attention(q, k, v, attn_mask=is_token)
        parts.append(part.transpose(1, 2).flatten(0, 1))
    if layout.restore is None:
        raise ValueError("a bucket layout without its way back; make it with make_layout")
    return torch.cat(parts).index_select(0, layout.restore)


def attend_flex(query: Tensor, key: Tensor, value: Tensor, layout: AttentionLayout) -> Tensor:
    """Return the attention output ``(1, H, T, D)`` of ``(1, H, T, D)`` inputs by flex attention."""
    compiled = query.device.type == "cuda" and not torch.compiler.is_compiling()
    attend = _compiled_flex() if compiled else cast("Callable[..., Any]", flex_attention)
    output: Tensor = attend(query, key, value, block_mask=layout.block_mask)
    return output


@functools.cache
def _compiled_flex() -> Callable[..., Any]:
    # Uncompiled it would form all T * T scores.
    return torch.compile(flex_attention, dynamic=False)


def candidates(device: torch.device, dtype: torch.dtype) -> tuple[LayoutKind, ...]:
    """Return the kinds that can train on a device, the safest last."""
    if device.type != "cuda":
        return ("segments",)
    if dtype == torch.float32:
        return ("flex", "buckets")
    return ("varlen", "flex", "buckets")


def require_trainable(kind: LayoutKind, device: torch.device, dtype: torch.dtype, *, compiled: bool) -> None:
    """Raise unless a kind of attention can train as asked.

    Raises
    ------
    ValueError
        It has no kernel for the device or dtype, or cannot be compiled; the message names what can.
    """
    usable = {*candidates(device, dtype), "segments", "buckets"}
    if kind not in usable:
        wanted = "fp32" if dtype == torch.float32 else "bf16"
        raise ValueError(
            f"attention {kind!r} cannot train on {device.type} in {wanted}; usable there: "
            f"{', '.join(sorted(usable))}, or auto"
        )
    if compiled and (kind == "buckets" or (kind == "segments" and device.type != "cpu")):
        raise ValueError(
            f"attention {kind!r} takes other shapes with every batch, so it cannot be compiled; set "
            "run.compile=false, or run.attention=auto"
        )


def measure_layouts(
    kinds: Sequence[LayoutKind],
    cu_seqlens: Tensor,
    *,
    n_heads: int,
    head_size: int,
    dtype: torch.dtype,
    repeats: int = 5,
) -> dict[LayoutKind, float]:
    """Return the seconds of one layer's attention, forward and backward, for each kind that runs at all.

    Parameters
    ----------
    kinds
        What to try.
    cu_seqlens
        Boundaries of a typical batch, on the device.
    n_heads, head_size
        Shape of the model.
    dtype
        Of queries, keys and values.
    repeats
        Timed calls, of which the median is taken, after two that are not.
    """
    from geneformer_grn.model.attention import attend_layout

    n_tokens, device = int(cu_seqlens[-1]), cu_seqlens.device
    longest = int(cu_seqlens.diff().max())
    shape = (1, n_heads, n_tokens, head_size)
    query, key, value = (torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3))
    seconds: dict[LayoutKind, float] = {}
    for kind in kinds:
        layout = make_layout(kind, cu_seqlens, n_tokens)
        times = []
        try:
            for _ in range(repeats + 2):
                _wait_for(device)
                started = time.perf_counter()
                output = attend_layout(query, key, value, cu_seqlens, longest, layout=layout)
                torch.autograd.grad(output.sum(), (query, key, value))
                _wait_for(device)
                times.append(time.perf_counter() - started)
        # A kernel that a GPU does not have fails in its own way: RuntimeError, NotImplementedError, or one
        # of the compiler's exceptions, which share no type.
        except Exception:  # noqa: BLE001, S112
            continue
        seconds[kind] = statistics.median(times[2:])
    return seconds


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
