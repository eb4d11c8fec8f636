"""Annotating cells: by a labelled file or a fine-tuned model, with probabilities and ``unknown``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geneformer_grn._runtime import logger, package_version
from geneformer_grn.cells.counts import CellCounts, read_counts
from geneformer_grn.cells.ranking import rank_cells
from geneformer_grn.cells.reading import ReadSettings
from geneformer_grn.training.supervision import MISSING
from geneformer_grn.workflows.annotate_reference import labelled_reference, over_shared_genes
from geneformer_grn.workflows.embed import ModelSettings

if TYPE_CHECKING:
    from anndata import AnnData

    from geneformer_grn.evaluation.annotation import Annotation, AnnotationSettings
    from geneformer_grn.evaluation.label_data import LabelData
    from geneformer_grn.genes.vocabulary import GeneVocabulary
    from geneformer_grn.model.encoder import Encoder

UNKNOWN = "unknown"
_MIN_PROBABILITY = 0.5


@dataclass(frozen=True, kw_only=True)
class AnnotateOptions:
    """What annotating needs beside the cells.

    Parameters
    ----------
    label
        obs column of the reference, or name of the fine-tuned task.
    donors
        obs column of the reference with the donors; None: cells are divided without regard to them.
    max_reference
        Reference cells used at most, drawn so that rare classes are kept.
    min_cells
        Classes with fewer reference cells are left out.
    min_probability
        With a fine-tuned model, cells below it are unknown; with a labelled reference its own bar decides.
    read, read_reference
        How the two files are read.
    run
        Device and precision.
    """

    label: str
    donors: str | None = None
    max_reference: int = 10_000
    min_cells: int = 5
    min_probability: float = _MIN_PROBABILITY
    read: ReadSettings = field(default_factory=ReadSettings)
    read_reference: ReadSettings = field(default_factory=ReadSettings)
    run: ModelSettings = field(default_factory=ModelSettings)

    def __post_init__(self) -> None:
        if not 0 <= self.min_probability < 1:
            raise ValueError(f"min_probability must lie in [0, 1), got {self.min_probability}")


def annotate_adata(
    adata: AnnData,
    reference: AnnData | Path | str,
    options: AnnotateOptions,
    *,
    model: str | Path | Encoder | None = "mini",
    settings: AnnotationSettings | None = None,
) -> dict[str, Any]:
    """Annotate `adata` in place; see ``gg.tl.annotate`` for what is written where.

    Parameters
    ----------
    adata
        Cells with raw counts.
    reference
        Labelled cells with raw counts, or the folder of a fine-tuned model.
    options
        Column, limits, reading.
    model
        Whose embeddings may be used; None: expression alone. A fine-tuned folder brings its own.
    settings
        How labels are carried over from labelled cells.

    Returns
    -------
    dict
        What the annotation is worth, as written to ``uns``.

    Raises
    ------
    FileNotFoundError, ValueError
        Files cannot be read, share too few genes, or the reference holds too few labels.
    """
    if isinstance(reference, str | Path) and Path(reference).is_dir() and _is_finetuned(Path(reference)):
        names, scores, unknown, kept, report = _by_model(adata, Path(reference), options)
    else:
        names, scores, unknown, kept, report = _by_cells(adata, reference, options, model, settings)
    called = np.full(adata.n_obs, UNKNOWN, dtype=object)
    probability = np.full(adata.n_obs, np.nan)
    best = scores.argmax(axis=1)
    called[kept] = np.where(unknown, UNKNOWN, np.asarray(names, dtype=object)[best])
    probability[kept] = scores[np.arange(len(best)), best]
    column, table = f"predicted_{options.label}", f"probabilities_{options.label}"
    categories = [*names, *([UNKNOWN] if UNKNOWN not in names else [])]
    adata.obs[column] = pd.Categorical(called, categories=categories)
    adata.obs[f"probability_{options.label}"] = probability
    whole = np.full((adata.n_obs, len(names)), np.nan, dtype=np.float32)
    whole[kept] = scores
    adata.obsm[table] = pd.DataFrame(whole, index=adata.obs_names, columns=list(names))
    counts = pd.Series(called[kept]).value_counts()
    report |= {
        "package_version": package_version(), "label": options.label, "classes": list(names),
        "n_cells": len(kept), "called": {str(name): int(n) for name, n in counts.items()},
    }  # fmt: skip
    earlier = adata.uns.get("geneformer_grn", {})
    adata.uns["geneformer_grn"] = {**earlier, "annotate": _storable(report)}
    return report


def annotation_text(report: dict[str, Any]) -> str:
    """Return what an annotation is worth, for a reader."""
    lines = [
        f"{report['n_cells']:,} cells labelled by {report['by']} ({report['features']}), "
        f"{report['share_unknown']:.1%} unknown"
    ]
    for name, card in report.get("candidates", {}).items():
        lines.append(
            f"  held-out reference cells, by {name}: accuracy {card['accuracy']:.3f}, macro-F1 "
            f"{card['macro_f1']:.3f}" + (" (taken)" if name == report["features"] else "")
        )
    if found := report.get("left_out_found"):
        shares = ", ".join(f"{name} {share:.0%}" for name, share in found.items())
        lines.append(f"  called unknown when the reference lacked the class: {shares}")
    return "\n".join(lines)


def _is_finetuned(folder: Path) -> bool:
    from geneformer_grn.model.head_files import is_finetuned

    if is_finetuned(folder):
        return True
    raise ValueError(
        f"{folder.name} is a folder, but no fine-tuned model; give labelled cells (.h5ad), or what "
        "`geneformer-grn finetune` wrote"
    )


def _by_model(
    adata: AnnData, folder: Path, options: AnnotateOptions
) -> tuple[Sequence[str], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
    """Return classes, probabilities, what is unknown, rows and report, by a fine-tuned model."""
    from geneformer_grn.evaluation.calibration import with_temperature
    from geneformer_grn.model.head_files import load_finetuned, read_record

    model = load_finetuned(folder, device=options.run.device, precision=options.run.precision)
    offered = [spec for spec in model.specs if spec.level == "cell" and spec.classes]
    chosen = next((spec for spec in offered if spec.name == options.label), None)
    if chosen is None:
        names = ", ".join(spec.name for spec in offered) or "none"
        raise ValueError(
            f"{folder.name} predicts no classes of cells called {options.label!r}; it has: {names}"
        )
    counts = read_counts(adata, model.encoder.vocabulary, options.read, name="the cells")
    scores = model.predict(rank_cells(counts, model.encoder.vocabulary), tasks=[chosen.name])[chosen.name]
    calibration = read_record(folder).get("calibration", {}).get(chosen.name, {})
    temperature = float(calibration.get("temperature", 1.0))
    if not calibration:
        logger.warning("%s holds no calibration; probabilities are as the model gives them", folder.name)
    scores = with_temperature(scores, temperature)
    unknown = scores.max(axis=1) < options.min_probability
    report = {
        "by": folder.name, "features": "fine-tuned model", "temperature": temperature,
        "min_probability": options.min_probability, "share_unknown": float(unknown.mean()),
    }  # fmt: skip
    return chosen.classes, scores, unknown, np.asarray(counts.kept), report


def _by_cells(
    adata: AnnData, reference: AnnData | Path | str, options: AnnotateOptions,
    model: str | Path | Encoder | None, settings: AnnotationSettings | None,
) -> tuple[Sequence[str], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:  # fmt: skip
    """Return classes, probabilities, what is unknown, rows and report, by labelled cells."""
    from geneformer_grn.evaluation.annotation import AnnotationSettings, annotate_cells

    encoder, vocabulary = _encoder(model, options.run)
    settings = settings or AnnotationSettings()
    known = read_counts(reference, vocabulary, options.read_reference, name=_name(reference))
    known, task, donors = labelled_reference(
        known, options.label, donors=options.donors, least=max(options.min_cells, settings.folds),
        most=options.max_reference, seed=settings.seed,
    )  # fmt: skip
    asked = read_counts(adata, vocabulary, options.read, name="the cells")
    joined, n_shared = over_shared_genes(known, asked)
    values = np.concatenate([task.values, np.full(len(asked), MISSING)])
    task = replace(task, values=values)
    groups = None if donors is None else np.concatenate([donors, np.full(len(asked), "")])
    query = np.arange(len(known), len(joined))
    data = _data(joined, vocabulary, encoder)
    if encoder is not None and settings.features != "expression":
        # Kept. In the first fold it would make the folds' bar guess five times the time.
        data.cell_embeddings(0)
    said: Annotation = annotate_cells(data, task, query, settings, groups=groups)
    empty = np.asarray(joined.n_counts)[query] == 0
    report = {
        "by": known.name, "n_reference": len(known), "n_genes_shared": n_shared,
        "donors": options.donors or "", "model": encoder.name if encoder is not None else "",
        "settings": asdict(settings), **said.report,
    }  # fmt: skip
    return task.classes, said.scores, said.unknown | empty, np.asarray(asked.kept), report


def _encoder(model: str | Path | Encoder | None, run: ModelSettings) -> tuple[Encoder | None, GeneVocabulary]:
    from geneformer_grn.model.folder import read_vocabulary, resolve_checkpoint

    if model is None:
        return None, read_vocabulary(resolve_checkpoint("mini"))
    from geneformer_grn.model.encoder import Encoder, load_encoder

    if not isinstance(model, Encoder):
        model = load_encoder(model, device=run.device, precision=run.precision)
    return model, model.vocabulary


def _name(reference: AnnData | Path | str) -> str:
    return Path(reference).name if isinstance(reference, str | Path) else "the reference"


def _data(counts: CellCounts, vocabulary: GeneVocabulary, encoder: Encoder | None) -> LabelData:
    from geneformer_grn.evaluation.label_data import LabelData

    return LabelData(
        counts=counts, ranked=rank_cells(counts, vocabulary), vocabulary=vocabulary, encoder=encoder
    )


def _storable(facts: dict[str, Any]) -> dict[str, Any]:
    """Return facts without None, nested tables as they are: what every AnnData version can write."""
    return {
        key: _storable(value) if isinstance(value, dict) else value
        for key, value in facts.items()
        if value is not None
    }
