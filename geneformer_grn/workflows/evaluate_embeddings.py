"""``evaluate embeddings``: a model's cells beside variable genes, Harmony and an untrained copy.

A model earns its keep only where it beats what takes seconds: components of the variable genes, and those
corrected by Harmony. The untrained copy says what of its score the architecture has for nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geneformer_grn._runtime import Precision, library_versions, logger, write_json
from geneformer_grn.cells.counts import CellCounts, ReadSettings, log_normalised, read_counts
from geneformer_grn.cells.ranking import rank_cells

if TYPE_CHECKING:
    from anndata import AnnData

    from geneformer_grn.evaluation.integration import IntegrationData
    from geneformer_grn.model.encoder import Encoder

MODEL, PCA, PCA_HARMONY = "model", "hvg_pca", "hvg_pca_harmony"
TITLES = {
    MODEL: "model",
    "model_harmony": "model + Harmony",
    "random_weights": "same model, random weights",
    PCA: "variable genes + PCA",
    PCA_HARMONY: "variable genes + PCA + Harmony",
}
_UNKNOWN = ("", "nan", "na", "none", "unknown", "unlabelled", "unassigned")


@dataclass(frozen=True, kw_only=True)
class EvaluateEmbeddingsSettings:
    """Which cells are embedded, how, and how often their scores are resampled.

    Parameters
    ----------
    label, batch
        obs columns: what should stay apart, and what should mix.
    n_cells
        Cells scored, a random sample; measures take time and memory with its square.
    min_cells
        Labels and batches with fewer cells than this in the sample are left out.
    n_halves
        Random halves that intervals come from; below 2: no intervals.
    encoder_layer
        0 is the last layer, -1 the one before. Cells are means over their genes.
    seed
        Of the sample, the components, Harmony, the random weights, the halves and the maps.
    device, precision, token_budget
        How the model runs.
    read
        How counts are read.
    """

    label: str
    batch: str
    n_cells: int = 2000
    min_cells: int = 10
    n_halves: int = 10
    encoder_layer: int = -1
    seed: int = 0
    device: str = "auto"
    precision: Precision = "fp32"
    token_budget: int = 16_384
    read: ReadSettings = field(default_factory=lambda: ReadSettings(drop_empty=True))

    def __post_init__(self) -> None:
        if self.label == self.batch:
            raise ValueError(f"label and batch are the same column {self.label!r}; name two")


@dataclass(frozen=True)
class EmbeddedCells:
    """The cells scored, ``rows`` of the input, with every embedding of them and their labels."""

    rows: np.ndarray
    embeddings: dict[str, np.ndarray]
    data: IntegrationData
    n_left_out: int


def evaluate_embeddings(
    cells: Path | str | AnnData,
    settings: EvaluateEmbeddingsSettings,
    *,
    model: str | Path | Encoder = "mini",
    out: Path | str | None = None,
    figure: Path | str | None = None,
    h5ad: Path | str | None = None,
) -> dict[str, Any]:
    """Score a model's cell embeddings for labels kept and batches mixed, beside simple ones.

    Parameters
    ----------
    cells
        Cells with raw counts.
    settings
        See `EvaluateEmbeddingsSettings`.
    model
        A shipped name, a checkpoint folder, a Hugging Face id on disk, or an encoder.
    out
        JSON file to write the results to.
    figure
        PNG or SVG of the scores and of a UMAP and a t-SNE of every embedding.
    h5ad
        File for the scored cells with every embedding, UMAP and t-SNE in obsm.

    Returns
    -------
    dict
        ``kind`` "embeddings", ``file``, ``model``, ``n_cells``, ``n_left_out``, ``labels`` and ``batches``
        (cells of each), ``scores``, ``intervals``, ``differences`` (see
        `geneformer_grn.evaluation.integration.score_integration`), ``measures``, ``verdict``, ``conditions``,
        ``versions``.

    Raises
    ------
    ModuleNotFoundError
        The extra ``integration`` is not installed.
    FileNotFoundError, ValueError
        The file or the model cannot be used, a column is missing, or labels and batches cannot be scored.
    """
    from geneformer_grn.evaluation import integration
    from geneformer_grn.model.encoder import Encoder, load_encoder

    for path, suffixes in ((figure, (".png", ".svg")), (h5ad, (".h5ad",))):
        if path is not None and Path(path).suffix not in suffixes:
            raise ValueError(f"{Path(path).name} must end in {' or '.join(suffixes)}")
    integration.require_integration()
    if not isinstance(model, Encoder):
        model = load_encoder(model, device=settings.device, precision=settings.precision)
    counts = read_counts(cells, model.vocabulary, settings.read)
    embedded = embed_for_scoring(counts, model, settings)
    scores = integration.score_integration(
        embedded.embeddings, embedded.data, n_halves=settings.n_halves, seed=settings.seed
    )
    results = {
        "kind": "embeddings",
        "date": datetime.now(tz=UTC).strftime("%Y-%m-%d"),
        "file": counts.name,
        "model": model.name,
        "n_cells": len(embedded.rows),
        "n_left_out": embedded.n_left_out,
        "labels": _sizes(embedded.data.labels),
        "batches": _sizes(embedded.data.batches),
        **scores,
        "measures": {
            "bio": integration.BIO, "batch": integration.BATCH, "not_taken": integration.LEFT_OUT,
            "total": "0.6 bio + 0.4 batch",
        },
        "verdict": verdict(scores["differences"]),
        "conditions": {**asdict(settings), "device": model.device.type, "pooling": "mean"},
        "versions": library_versions() | _extra_versions(),
    }  # fmt: skip
    if figure is not None or h5ad is not None:
        from geneformer_grn.workflows.embedding_maps import write_maps

        write_maps(cells, embedded, results, settings, figure=figure, h5ad=h5ad)
    if out is not None:
        write_json(out, results)
        logger.info("wrote %s", out)
    return results


def embed_for_scoring(
    counts: CellCounts, encoder: Encoder, settings: EvaluateEmbeddingsSettings
) -> EmbeddedCells:
    """Draw labelled cells and embed them in every way of `TITLES`; nothing is fitted on labels."""
    from geneformer_grn.embedding import EmbedSettings, embed_cells
    from geneformer_grn.evaluation import integration
    from geneformer_grn.model.untrained import untrained_twin

    labels, batches = (_named(counts, column) for column in (settings.label, settings.batch))
    rows = _drawn(labels, batches, settings)
    integration.require_scorable(labels[rows], batches[rows])
    chosen = replace(
        counts, matrix=counts.matrix[rows], n_counts=counts.n_counts[rows], obs=counts.obs.iloc[rows],
        kept=counts.kept[rows],
    )  # fmt: skip
    ranked = rank_cells(chosen, encoder.vocabulary)
    how = EmbedSettings(encoder_layer=settings.encoder_layer, token_budget=settings.token_budget)
    components = integration.variable_components(log_normalised(chosen), seed=settings.seed)
    data = integration.IntegrationData(labels[rows], batches[rows], components)
    own = embed_cells(encoder, ranked, how)
    random = embed_cells(untrained_twin(encoder, seed=settings.seed), ranked, how)
    embeddings = {
        MODEL: own,
        "model_harmony": integration.harmonised(own, data.batches, seed=settings.seed),
        "random_weights": random,
        PCA: components,
        PCA_HARMONY: integration.harmonised(components, data.batches, seed=settings.seed),
    }
    return EmbeddedCells(chosen.kept, embeddings, data, len(counts) - len(rows))


def verdict(differences: dict[str, dict[str, dict[str, float]]]) -> str:
    """Say in one sentence whether the model beats variable genes + PCA, with and without Harmony."""
    parts = []
    for name in (PCA, PCA_HARMONY):
        gap = differences[name]["total"]
        if "low" not in gap:
            how = "scores above" if gap["difference"] > 0 else "scores below"
        elif gap["low"] > 0:
            how = "beats"
        else:
            how = "is beaten by" if gap["high"] < 0 else "cannot be told from"
        parts.append(f"{how} {TITLES[name]} ({_signed(gap)})")
    return f"By the total score, the model {' and '.join(parts)}."


def embeddings_table(results: dict[str, Any]) -> str:
    """Return the scores as Markdown, a line per embedding, and the verdict."""
    from geneformer_grn.evaluation.integration import BATCH, BIO, SUMMARIES

    names = (*SUMMARIES, *BIO, *BATCH)
    lines = [
        f"{results['file']}: {results['n_cells']:,} cells, {len(results['labels'])} labels, "
        f"{len(results['batches'])} batches; larger is better.",
        "",
        f"| embedding | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    ]
    for name, scores in results["scores"].items():
        shown = [f"{scores[measure]:.3f}" for measure in names]
        for place, measure in enumerate(SUMMARIES):
            if name in results["intervals"]:
                low, high = results["intervals"][name][measure]
                shown[place] += f" ({low:.3f} to {high:.3f})"
        lines.append(f"| {TITLES[name]} | {' | '.join(shown)} |")
    return "\n".join([*lines, "", results["verdict"]])


def _signed(gap: dict[str, float]) -> str:
    text = f"{gap['difference']:+.3f}"
    return f"{text}, {gap['low']:+.3f} to {gap['high']:+.3f}" if "low" in gap else text


def _named(counts: CellCounts, column: str) -> np.ndarray:
    """Return ``(n,)`` str values of an obs column, empty where missing."""
    if column not in counts.obs:
        raise ValueError(
            f"{counts.name} has no obs column {column!r}; it has: {', '.join(map(str, counts.obs)) or 'none'}"
        )
    values = counts.obs[column].astype(object)
    names = np.array(
        ["" if missing else str(value) for value, missing in zip(values, values.isna(), strict=True)]
    )
    return np.where(np.isin(np.char.lower(names), _UNKNOWN), "", names)


def _drawn(labels: np.ndarray, batches: np.ndarray, settings: EvaluateEmbeddingsSettings) -> np.ndarray:
    """Return rows of the cells to score, ascending: a sample of those with a label and a batch, none rare."""
    rows = np.flatnonzero((labels != "") & (batches != ""))
    if len(rows) > settings.n_cells:
        rows = np.sort(np.random.default_rng(settings.seed).choice(rows, settings.n_cells, replace=False))
    for column, names in ((settings.label, labels), (settings.batch, batches)):
        found, place, size = np.unique(names[rows], return_inverse=True, return_counts=True)
        if (rare := size < settings.min_cells).any():
            logger.warning(
                "%s: left out, since fewer than %d cells have them: %s", column, settings.min_cells,
                ", ".join(found[rare]),
            )  # fmt: skip
            rows = rows[~rare[place]]
    return rows


def _sizes(names: np.ndarray) -> dict[str, int]:
    found, size = np.unique(names, return_counts=True)
    return {str(name): int(count) for name, count in zip(found, size, strict=True)}


def _extra_versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("scib-metrics", "harmonypy", "jax")}
