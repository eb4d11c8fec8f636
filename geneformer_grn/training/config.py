"""What a pretraining run is asked to do: frozen, typed, read from TOML, every unknown key refused.

A config file is the record of a run, so a typo must not pass in silence: an unknown key stops the run and the
nearest known key is named. The resolved config, defaults included, is written beside every output.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from geneformer_grn.training import toml_config
from geneformer_grn.training.toml_config import read_toml_config


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ModelSection(_Section):
    """The shape of the encoder, a plain ``BertForMaskedLM``."""

    n_layers: int = Field(default=4, ge=1)
    hidden_size: int = Field(default=128, ge=1)
    n_heads: int = Field(default=4, ge=1)
    ffn_size: int = Field(default=512, ge=1)
    activation: Literal["gelu", "relu"] = "gelu"
    dropout: float = Field(
        default=0.02, ge=0.0, lt=1.0, description="of hidden states; attention dropout is always 0"
    )
    initializer_range: float = Field(default=0.02, gt=0.0)
    start_from: str | None = Field(
        default=None,
        description="checkpoint to go on from, of this shape and the corpus' vocabulary; None: what follows",
    )
    output_bias: Literal["zeros", "frequencies"] = Field(
        default="frequencies", description="start of the head's bias: 0, or log frequencies in the corpus"
    )
    embeddings: Literal["random", "components"] = Field(
        default="random", description="start of the gene embeddings: random, or a decomposition of the corpus"
    )
    positions: Literal["random", "waves"] = Field(
        default="random", description="start of the position embeddings: random, or sines and cosines"
    )

    @model_validator(mode="after")
    def _heads_divide_hidden(self) -> ModelSection:
        if self.hidden_size % self.n_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of n_heads {self.n_heads}")
        return self

    @property
    def shape(self) -> dict[str, Any]:
        """The part that `ModelConfig` takes."""
        return self.model_dump(exclude={"start_from", "output_bias", "embeddings", "positions"})


class DataSection(_Section):
    """Which cells, and how they become batches."""

    corpus: Path = Field(description="corpus folder written by `geneformer-grn tokenize`")
    validation: Path | None = Field(
        default=None, description="held-out corpus folder, of the same vocabulary"
    )
    token_budget: int = Field(default=16_384, ge=1, description="tokens in one packed batch of one process")
    mask_rate: float = Field(default=0.15, gt=0.0, lt=1.0)
    keep: float = Field(
        default=0.1, ge=0.0, le=1.0, description="share of the chosen tokens left as they are"
    )
    random: float = Field(
        default=0.1, ge=0.0, le=1.0, description="share of the chosen tokens replaced at random"
    )
    curriculum: tuple[tuple[float, int], ...] = Field(
        default=(), description="pairs (until, length): up to so many epochs, cells are cropped to the length"
    )
    balance: str | None = Field(
        default=None, description="column of the corpus (tissue, say) whose groups come more evenly"
    )
    evenness: float = Field(
        default=0.5, ge=0.0, le=1.0, description="with balance: 0 as the corpus is, 1 every group equally"
    )

    @model_validator(mode="after")
    def _shares_fit(self) -> DataSection:
        if self.keep + self.random > 1.0:
            raise ValueError(
                f"keep {self.keep} and random {self.random} are shares and add up to more than 1"
            )
        return self

    @model_validator(mode="after")
    def _stages_ascend(self) -> DataSection:
        ends = [until for until, _ in self.curriculum]
        shortest = min((length for _, length in self.curriculum), default=3)
        if sorted(set(ends)) != ends or min(ends, default=1.0) <= 0 or shortest < 3:
            raise ValueError(
                "curriculum takes pairs (epochs, length) with rising epochs above 0 and lengths of at least "
                f"3, found {self.curriculum}"
            )
        return self


class OptimSection(_Section):
    """Optimizer and learning rate; weight decay is decoupled and on matrices only."""

    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw", description="muon: for the matrices of the layers, beside AdamW for the rest"
    )

    lr: float = Field(
        default=1e-3, gt=0.0, description="peak learning rate, reached at the end of the warm-up"
    )
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = Field(default=1e-8, gt=0.0)
    weight_decay: float = Field(default=0.01, ge=0.0)
    decay_embeddings: bool = Field(default=False, description="weight decay on the embeddings, too")
    warmup_steps: int = Field(default=200, ge=0)
    schedule: Literal["cosine", "linear", "wsd"] = "cosine"
    decay_share: float = Field(
        default=0.2, gt=0.0, le=1.0, description="of wsd: share of the steps in which the rate falls"
    )
    final_lr_share: float = Field(default=0.0, ge=0.0, le=1.0, description="learning rate at the end / peak")
    clip_norm: float = Field(default=1.0, gt=0.0, description="largest global gradient norm")
    accumulation: int = Field(default=1, ge=1, description="packed batches of one process in one step")
    cell_loss: float = Field(
        default=0.0, ge=0.0, description="weight of guessing the hidden genes from the cell's embedding alone"
    )


class RunSection(_Section):
    """How long, on what, and what is kept."""

    epochs: float | None = Field(
        default=None, gt=0.0, description="passes over the corpus; or give max_steps"
    )
    max_steps: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**31)
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    attention: Literal["auto", "varlen", "flex", "buckets", "segments"] = Field(
        default="auto", description="auto: on a GPU the fastest, by a measurement at the start"
    )
    activation_checkpointing: bool = Field(
        default=False, description="less memory for a third more arithmetic"
    )
    sharding: Literal["none", "fsdp2"] = Field(
        default="none", description="fsdp2: weights and moments spread over the processes"
    )
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads of one process; default: torch's choice"
    )
    log_every: int = Field(
        default=10, ge=1, description="steps between two reads of the metrics off the device"
    )
    validate_every: int = Field(default=1_000, ge=1)
    validation_cells: int = Field(
        default=2_000, ge=1, description="cells of the held-out corpus that are scored"
    )
    checkpoint_every: int = Field(default=500, ge=1)
    keep_last: int = Field(default=2, ge=1)
    max_minutes: float | None = Field(
        None, gt=0.0, description="save, and end, after so long; --resume goes on"
    )
    tracker: Literal["off", "wandb", "tensorboard"] = "off"
    export_dtype: Literal["float32", "float16"] = Field(
        default="float32", description="how the exported weights are stored; they load as float32"
    )

    @model_validator(mode="after")
    def _one_length(self) -> RunSection:
        if (self.epochs is None) == (self.max_steps is None):
            raise ValueError("give either run.epochs or run.max_steps")
        return self

    @field_validator("sharding", mode="before")
    @classmethod
    def _none_is_a_word_here(cls, value: Any) -> Any:
        return "none" if value is None else value  # --set reads a bare none as "unset"

    @model_validator(mode="after")
    def _compiles(self) -> RunSection:
        if self.compile and self.attention == "buckets":
            raise ValueError("attention 'buckets' takes other shapes with every batch and cannot be compiled")
        return self


class PretrainConfig(_Section):
    """One pretraining run: ``[model]``, ``[data]``, ``[optim]`` and ``[run]`` of a TOML file."""

    model: ModelSection = ModelSection()
    data: DataSection
    optim: OptimSection = OptimSection()
    run: RunSection

    @model_validator(mode="after")
    def _optimizer_can_be_sharded(self) -> PretrainConfig:
        if self.run.sharding != "none" and self.optim.optimizer == "muon":
            raise ValueError("optim.optimizer 'muon' needs whole matrices; set run.sharding=none or adamw")
        return self


# What may differ when a run is resumed: the steps made so far would have been the same, or (a longer or
# shorter run) differ in nothing but the learning rate's decline.
# Paths may too: the corpora are compared by their content (see `checkpoints.require_same_run`).
HARMLESS_KEYS = frozenset(
    {
        "data.corpus",
        "data.validation",
        "run.epochs",
        "run.max_steps",
        "attention",
        "batches a step",
        "optim.accumulation",
        "run.activation_checkpointing",
        "run.attention",
        "run.device",
        "run.threads",
        "run.log_every",
        "run.validate_every",
        "run.validation_cells",
        "run.checkpoint_every",
        "run.keep_last",
        "run.sharding",
        "run.max_minutes",
        "run.tracker",
        "run.export_dtype",
    }
)

# What may differ besides when a run branches off: the learning rates before the branch are compared instead.
SCHEDULE_KEYS = frozenset({"optim.schedule", "optim.decay_share", "optim.final_lr_share"})


def read_config(path: Path | str, overrides: Sequence[str] = ()) -> PretrainConfig:
    """Read a config file and lay ``key=value`` overrides over it.

    Parameters
    ----------
    path
        TOML file with the sections of `PretrainConfig`. Relative paths in it are taken from the working
        directory, as on the command line.
    overrides
        ``section.key=value``, the value as TOML writes it; what is no TOML is taken as a string, and the
        bare word ``none`` unsets an optional key. An override of ``run.max_steps`` takes ``run.epochs``
        away, and the other way round.

    Returns
    -------
    The checked config.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is no TOML, a key is unknown (the nearest known one is named), or a value does not fit.
    """
    rivals = {"run.epochs": "max_steps", "run.max_steps": "epochs"}
    return read_toml_config(path, PretrainConfig, overrides, rivals=rivals)


def flat_config(config: PretrainConfig) -> dict[str, Any]:
    """Return `config` as one level of ``section.key``; paths as names: outputs record no folders.

    A model to start from has the name of its folder, that of a run the name of the run.
    """
    flat = {
        f"{section}.{key}": value.name if isinstance(value, Path) else value
        for section, keys in config.model_dump().items()
        for key, value in keys.items()
    }
    start = config.model.start_from
    if start is not None and Path(start).is_dir():  # else a shipped name or a Hugging Face id
        folder = Path(start).absolute()
        of_run = folder.name in ("model", "best") and (folder.parent / "run.json").is_file()
        flat["model.start_from"] = folder.parent.name if of_run else folder.name
    return flat


def known_keys() -> list[str]:
    """Return every ``section.key`` that a config may hold."""
    return toml_config.known_keys(PretrainConfig)
