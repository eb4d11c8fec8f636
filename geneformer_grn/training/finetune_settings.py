"""What fine-tuning is asked to do: frozen, typed, every unknown key refused; sections of a TOML file."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Mode = Literal["full", "frozen", "top", "lora"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class FinetuneModel(_Section):
    """Which encoder, and how much of it learns."""

    checkpoint: str = Field(default="mini", description="shipped name, folder, or Hugging Face id on disk")
    mode: Mode = Field(
        default="full", description="frozen: heads alone; top: the last layers; lora: low-rank changes"
    )
    top_layers: int = Field(default=2, ge=1, description="of mode top: layers that learn")
    lora_rank: int = Field(default=8, ge=1)
    lora_alpha: float = Field(
        default=16.0, gt=0.0, description="changes are scaled by lora_alpha / lora_rank"
    )
    encoder_layer: int = Field(
        default=0,
        le=0,
        description="layer whose states the heads read: 0 the last, -1 the one before; the "
        "layers above are left out of the model that learns",
    )
    pooling: Literal["mean", "cls", "attention"] = "mean"
    heads: Literal["auto", "fitted", "steps"] = Field(
        default="auto",
        description="fitted: begin at the penalised optimum on pretrained states (frozen: and end there); "
        "where layers learn, lower rates and no dropout keep it; steps: begin with small random weights; "
        "auto: fitted where the encoder is frozen and pooling is mean",
    )
    max_length: int | None = Field(
        default=None, ge=3, description="longest model input; None: the vocabulary's"
    )
    dropout: float = Field(default=0.1, ge=0.0, lt=1.0, description="of what the heads read")
    quantised: Literal["none", "8bit", "4bit"] = Field(
        default="none", description="layers that do not learn, in so many bits; needs a CUDA GPU"
    )

    @model_validator(mode="after")
    def _quantised_does_not_learn(self) -> FinetuneModel:
        if self.quantised != "none" and self.mode not in {"frozen", "lora"}:
            raise ValueError(f"quantised layers cannot learn: mode {self.mode!r} needs quantised 'none'")
        return self

    @model_validator(mode="after")
    def _heads_can_be_fitted(self) -> FinetuneModel:
        if self.heads == "fitted" and self.pooling != "mean":
            raise ValueError(
                f"a head with pooling {self.pooling!r} has no optimum that can be computed: heads 'fitted' "
                "needs pooling 'mean', or set heads to 'steps'"
            )
        return self

    @property
    def fits_heads(self) -> bool:
        """Whether heads begin at their optimum on the pretrained states."""
        if self.heads == "auto":
            return self.mode == "frozen" and self.pooling == "mean"
        return self.heads == "fitted"


class FinetuneOptim(_Section):
    """How it learns, and for how long."""

    lr: float = Field(default=1e-3, gt=0.0, description="peak learning rate of the encoder's last layer")
    head_lr: float = Field(default=5e-3, gt=0.0, description="peak learning rate of the heads")
    layer_decay: float = Field(
        default=1.0, gt=0.0, le=1.0, description="each layer below learns so many times as fast"
    )
    weight_decay: float = Field(default=0.01, ge=0.0)
    warmup: float = Field(default=0.1, ge=0.0, le=1.0, description="share of the steps")
    schedule: Literal["cosine", "linear", "constant"] = "linear"
    clip: float = Field(default=1.0, gt=0.0, description="largest global gradient norm")
    epochs: int = Field(default=5, ge=1)
    min_steps: int | None = Field(
        default=None,
        ge=0,
        description="more epochs where the training set gives fewer steps; None: 200, or 1,000 where states "
        "are pooled once and a step costs next to nothing",
    )
    token_budget: int = Field(default=4_096, ge=1, description="tokens in one packed batch")
    accumulation: int = Field(default=1, ge=1, description="packed batches of one process in one step")
    patience: int | None = Field(
        default=3, ge=1, description="validations without a better one before it ends; None: never"
    )
    stop_on: Literal["score", "loss"] = Field(
        default="score", description="score: macro-F1 of classes, R2 of values, quadratic kappa of grades"
    )
    validation_cells: int = Field(
        default=2_000, ge=1, description="of gene tasks: cells a gene's prediction is averaged over"
    )
    gene_dropout: float = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        description="share of a cell's genes hidden in training, drawn anew each time",
    )
    class_weights: Literal["none", "balanced"] = "none"
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    gamma: float = Field(default=2.0, ge=0.0, description="of the focal loss")
    sampling: Literal["random", "balanced"] = Field(
        default="random", description="balanced: classes of the first cell task come equally often"
    )
    precision: Literal["fp32", "bf16"] = "fp32"
    task_weighting: Literal["fixed", "uncertainty"] = "fixed"


class FinetuneSettings(_Section):
    """Both sections together, as `finetune` takes them."""

    model: FinetuneModel = FinetuneModel()
    optim: FinetuneOptim = FinetuneOptim()
