"""Checkpoint folders: plain Hugging Face BERT files plus the vocabulary that says what the tokens mean.

Everything a folder holds loads without this package: ``config.json`` and ``model.safetensors`` by
``AutoModel*``, the tokenizer files by ``AutoTokenizer``. ``genes.tsv`` and ``vocabulary.json`` are ours, and
without them a folder is refused: the same token number means other genes elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM
from transformers.activations import ACT2FN
from transformers.utils import logging as transformers_logging

from geneformer_grn._runtime import atomic_path
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.model.attention import PACKED_ATTENTION, register_attention
from geneformer_grn.model.tokenizer import write_tokenizer

SHIPPED = Path(__file__).resolve().parent.parent / "_checkpoints"
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of a new encoder. The vocabulary adds the number of tokens and of positions.

    Parameters
    ----------
    n_layers, hidden_size, n_heads, ffn_size
        Layers, width, attention heads and width of the feed-forward part.
    activation
        ``gelu`` (ours), ``relu`` (published Geneformer), or another name that ``transformers`` knows.
    dropout
        Of hidden states in training. Attention has none, since packed attention cannot.
    initializer_range
        Standard deviation of the initial weights.
    """

    n_layers: int
    hidden_size: int
    n_heads: int
    ffn_size: int
    activation: str = "gelu"
    dropout: float = 0.02
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        for name in ("n_layers", "hidden_size", "n_heads", "ffn_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.hidden_size % self.n_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of n_heads {self.n_heads}")
        if self.activation not in ACT2FN:
            raise ValueError(f"activation {self.activation!r} is unknown; use gelu or relu")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")


def new_model(config: ModelConfig, vocabulary: GeneVocabulary, *, seed: int) -> BertForMaskedLM:
    """Return a freshly initialised BERT with packed attention, in train mode, float32, on the CPU.

    The initial weights depend on `seed` only, and the global random state is left as it was.
    """
    register_attention()
    bert = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=config.hidden_size,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        intermediate_size=config.ffn_size,
        hidden_act=config.activation,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=vocabulary.max_length,
        type_vocab_size=2,
        initializer_range=config.initializer_range,
        layer_norm_eps=1e-12,
        pad_token_id=vocabulary.special("<pad>"),
    )
    bert._attn_implementation = PACKED_ATTENTION
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BertForMaskedLM(bert).train()


def save_checkpoint(
    model: BertForMaskedLM,
    vocabulary: GeneVocabulary,
    folder: Path | str,
    *,
    dtype: Literal["float32", "float16"] = "float32",
    extra_files: Mapping[str, str] | None = None,
) -> None:
    """Write a checkpoint folder, all of it or nothing; an existing folder is replaced.

    Parameters
    ----------
    model
        The BERT, not wrapped (no compile, no distributed wrapper).
    vocabulary
        Its vocabulary.
    folder
        Where to write ``config.json``, ``model.safetensors``, the tokenizer files and the vocabulary files.
    dtype
        How weights are stored. The config says float32 either way, so float16 files load as float32.
    extra_files
        File name -> text, written beside them (a training config, a log).

    Raises
    ------
    ValueError
        The model and the vocabulary differ in size.
    """
    if model.config.vocab_size != len(vocabulary):
        raise ValueError(
            f"the model has {model.config.vocab_size:,} tokens, the vocabulary {len(vocabulary):,}: they do "
            "not belong together"
        )
    stored = torch.float16 if dtype == "float16" else torch.float32
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        weights = temporary / "model.safetensors"
        save_file(_untied_weights(model, stored), weights, metadata={"format": "pt"})
        weights.chmod(0o666 & ~_umask())  # safetensors makes it readable for its owner only
        (temporary / "config.json").write_text(json.dumps(_plain_config(model), indent=2) + "\n")
        vocabulary.save(temporary)
        write_tokenizer(vocabulary, temporary)
        for name, text in (extra_files or {}).items():
            (temporary / name).write_text(text, encoding="utf-8")


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _untied_weights(model: BertForMaskedLM, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the weights by name; the decoder is stored once, as the token embedding it is tied to."""
    weights: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, weight in model.state_dict().items():
        if weight.data_ptr() not in seen:
            seen.add(weight.data_ptr())
            weights[name] = weight.detach().to("cpu", dtype).contiguous()
    return weights


def _plain_config(model: BertForMaskedLM) -> dict[str, Any]:
    """Return the config as JSON that any ``transformers`` reads: no attention function of ours, no path."""
    config = model.config.to_dict()
    kept = {key: value for key, value in config.items() if value is not None and not key.startswith("_")}
    return kept | {"architectures": ["BertForMaskedLM"], "dtype": "float32"}


def resolve_checkpoint(name: str | Path) -> Path:
    """Return the folder of a checkpoint: a shipped name, else a folder, else a Hugging Face id on disk.

    A shipped name wins over a folder of that name; write ``./mini`` for the folder.

    Raises
    ------
    FileNotFoundError
        None of the three exists. Nothing is ever downloaded.
    NotADirectoryError
        It is a file.
    """
    shipped = sorted(path.name for path in SHIPPED.iterdir() if path.is_dir()) if SHIPPED.is_dir() else []
    if str(name) in shipped:
        return SHIPPED / str(name)
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise NotADirectoryError(f"a checkpoint is a folder, {folder} is a file")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(name), local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(
            f"no checkpoint {str(name)!r}: it is not a shipped name "
            f"({', '.join(shipped) or 'none in this installation'}), "
            "not a folder, and not a Hugging Face id on this disk (nothing is downloaded; use hf download "
            "first)"
        ) from error


def read_vocabulary(folder: Path) -> GeneVocabulary:
    """Return the vocabulary of a checkpoint folder.

    Raises
    ------
    FileNotFoundError
        There is none: the message names ``import-geneformer``, which makes one for published checkpoints.
    ValueError
        Its files are damaged or do not belong together.
    """
    return GeneVocabulary.load(folder)


def read_model_config(folder: Path, vocabulary: GeneVocabulary) -> dict[str, Any]:
    """Return ``config.json`` of a checkpoint folder, checked against its vocabulary.

    Raises
    ------
    FileNotFoundError
        ``config.json`` or the weights are missing.
    ValueError
        It is not a BERT, or its numbers of tokens or positions do not fit the vocabulary.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a checkpoint: config.json is missing")
    if not any((folder / name).is_file() for name in WEIGHT_FILES):
        raise FileNotFoundError(f"{folder} holds no weights: model.safetensors is missing")
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        model_type, n_tokens = config["model_type"], config["vocab_size"]
        n_positions = config["max_position_embeddings"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if model_type != "bert":
        raise ValueError(f"{folder} holds a {model_type!r} model; this package runs BERT checkpoints")
    if n_tokens != len(vocabulary):
        raise ValueError(
            f"the model in {folder} has {n_tokens:,} tokens, the vocabulary beside it {len(vocabulary):,}: "
            "they do not "
            "belong together; import the checkpoint again with the right --setting and --dictionaries"
        )
    if n_positions < vocabulary.max_length:
        raise ValueError(
            f"the model in {folder} has {n_positions:,} positions, its vocabulary allows cells of "
            f"{vocabulary.max_length:,} tokens"
        )
    return config


def load_weights(folder: Path) -> BertForMaskedLM:
    """Return the model of a folder in float32 with packed attention, in eval mode, on the CPU.

    Raises
    ------
    ValueError
        The files are damaged, do not fit the config, or lack weights of a masked-language model, which would
        then be random.
    """
    register_attention()
    try:
        with quiet_transformers():
            model, loading = cast("Any", BertForMaskedLM).from_pretrained(
                folder,
                attn_implementation=PACKED_ATTENTION,
                dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
            )
    # Damaged files fail in many ways inside safetensors, torch and transformers, with no common type.
    except Exception as error:
        raise ValueError(f"the weights in {folder} cannot be loaded: {error}") from error
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ValueError(
            f"{folder} is no masked-language model: {len(missing)} of its weights are missing (first: "
            f"{missing[0]}), so they would be random; a pretrained model is needed, not a fine-tuned one"
        )
    return cast("BertForMaskedLM", model.eval())


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence ``transformers``' loading bars and reports: we raise on what they would say."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
