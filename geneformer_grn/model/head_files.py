"""Folders of fine-tuned models: plain Hugging Face where its classes can say it, else with heads of ours.

One cell task read at ``<cls>`` is a ``BertForSequenceClassification``, one gene task a
``BertForTokenClassification``; both load and predict without this package. Other heads (means, attention,
grades, several tasks) have no class there: then the folder is a ``BertForMaskedLM``, with
``heads.safetensors`` beside it. Every folder holds ``heads.json``: what the heads predict, and the record of
how they were made.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BertForMaskedLM, BertForSequenceClassification, BertForTokenClassification

from geneformer_grn._runtime import Precision, atomic_path, choose_device, plain_json
from geneformer_grn.model.attention import PACKED_ATTENTION, register_attention
from geneformer_grn.model.checkpoint import quiet_transformers, save_checkpoint
from geneformer_grn.model.encoder import Encoder
from geneformer_grn.model.folder import read_model_config, read_vocabulary, resolve_checkpoint
from geneformer_grn.model.heads import Finetuned, HeadSpec, TaskHead

Format = Literal["sequence", "token", "heads"]
SPECS_FILE = "heads.json"
WEIGHTS_FILE = "heads.safetensors"
_CLASSES: dict[str, Any] = {"sequence": BertForSequenceClassification, "token": BertForTokenClassification}


def folder_format(specs: tuple[HeadSpec, ...]) -> Format:
    """Return how a model with these heads is stored: by a class of Hugging Face's, or with heads of ours."""
    if len(specs) == 1 and specs[0].kind != "ordinal":
        if specs[0].level == "gene":
            return "token"
        if specs[0].pooling == "cls":
            return "sequence"
    return "heads"


def save_finetuned(model: Finetuned, folder: Path | str, *, record: Mapping[str, Any] | None = None) -> None:
    """Write a fine-tuned model as a folder, all of it or nothing; an existing folder is replaced.

    Parameters
    ----------
    model
        An encoder with its heads.
    folder
        Where to write ``config.json`` (with ``id2label``), ``model.safetensors``, tokenizer and vocabulary
        files, ``heads.json`` and, where no class of Hugging Face's has such heads, ``heads.safetensors``.
    record
        How it was made; kept in ``heads.json``, paths as names.
    """
    kind = folder_format(model.specs)
    heads = copy.deepcopy(model.heads).cpu()
    for head in heads:
        cast("TaskHead", head).fold()
    described = {
        "format": kind,
        "max_length": model.max_length,
        "heads": [asdict(spec) for spec in model.specs],
        "record": dict(record or {}),
    }
    extra = {SPECS_FILE: json.dumps(plain_json(described), indent=2) + "\n"}
    with atomic_path(folder) as temporary:
        if kind == "heads":
            save_checkpoint(model.encoder.model, model.encoder.vocabulary, temporary, extra_files=extra)
            save_file(_head_weights(heads), temporary / WEIGHTS_FILE, metadata={"format": "pt"})
            (temporary / WEIGHTS_FILE).chmod((temporary / "model.safetensors").stat().st_mode)
        else:
            plain = _plain_model(model, cast("TaskHead", heads[0]), kind)
            save_checkpoint(cast("Any", plain), model.encoder.vocabulary, temporary, extra_files=extra)
            _describe_labels(temporary / "config.json", model.specs[0], kind)
        if model.max_length is not None:
            _set_key(temporary / "tokenizer_config.json", "model_max_length", model.max_length)


def load_finetuned(folder: Path | str, *, device: str = "auto", precision: Precision = "fp32") -> Finetuned:
    """Load a folder that `save_finetuned` wrote, offline.

    Parameters
    ----------
    folder
        The folder, one of a run of ``geneformer-grn finetune`` that holds it, or a Hugging Face id on disk.
    device
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    precision
        ``fp32`` or ``bf16``.

    Returns
    -------
    Finetuned
        In eval mode, on the device.

    Raises
    ------
    FileNotFoundError
        There is no such folder, or it holds no heads.
    ValueError
        Its files are damaged or do not belong together, or device or precision are unknown.

    Examples
    --------
    >>> load_finetuned("runs/cell_type/model").specs[0].classes  # doctest: +SKIP
    ('B cells', 'CD14+ Monocytes', ...)
    """
    if precision not in {"fp32", "bf16"}:
        raise ValueError(f"precision {precision!r} is unknown; use fp32 or bf16")
    target, path = choose_device(device), resolve_checkpoint(_model_folder(folder))
    kind, specs, described = _read_specs(path)
    vocabulary = read_vocabulary(path)
    read_model_config(path, vocabulary)
    bert = _load_bert(path)
    heads = nn.ModuleList(TaskHead(spec, int(bert.config.hidden_size)) for spec in specs)
    try:
        stored = load_file(path / (WEIGHTS_FILE if kind == "heads" else "model.safetensors"))
        heads.load_state_dict(_standing(heads) | (stored if kind == "heads" else _from_plain(stored)))
    # Damaged files fail in several ways inside safetensors and torch, with no common type.
    except Exception as error:
        raise ValueError(f"the heads in {path} cannot be loaded: {error}") from error
    encoder = Encoder(
        model=cast("Any", bert).to(target), vocabulary=vocabulary, device=target, precision=precision,
        name=Path(folder).name,
    )  # fmt: skip
    return Finetuned(encoder, heads.to(target).eval(), specs, described.get("max_length"))


def read_record(folder: Path | str) -> dict[str, Any]:
    """Return the record that `save_finetuned` kept; raises as `load_finetuned` does."""
    return cast("dict[str, Any]", _read_specs(resolve_checkpoint(_model_folder(folder)))[2].get("record", {}))


def is_finetuned(folder: Path | str) -> bool:
    """Return whether a folder is a fine-tuned model of ours, or a run that holds one."""
    return (Path(_model_folder(folder)) / SPECS_FILE).is_file()


def _model_folder(folder: Path | str) -> Path | str:
    """Return the folder of the model where `folder` is that of a run with a model inside."""
    inside = Path(folder) / "model"
    return inside if (inside / SPECS_FILE).is_file() else folder


def _read_specs(folder: Path) -> tuple[Format, tuple[HeadSpec, ...], dict[str, Any]]:
    path = folder / SPECS_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no fine-tuned model: {SPECS_FILE} is missing; geneformer-grn finetune writes one"
        )
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        specs = tuple(HeadSpec(**{**spec, "classes": tuple(spec["classes"])}) for spec in described["heads"])
        return described["format"], specs, described
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _load_bert(folder: Path) -> BertForMaskedLM:
    """Return the encoder of a folder; its masked-language head may be missing, and is then of no meaning."""
    register_attention()
    try:
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            model, loading = cast("Any", BertForMaskedLM).from_pretrained(
                folder, attn_implementation=PACKED_ATTENTION, dtype=torch.float32, local_files_only=True,
                output_loading_info=True,
            )  # fmt: skip
    # Damaged files fail in many ways inside safetensors, torch and transformers, with no common type.
    except Exception as error:
        raise ValueError(f"the weights in {folder} cannot be loaded: {error}") from error
    missing = sorted(key for key in loading["missing_keys"] if not key.startswith("cls."))
    if missing:
        raise ValueError(f"{folder} lacks {len(missing)} weights of the encoder (first: {missing[0]})")
    return cast("BertForMaskedLM", model.eval())


def _plain_model(model: Finetuned, head: TaskHead, kind: Format) -> nn.Module:
    """Return the model as a class of Hugging Face's, on the CPU."""
    config = copy.deepcopy(model.encoder.model.config)
    config.num_labels = model.specs[0].n_outputs
    with torch.random.fork_rng(devices=[]):
        plain = _CLASSES[kind](config)
    weights = {f"bert.{name}": weight for name, weight in model.encoder.model.bert.state_dict().items()}
    weights |= {f"classifier.{name}": weight for name, weight in head.classifier.state_dict().items()}
    if head.dense is not None:
        weights |= {f"bert.pooler.dense.{name}": weight for name, weight in head.dense.state_dict().items()}
    plain.load_state_dict({name: weight.detach().cpu() for name, weight in weights.items()})
    return cast("nn.Module", plain)


def _from_plain(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of the one head of a Hugging Face class, by their names in a `TaskHead`."""
    names = {"classifier.": "0.classifier.", "bert.pooler.dense.": "0.dense."}
    return {
        name.replace(theirs, ours): weight
        for name, weight in stored.items()
        for theirs, ours in names.items()
        if name.startswith(theirs)
    }


def _head_weights(heads: nn.ModuleList) -> dict[str, Tensor]:
    standing = _standing(heads)
    return {name: weight.contiguous() for name, weight in heads.state_dict().items() if name not in standing}


def _standing(heads: nn.ModuleList) -> dict[str, Tensor]:
    """Return the standardisation of folded heads, which does nothing and is not stored."""
    return {name: buffer for name, buffer in heads.named_buffers() if name.endswith((".centre", ".scale"))}


def _describe_labels(path: Path, spec: HeadSpec, kind: Format) -> None:
    """Write architecture and labels into ``config.json``, as the class of Hugging Face's reads them."""
    content = json.loads(path.read_text(encoding="utf-8"))
    names = list(spec.classes) or [spec.name]
    content |= {
        "architectures": [_CLASSES[kind].__name__],
        "id2label": {str(place): name for place, name in enumerate(names)},
        "label2id": {name: place for place, name in enumerate(names)},
    }
    if kind == "sequence":
        is_value = spec.kind == "regression"
        content["problem_type"] = "regression" if is_value else "single_label_classification"
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _set_key(path: Path, key: str, value: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | {key: value}, indent=2) + "\n", encoding="utf-8")
