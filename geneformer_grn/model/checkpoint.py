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
