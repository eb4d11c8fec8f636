"""Attention within cells on a CPU, as one operator that ``torch.compile(fullgraph=True)`` sees through.

Two ways, chosen by the dtype. In fp32 (and fp64) PyTorch's flash kernel runs once for each run of equally
long cells. In bf16 that kernel is hardly faster than in fp32, since it leaves a processor's bfloat16 units
half idle. Plain matrix products fill them: the scores of some queries at a time are formed, few enough for
the cache, and formed anew in the backward pass. The price is that scores are rounded to bf16, as unfused
attention under autocast rounds them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

SCORES = 1 << 21  # formed at a time: 4 MB in bf16, and as much again of probabilities


def by_products(query: Tensor) -> bool:
    """Return whether matrix products attend: for bf16, on a processor that multiplies it."""
    return query.dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _room_for_logsumexp(query: Tensor) -> Tensor:
    """Return ``(T, H)`` for what the flash kernel keeps for its backward pass; ``(0,)`` for products."""
    shape = (0,) if by_products(query) else query.shape[:2]
    return query.new_empty(shape, dtype=torch.promote_types(query.dtype, torch.float32))


@torch.library.custom_op("geneformer_grn::packed_attention", mutates_args=(), device_types="cpu")
def packed_attention_cpu(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the attention output ``(T, H, D)`` and the log-sum-exp ``(T, H)`` of each query, cell by cell.

    `query`, `key`, `value` are ``(T, H, D)``; `cu_seqlens` is ``(N+1,)`` int32 and ends at ``T``. The flash
    kernels are called by their own names because only so the log-sum-exp comes out, without which the
    backward pass would have to run the forward one again. Products leave it empty.
    """
    output, logsumexp = query.new_empty(query.shape), _room_for_logsumexp(query)
    products = by_products(query)
    for rows, shape in equal_length_runs(cu_seqlens, query.shape[0]):
        inputs = [batched(tensor[rows], shape) for tensor in (query, key, value)]
        if products:
            _attend_by_products(inputs, batched(output[rows], shape))
            continue
        part, part_logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*inputs)
        batched(output[rows], shape).copy_(part)
        batched(logsumexp[rows], shape).copy_(part_logsumexp)
    return output, logsumexp


@packed_attention_cpu.register_fake
def _packed_attention_shapes(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor
) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), _room_for_logsumexp(query)


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
    products = by_products(query)
    for rows, shape in equal_length_runs(cu_seqlens, query.shape[0]):
        grad_part, *inputs = (batched(tensor[rows], shape) for tensor in (grad, query, key, value))
        found = [batched(gradient[rows], shape) for gradient in gradients]
        if products:
            _gradients_by_products(grad_part, inputs, found)
            continue
        kept = [batched(tensor[rows], shape) for tensor in (output, logsumexp)]
        parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad_part, *inputs, *kept, dropout_p=0.0, is_causal=False
        )
        for gradient, part in zip(found, parts, strict=True):
            gradient.copy_(part)
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


def _attend_by_products(inputs: Sequence[Tensor], output: Tensor) -> None:
    """Write ``softmax(query @ key.mT / sqrt(D)) @ value`` to `output`; all are ``(n, H, L, D)``."""
    for cells in _groups(output):
        query, key, value = (tensor[cells].flatten(0, 1) for tensor in inputs)
        found = torch.empty_like(query)
        for some, scores, probabilities in _parts(query):
            _softmax_of_products(query[:, some], key, scores, probabilities)
            found[:, some] = torch.bmm(probabilities, value)
        output[cells] = found.view(output[cells].shape)


def _gradients_by_products(grad: Tensor, inputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    """Write the gradients of query, key and value to `gradients`; all are ``(n, H, L, D)``."""
    for cells in _groups(grad):
        slope, query, key, value = (tensor[cells].flatten(0, 1) for tensor in (grad, *inputs))
        of_query = torch.empty_like(query)
        full = torch.promote_types(key.dtype, torch.float32)
        of_key, of_value = (torch.zeros(key.shape, dtype=full) for _ in range(2))
        for some, scores, probabilities in _parts(query):
            _softmax_of_products(query[:, some], key, scores, probabilities)
            of_value += torch.bmm(probabilities.mT, slope[:, some])
            torch.bmm(slope[:, some], value.mT, out=scores)
            torch.ops.aten._softmax_backward_data.out(
                scores, probabilities, -1, scores.dtype, grad_input=scores
            )
            of_query[:, some] = torch.bmm(scores, key)
            of_key += torch.bmm(scores.mT, query[:, some])
        scaling = query.shape[-1] ** -0.5
        for gradient, part in zip(gradients, (of_query * scaling, of_key * scaling, of_value), strict=True):
            gradient[cells] = part.view(gradient[cells].shape)


def _softmax_of_products(query: Tensor, key: Tensor, scores: Tensor, probabilities: Tensor) -> None:
    """Write ``softmax(query @ key.mT / sqrt(D))`` to `probabilities`, by way of `scores`.

    The operator's own name, since autocast would take ``torch.softmax`` in float32 and back.
    """
    torch.baddbmm(scores, query, key.mT, beta=0, alpha=query.shape[-1] ** -0.5, out=scores)
    torch.ops.aten._softmax.out(scores, -1, False, out=probabilities)  # noqa: FBT003 - has no keyword


def _groups(tensor: Tensor) -> Iterator[slice]:
    """Yield the cells of ``(n, H, L, D)`` whose scores are formed together: short ones share a product."""
    n_cells, n_heads, length, _ = tensor.shape
    size = max(1, SCORES // (n_heads * length * length))
    for start in range(0, n_cells, size):
        yield slice(start, start + size)


def _parts(query: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield some queries of ``(n * H, L, D)`` at a time, with room for their scores and probabilities.

    The room is the same each time: fresh memory costs as much as the product that fills it.
    """
    n_rows, length, _ = query.shape
    size = min(length, max(16, SCORES // (n_rows * length)))
    room = query.new_empty(2, n_rows * size * length)
    for start in range(0, length, size):
        some = slice(start, min(start + size, length))
        shape = (n_rows, some.stop - start, length)
        scores, probabilities = (part[: math.prod(shape)].view(shape) for part in room)
        yield some, scores, probabilities


def equal_length_runs(cu_seqlens: Tensor, n_tokens: int) -> Iterator[tuple[slice, tuple[int, int]]]:
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


def batched(rows: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return rows ``(n * L, H, ...)`` as the view ``(n, H, L, ...)``."""
    return rows.unflatten(0, shape).transpose(1, 2)
