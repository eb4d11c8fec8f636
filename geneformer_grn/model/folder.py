"""Where a checkpoint lies and what its folder says, before any of its weights are read.

Apart from ``checkpoint.py``, so that what needs the vocabulary only loads neither torch nor transformers:
that is seconds and hundreds of megabytes for a command that tokenises.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from geneformer_grn.genes.vocabulary import GeneVocabulary

SHIPPED = Path(__file__).resolve().parent.parent / "_checkpoints"
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


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
