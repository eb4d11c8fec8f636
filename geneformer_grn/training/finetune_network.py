"""The part that learns: which weights of the encoder do, the heads, and one loss for a packed batch.

``full``: all; ``top``: the last layers, the rest runs without gradients as in inference; ``lora``: low-rank
changes of the attention's query and value maps (Hu et al. 2021), through peft; ``frozen``: the heads alone.
The caller's encoder is never changed: what learns is a copy.
"""

from __future__ import annotations

import contextlib
import copy
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from geneformer_grn._runtime import Precision, logger
from geneformer_grn.cells.packing import PackedBatch
from geneformer_grn.model.encoder import Encoder
from geneformer_grn.model.heads import HeadSpec, TaskHead, embed_tokens, run_layers
from geneformer_grn.training.finetune_data import Lesson
from geneformer_grn.training.finetune_loss import joined_loss, unit_losses
from geneformer_grn.training.finetune_quantised import QuantisedEncoder, dequantised, quantised
from geneformer_grn.training.finetune_settings import FinetuneModel, FinetuneOptim, FinetuneSettings


class Network(nn.Module):
    """Encoder and heads as one module, whose forward is a batch's loss: what gradients are exchanged of.

    Parameters
    ----------
    encoder
        With weights that may be changed (frozen: that are not).
    lessons
        What is learnt.
    settings
        Mode, losses, dropout.
    factors
        ``(n_tasks,)`` fixed weights of the tasks.
    seed
        Of the heads' first weights.
    """

    def __init__(
        self,
        encoder: Encoder,
        lessons: tuple[Lesson, ...],
        settings: FinetuneSettings,
        *,
        factors: Tensor,
        seed: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.settings = settings
        self.specs = tuple(lesson.spec for lesson in lessons)
        mode = settings.model.mode
        if mode != "frozen":  # the masked-language head has no part in it
            self.bert = cast("nn.Module", encoder.model.bert)
        self.n_frozen = frozen_layers(encoder, settings.model)
        self.heads = new_heads(self.specs, encoder.hidden_size, dropout=settings.model.dropout, seed=seed)
        self.log_variances = nn.Parameter(
            torch.zeros(len(lessons)), requires_grad=settings.optim.task_weighting == "uncertainty"
        )
        self.register_buffer("factors", factors)
        self.to(encoder.device)

    @property
    def learns_encoder(self) -> bool:
        """Whether any weight of the encoder is trained."""
        return self.settings.model.mode != "frozen"

    def states(self, batch: PackedBatch) -> Tensor:
        """Return the last layer's states ``(T, d)`` float32 of a batch on the device, with gradients."""
        encoder = self.encoder
        if not self.learns_encoder:
            return encoder.hidden_states(batch, encoder_layer=0).clone()
        with autocast(encoder.device, encoder.precision):
            if self.n_frozen:
                embedded = encoder.inference.embed(batch.input_ids[0], batch.position_ids[0])
                lower = range(self.n_frozen)
                with torch.no_grad():
                    embedded = encoder.inference.run(
                        embedded, batch.cu_seqlens, batch.max_seqlen, layers=lower
                    )
                embedded = embedded[None]
            else:
                embedded = embed_tokens(encoder.model, batch)
            return run_layers(encoder.model, embedded, batch, first=self.n_frozen)[0].float()

    def pooled(self, batch: PackedBatch, rows: list[Tensor | None]) -> list[Tensor]:
        """Return what each head reads of a batch; of genes only the tokens in `rows`."""
        states, n_special = self.states(batch), self.encoder.vocabulary.n_special
        return [
            cast("TaskHead", head).pool(states, batch, n_special) if row is None else states[row]
            for head, row in zip(self.heads, rows, strict=True)
        ]

    def forward(
        self,
        batch: PackedBatch | None,
        rows: list[Tensor | None],
        asked: list[tuple[Tensor, Tensor]],
        divisors: list[float],
        pooled: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the batch's part of the step's loss, and each task's part of its mean loss, detached.

        Parameters
        ----------
        batch, rows
            As in `pooled`; of no meaning where `pooled` is given already.
        asked
            For each task targets ``(n,)`` and weights ``(n,)`` of the rows that its head reads.
        divisors
            For each task the weight of the whole step; 0: nothing is asked in it.
        pooled
            What each head reads.
        """
        if pooled is None:
            pooled = self.pooled(cast("PackedBatch", batch), rows)
        losses, shares = [], []
        for head, states, (targets, weights), divisor in zip(
            self.heads, pooled, asked, divisors, strict=True
        ):
            each = unit_losses(cast("TaskHead", head), head(states), targets, self.settings.optim)
            losses.append((each * weights).sum() / max(divisor, 1e-12))
            shares.append(weights.sum() / max(divisor, 1e-12))
        stacked = torch.stack(losses)
        total = joined_loss(
            stacked, self.specs, factors=cast("Tensor", self.factors), log_variances=self.log_variances,
            shares=torch.stack(shares), weighting=self.settings.optim.task_weighting,
        )  # fmt: skip
        return total, stacked.detach()


def encoder_to_train(encoder: Encoder, chosen: FinetuneModel) -> Encoder:
    """Return the encoder without the layers above the one that the heads read.

    Raises
    ------
    ValueError
        There is no such layer, none would be left, or there are fewer than are asked to learn.
    """
    if not -encoder.n_layers < chosen.encoder_layer <= 0:
        raise ValueError(
            f"encoder_layer {chosen.encoder_layer} leaves no layer of {encoder.name!r}: heads read "
            f"its layers 0 (the last) to {1 - encoder.n_layers} (the first)"
        )
    below = f" up to encoder_layer {chosen.encoder_layer}" if chosen.encoder_layer else ""
    lower = encoder.up_to(chosen.encoder_layer)
    if chosen.mode == "top" and chosen.top_layers > lower.n_layers:
        raise ValueError(
            f"top_layers is {chosen.top_layers}, but {encoder.name!r} has {lower.n_layers} layers{below}"
        )
    return lower


def trainable_copy(
    encoder: Encoder, settings: FinetuneSettings, device: torch.device, *, seed: int
) -> Encoder:
    """Return the encoder to train on `device`; a copy unless it is frozen.

    Raises
    ------
    ValueError
        Quantised layers are asked for without a CUDA GPU.
    ModuleNotFoundError
        peft or bitsandbytes is asked for and not installed.
    """
    mode, chosen = settings.model.mode, settings.model
    precision: Precision = settings.optim.precision
    if chosen.quantised != "none":
        held = quantised(replace(encoder, precision=precision), chosen.quantised, device)
        held.model.requires_grad_(requires_grad=False)
        if mode == "lora":
            add_lora(held.model, chosen, seed=seed)
        return held
    if mode == "frozen":
        model = encoder.model if encoder.device == device else copy.deepcopy(encoder.model)
        return replace(encoder, model=cast("Any", model).to(device), device=device, precision=precision)
    model = cast("Any", copy.deepcopy(encoder.model)).to(device)
    if _attention_dropout_off(model):
        logger.info("attention dropout is off: packed attention has none")
    for name, weight in model.bert.named_parameters():
        layer = layer_of(name, encoder.n_layers)
        weight.requires_grad_(
            mode == "full" or (mode == "top" and layer >= encoder.n_layers - chosen.top_layers)
        )
    if mode == "lora":
        add_lora(model, chosen, seed=seed)
    return replace(encoder, model=model, device=device, precision=precision)


def add_lora(model: nn.Module, settings: FinetuneModel, *, seed: int) -> None:
    """Put low-rank changes on the query and value maps of every layer, in place; only they learn.

    Half of their first weights is drawn from `seed`, the other half is zero: nothing is changed yet.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'mode lora needs peft; install it with pip install "geneformer-grn[lora]"'
        ) from error
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=cast("int", settings.lora_alpha),
        target_modules=["query", "value"],
        lora_dropout=0.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, cast("Any", model).bert)


def merged(encoder: Encoder) -> Encoder:
    """Return the encoder with low-rank changes taken into a copy of its weights; as it is without any."""
    if isinstance(encoder, QuantisedEncoder) or not has_lora(encoder):
        return replace(encoder)
    model = copy.deepcopy(encoder.model)
    for parent in list(cast("Any", model).modules()):
        for name, child in list(parent.named_children()):
            if hasattr(child, "lora_A"):
                adapted = cast("Any", child)
                adapted.merge(safe_merge=True)
                setattr(parent, name, adapted.get_base_layer())
    return replace(encoder, model=model)


def original_model(encoder: Encoder) -> nn.Module:
    """Return the model that training begins with; of quantised layers the one they were made of."""
    return cast("Encoder", encoder.original).model if isinstance(encoder, QuantisedEncoder) else encoder.model


def has_lora(encoder: Encoder) -> bool:
    """Return whether low-rank changes lie beside the weights."""
    return any(hasattr(module, "lora_A") for module in encoder.model.modules())


def finished(encoder: Encoder) -> Encoder:
    """Return the encoder as its user gets it: merged, in full precision, in eval mode."""
    done = dequantised(encoder) if isinstance(encoder, QuantisedEncoder) else merged(encoder)
    done.model.eval()
    return done


def frozen_layers(encoder: Encoder, settings: FinetuneModel) -> int:
    """Return how many layers, from the embedding on, run without gradients."""
    return encoder.n_layers - settings.top_layers if settings.mode == "top" else 0


def new_heads(specs: tuple[HeadSpec, ...], hidden_size: int, *, dropout: float, seed: int) -> nn.ModuleList:
    """Return heads with first weights that depend on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = nn.ModuleList(TaskHead(spec, hidden_size, dropout=dropout) for spec in specs)
        for head in heads:
            nn.init.normal_(cast("TaskHead", head).classifier.weight, std=0.02)
            nn.init.zeros_(cast("TaskHead", head).classifier.bias)
    return heads


def parameter_groups(network: Network, settings: FinetuneOptim) -> list[dict[str, Any]]:
    """Return groups for AdamW, each with its ``peak`` rate: lower layers slower, decay on matrices only."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    n_layers = network.encoder.n_layers
    tables = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
    for name, weight in network.named_parameters():
        if not weight.requires_grad:
            continue
        peak = settings.head_lr
        if name.startswith("bert."):
            peak = settings.lr * settings.layer_decay ** (n_layers - 1 - layer_of(name, n_layers))
        decays = weight.ndim >= 2 and id(weight) not in tables
        groups.setdefault((peak, settings.weight_decay if decays else 0.0), []).append(weight)
    return [
        {"params": weights, "peak": peak, "lr": peak, "weight_decay": decay}
        for (peak, decay), weights in groups.items()
    ]


def layer_of(name: str, n_layers: int) -> int:
    """Return the layer that a weight of the encoder belongs to, -1 for the embeddings."""
    parts = name.split(".")
    return (
        int(parts[parts.index("layer") + 1])
        if "layer" in parts
        else -1
        if "embeddings" in parts
        else n_layers - 1
    )


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which matrix products run in `precision`."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _attention_dropout_off(model: nn.Module) -> bool:
    """Switch attention dropout off, which packed attention cannot do; return whether there was any."""
    found = False
    for layer in cast("Any", model).bert.encoder.layer:
        dropout = layer.attention.self.dropout
        found |= dropout.p > 0
        dropout.p = 0.0
    return found
