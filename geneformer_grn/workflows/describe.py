"""What is this? A checkpoint, a vocabulary, a corpus or an edge table, described without loading its bulk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from geneformer_grn._runtime import sha256_file
from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.cells.corpora.facts import corpus_facts
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.network.edges import read_edges, read_universe


def describe(target: str | Path) -> dict[str, Any]:
    """Return the facts of a checkpoint, vocabulary, corpus or edge table.

    Parameters
    ----------
    target
        A shipped name, a Hugging Face id on disk, a folder (judged by the files it holds) or a file of edges.

    Returns
    -------
    dict
        ``type`` (``checkpoint``, ``vocabulary``, ``corpus`` or ``edges``), then plain facts.

    Raises
    ------
    FileNotFoundError
        There is no such thing.
    ValueError
        It is none of the four, or damaged.

    Examples
    --------
    >>> describe("mini")["n_layers"]  # doctest: +SKIP
    4
    """
    path = Path(target)
    if path.is_file():
        return _describe_edges(path)
    if (path / "manifest.json").is_file():
        return _describe_corpus(path)
    if (path / "vocabulary.json").is_file() and not (path / "config.json").is_file():
        facts = _vocabulary_facts(GeneVocabulary.load(path))
        return {"type": "vocabulary", "path": str(path.resolve()), **facts}
    return _describe_checkpoint(target)


def _vocabulary_facts(vocabulary: GeneVocabulary) -> dict[str, Any]:
    return {
        "setting": vocabulary.setting,
        "n_genes": len(vocabulary) - vocabulary.n_special,
        "n_regulators": int(vocabulary.is_regulator.sum()),
        "max_length": vocabulary.max_length,
        "vocabulary_fingerprint": vocabulary.fingerprint,
    }


def _describe_checkpoint(target: str | Path) -> dict[str, Any]:
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from geneformer_grn.model.folder import read_model_config, read_vocabulary, resolve_checkpoint

    folder = resolve_checkpoint(target)
    vocabulary = read_vocabulary(folder)
    config = read_model_config(folder, vocabulary)
    with torch.device("meta"):  # counts the weights without making them
        model = BertForMaskedLM(BertConfig(**config))
    return {
        "type": "checkpoint",
        "name": folder.name if Path(target).is_dir() else str(target),
        "path": str(folder.resolve()),
        "n_layers": model.config.num_hidden_layers,
        "hidden_size": model.config.hidden_size,
        "n_heads": model.config.num_attention_heads,
        "ffn_size": model.config.intermediate_size,
        "activation": model.config.hidden_act,
        "n_parameters": sum(weight.numel() for weight in model.parameters()),
        "weights_sha256": sha256_file(folder / "model.safetensors")[:16],
        **_vocabulary_facts(vocabulary),
    }


def _describe_corpus(path: Path) -> dict[str, Any]:
    facts = corpus_facts(Corpus.open(path))
    return {
        "type": "corpus",
        "path": facts["path"],
        "n_cells": facts["n_cells"],
        "n_tokens": facts["n_tokens"],
        "mean_length": facts["mean_length"],
        "longest": facts["longest"],
        "columns": ", ".join(column["name"] for column in facts["columns"]),
        "files": ", ".join(entry["name"] for entry in facts["files"]),
        "setting": facts["vocabulary"]["setting"],
        "vocabulary_fingerprint": facts["vocabulary"]["fingerprint"],
        "read_with": " or ".join(facts["open_with"]),
        "more": f"geneformer-grn corpus info {path.name}",
    }


def _describe_edges(path: Path) -> dict[str, Any]:
    edges = read_edges(path)
    universe = read_universe(path)
    facts: dict[str, Any] = {
        "type": "edges",
        "n_edges": len(edges),
        "n_sources": int(edges["source"].nunique()),
        "n_targets": int(edges["target"].nunique()),
    }
    for column in ("method", "group"):
        if column in edges.columns:
            counts = edges[column].value_counts(sort=False)
            facts[f"edges_by_{column}"] = ", ".join(f"{name}: {count:,}" for name, count in counts.items())
    if universe is not None:
        facts["n_regulators_scored"] = len(universe.regulators)
        facts["n_targets_scored"] = len(universe.targets)
    return facts
