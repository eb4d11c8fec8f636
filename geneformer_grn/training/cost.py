"""What a run costs in memory and hours, from shapes alone: nothing is allocated and no GPU is asked.

Memory counts what PyTorch's autograd keeps for the backward pass of a packed BERT, tensor by tensor, so
that it can be checked against autograd itself (and is). Not counted: the allocator's own losses, CUDA's
context and libraries (1 to 2 GB), communication buffers other than DDP's buckets. Hours follow from the
arithmetic and an assumed share of the GPU's peak (MFU); the assumption is returned with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from geneformer_grn.training.flops import H100_PEAK, training_operations

if TYPE_CHECKING:
    from geneformer_grn._runtime import Precision
    from geneformer_grn.training.config import ModelSection, PretrainConfig

__all__ = ["DEFAULT_MFU", "H100_PEAK", "estimate", "memory_by_part", "n_parameters", "operations_per_token"]

DEFAULT_MFU = 0.4
REFERENCE_TOKENS = {"v1": 25_426, "v2": 20_275}  # sizes of the reference's two vocabularies


def n_parameters(model: ModelSection, n_tokens: int, n_positions: int) -> int:
    """Return the number of weights of a ``BertForMaskedLM`` of this shape, its tied decoder counted once."""
    width, inner = model.hidden_size, model.ffn_size
    embeddings = (n_tokens + n_positions + 2) * width + 2 * width
    layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    head = width * width + 3 * width + n_tokens
    return embeddings + model.n_layers * layer + head


def operations_per_token(
    model: ModelSection, *, n_tokens: int, mean_length: float, mask_rate: float
) -> float:
    """Return the floating-point operations of a training step per token, see `flops.model_flops`.

    Parameters
    ----------
    model
        The shape.
    n_tokens
        Size of the vocabulary.
    mean_length
        Length of the cell of a mean token: ``sum(length ** 2) / sum(length)``.
    mask_rate
        Share of the tokens that are masked.
    """
    return training_operations(
        n_layers=model.n_layers, width=model.hidden_size, inner=model.ffn_size, vocabulary=n_tokens,
        n_tokens=1.0, squared=mean_length, n_masked=mask_rate,
    )  # fmt: skip


def memory_by_part(
    model: ModelSection,
    *,
    n_tokens: int,
    n_positions: int,
    token_budget: int,
    mask_rate: float,
    precision: Precision,
    optimizer: Literal["adamw", "muon"] = "adamw",
    shards: int | None = None,
) -> dict[str, int]:
    """Return the bytes that one process on a GPU holds in training, by part.

    Parameters
    ----------
    model
        The shape.
    n_tokens, n_positions
        Size of the vocabulary, longest input.
    token_budget
        Tokens of one packed batch.
    mask_rate
        Share of them that are masked.
    precision
        ``bf16``: autocast over fp32 weights; what it keeps as bfloat16 takes half.
    optimizer
        AdamW keeps two moments of every weight; Muon one of the layers' and the head's matrices, with
        AdamW for the rest.
    shards
        Processes that weights, gradients and moments are spread over (FSDP2); None: each holds all.

    Returns
    -------
    ``weights``, ``gradients``, ``adamw_state`` (the optimizer's moments, whichever it is; fp32),
    ``bf16_weights`` (autocast's copies, kept for the backward pass), ``ddp_buckets`` (a second copy of the
    gradients, with several processes that are not sharded), ``gathered`` (where they are: weights and
    gradients that are whole at a time, of embeddings and head, one layer and the next),
    ``activations`` (kept for the backward pass), ``activations_checkpointed`` (the same where every layer
    keeps its input alone and one layer at a time is computed again), ``head`` (working memory of a slice
    of the logits, of the transform before them, and of the gradient of the head's matrix).
    """
    from geneformer_grn.model.head_loss import SLICE_VALUES

    weights = n_parameters(model, n_tokens, n_positions)
    width, inner = model.hidden_size, model.ffn_size
    n_masked = round(token_budget * mask_rate)
    in_layers = model.n_layers * (4 * width * width + 2 * width * inner) + width * width
    moments = 2 * weights - (in_layers if optimizer == "muon" else 0)
    held = shards or 1
    no_layer = n_parameters(model.model_copy(update={"n_layers": 0}), n_tokens, n_positions)
    one_layer = (weights - no_layer) // model.n_layers
    half = precision == "bf16"
    layer = _layer_bytes_per_token(model, precision)
    embedding = (
        4 * width + 8 + 8 + (width if model.dropout else 0)
    )  # input of the norm, its statistics, positions
    return {
        "weights": 4 * weights // held,
        "gradients": 4 * weights // held,
        "adamw_state": 4 * moments // held,
        "bf16_weights": 2 * (in_layers + width * n_tokens) if half else 0,
        "ddp_buckets": 4 * weights if shards is None else 0,
        "gathered": 0 if shards is None else 8 * (no_layer + 2 * one_layer),
        "activations": token_budget * (model.n_layers * layer + embedding),
        "activations_checkpointed": token_budget * (model.n_layers * 4 * width + layer + embedding),
        "head": min(n_masked * n_tokens, SLICE_VALUES["cuda"]) * (10 if half else 8)
        + n_masked * (6 if half else 12) * width
        + n_tokens * (4 * width + 4 + (2 * width if half else 0)),
    }


def estimate(config: PretrainConfig, plan: dict[str, Any], *, mfu: float = DEFAULT_MFU) -> dict[str, Any]:
    """Return memory and hours of a planned run.

    Parameters
    ----------
    config
        What is asked.
    plan
        Of `geneformer_grn.training.plan`: ``vocabulary``, ``positions``, ``pflop`` and, if it is there,
        ``processes`` are read.
    mfu
        Share of the GPU's peak that the run is assumed to reach, counting what the result needs: what
        checkpointing computes again lowers it, to three quarters if nothing else changes.

    Returns
    -------
    ``memory_gb`` (1e9 bytes, by part and in all: ``total`` as the config asks, ``total_checkpointed`` with
    activation checkpointing), ``hours_1_h100``, ``hours_8_h100``, ``mfu`` and
    ``peak_tflops``, the assumptions of the hours.

    Raises
    ------
    ValueError
        `mfu` is no share.

    Examples
    --------
    >>> estimate(config, plan, mfu=0.5)["hours_1_h100"]  # doctest: +SKIP
    12.3
    """
    if not 0 < mfu <= 1:
        raise ValueError(f"the assumed MFU is {mfu}; it is a share of the peak, above 0 and at most 1")
    processes = plan.get("processes", 1)
    parts = memory_by_part(
        config.model,
        n_tokens=plan["vocabulary"],
        n_positions=plan["positions"],
        token_budget=config.data.token_budget,
        mask_rate=config.data.mask_rate,
        precision=config.run.precision,
        optimizer=config.optim.optimizer,
        shards=processes if config.run.sharding == "fsdp2" else None,
    )
    either = {"activations", "activations_checkpointed"} | ({"ddp_buckets"} if processes == 1 else set())
    fixed = sum(size for part, size in parts.items() if part not in either)
    checkpointed = fixed + parts["activations_checkpointed"]
    kept = checkpointed if config.run.activation_checkpointing else fixed + parts["activations"]
    totals = {"total": kept, "total_checkpointed": checkpointed}
    peak = H100_PEAK[config.run.precision]
    hours = plan["pflop"] * 1e15 / (peak * mfu) / 3600
    return {
        "memory_gb": {part: _rounded(size / 1e9) for part, size in {**parts, **totals}.items()},
        "hours_1_h100": _rounded(hours),
        "hours_8_h100": _rounded(hours / 8),
        "mfu": mfu,
        "peak_tflops": peak / 1e12,
    }


def _layer_bytes_per_token(model: ModelSection, precision: Precision) -> int:
    """Return the bytes per token that autograd keeps of one layer.

    Under autocast the norms stay fp32 and keep their fp32 inputs, and every matrix product keeps its own
    bfloat16 copy of what it multiplies.
    """
    width, inner = model.hidden_size, model.ffn_size
    norms = 2 * (4 * width + 8)  # inputs, mean and deviation
    logsumexp = 4 * model.n_heads
    n_inner = 2 if model.activation == "gelu" else 1  # gelu keeps its input besides its result
    # Inputs of query, key and value (one tensor in fp32), these three, attention's result, input of the feed-
    # forward part.
    n_wide = 8 if precision == "bf16" else 6
    dropout_masks = 2 * width if model.dropout else 0  # one byte an element
    size = 2 if precision == "bf16" else 4
    return norms + logsumexp + dropout_masks + size * (n_wide * width + n_inner * inner)


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
