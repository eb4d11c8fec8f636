"""``evaluate model``: a checkpoint scored on cells it was not trained on, beside what it has to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geneformer_grn._runtime import Precision, library_versions, logger, sha256_file, write_json
from geneformer_grn.cells.counts import CellCounts, ReadSettings, read_counts
from geneformer_grn.cells.ranking import rank_cells

if TYPE_CHECKING:
    from geneformer_grn.workflows.suite_bench import Bench

SUITES = ("standard", "masked-genes")
DEMO = "demo cells"


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """How a checkpoint is scored.

    Parameters
    ----------
    suite
        ``masked-genes``: masked-gene prediction. ``standard``: that, and every question of a model card, see
        `geneformer_grn.workflows.suite`.
    only
        Of the standard suite, the tasks that begin so; empty: all.
    max_cells
        Cells of each file that are scored, a random sample.
    seed
        Of the sample, the masks, the untrained copy and the bootstrap.
    device, precision, token_budget
        How the model runs.
    read
        How counts are read from the files.
    """

    suite: str = "masked-genes"
    only: tuple[str, ...] = ()
    max_cells: int = 1000
    seed: int = 0
    device: str = "auto"
    precision: Precision = "fp32"
    token_budget: int = 16_384
    read: ReadSettings = field(default_factory=lambda: ReadSettings(drop_empty=True))

    def __post_init__(self) -> None:
        if self.suite not in SUITES:
            raise ValueError(f"suite {self.suite!r} is unknown; choose from {', '.join(SUITES)}")
        if self.only and self.suite != "standard":
            raise ValueError(f"single tasks belong to the suite standard, not to {self.suite}")


def evaluate_model(
    checkpoint: str | Path,
    cells: Sequence[Path | str],
    settings: EvaluateSettings | None = None,
    *,
    data: Path | str | None = None,
    out: Path | str | None = None,
) -> dict[str, Any]:
    """Score a checkpoint by masked-gene prediction, file by file and over all cells; more by the suite.

    Parameters
    ----------
    checkpoint
        A shipped name, a checkpoint folder, or a Hugging Face id on disk.
    cells
        Count files of any kind the model was not trained on; none: the demo cells that ship with the package.
    settings
        See `EvaluateSettings`.
    data
        Folder of the standard suite's files; None: see `geneformer_grn.workflows.suite_bench.data_folder`.
    out
        JSON file to write the results to.

    Returns
    -------
    dict
        ``checkpoint``, ``training`` (what the checkpoint says of its own), ``masked_genes`` with ``files``
        and ``all`` (see `geneformer_grn.evaluation.masked_genes.score_card`), ``conditions``, ``versions``;
        of the suite ``standard`` also ``suite`` (see `geneformer_grn.workflows.suite.run_suite`).

    Raises
    ------
    FileNotFoundError, ValueError
        The checkpoint or a file cannot be used, or a file was in the model's training corpus or made its
        vocabulary.
    """
    from geneformer_grn.evaluation.masked_genes import (
        hidden_genes,
        joined,
        prepare,
        score_card,
        score_contestants,
    )
    from geneformer_grn.model.encoder import load_encoder
    from geneformer_grn.model.folder import resolve_checkpoint
    from geneformer_grn.model.head_files import is_finetuned
    from geneformer_grn.training.record import read_training_record

    settings = settings or EvaluateSettings()
    place = _data_of(settings, data)
    encoder = load_encoder(checkpoint, device=settings.device, precision=settings.precision)
    folder = resolve_checkpoint(checkpoint)
    contestants = prepare(encoder, _baseline(folder), seed=settings.seed)
    if contestants.baseline is None:
        logger.warning("%s carries no rank_position.npz: no rank-position baseline is scored", encoder.name)
    if is_finetuned(folder):
        logger.warning("%s is fine-tuned: its masked-language head has not learnt with it", encoder.name)
    training = read_training_record(folder)
    known = _seen(training, encoder.vocabulary.provenance.get("sources", []))
    rows, scores = [], []
    read: dict[str, CellCounts] = {}
    for name, path, digest in _inputs(cells):
        _require_held_out(name, digest, known)
        counts = read_counts(path, encoder.vocabulary, settings.read, name=name)
        ranked = rank_cells(counts, encoder.vocabulary)
        hidden = hidden_genes(ranked, encoder, seed=settings.seed, max_cells=settings.max_cells)
        scores.append(score_contestants(contestants, hidden, token_budget=settings.token_budget))
        rows.append({"file": name, "sha256": digest, **score_card(scores[-1], seed=settings.seed)})
        logger.info("%s: scored %d cells", name, len(hidden))
        read |= {name: counts} if cells and settings.suite == "standard" else {}
    results = {
        "kind": "model",
        "date": datetime.now(tz=UTC).strftime("%Y-%m-%d"),
        "checkpoint": _describe(encoder, folder),
        "training": training,
        "masked_genes": {"files": rows, "all": score_card(joined(scores), seed=settings.seed)},
        "conditions": {**asdict(settings), "device": encoder.device.type, "mask_rate": 0.15},
        "versions": library_versions(),
    }
    if settings.suite == "standard":
        from geneformer_grn.workflows.suite_bench import Bench, suite_files

        bench = Bench(
            contestants=contestants, folder=place, listed=suite_files(), known=known, training=training,
            seed=settings.seed, token_budget=settings.token_budget,
        )  # fmt: skip
        results["suite"] = _suite(bench, read, settings)
    if out is not None:
        write_json(out, results)
        logger.info("wrote %s", out)
    return results


def _data_of(settings: EvaluateSettings, data: Path | str | None) -> Path | None:
    from geneformer_grn.workflows.suite_bench import data_folder

    if settings.suite == "standard":
        from geneformer_grn.workflows.suite import QUESTIONS, chosen

        chosen(QUESTIONS, settings.only or None)  # said before the work and not after it
        return data_folder(data)
    if data is not None:
        raise ValueError("a folder of data is for the suite standard; give --suite standard too")
    return None


def _suite(bench: Bench, read: Mapping[str, CellCounts], settings: EvaluateSettings) -> dict[str, Any]:
    """Return the suite's answers, those on the caller's own files first."""
    from geneformer_grn.workflows.suite import Question, run_suite
    from geneformer_grn.workflows.suite_masked import TASK, masked_rows

    def question(name: str, counts: CellCounts) -> Question:
        return Question(task=TASK, data=name, run=lambda bench: masked_rows(bench, counts, name))

    own = [question(name, counts) for name, counts in read.items()]
    return run_suite(bench, own, only=settings.only or None)


def demo_cells() -> tuple[str, Any, str]:
    """Return the name, the cells and the sha256 of the file that ships with the package."""
    from geneformer_grn.cells.opening import read_anndata

    with as_file(files("geneformer_grn") / "_demo" / "cells.h5ad") as path:
        return DEMO, read_anndata(path), sha256_file(path)


def results_table(results: dict[str, Any]) -> str:
    """Return the masked-gene scores as a Markdown table: a row per file, and one for all cells."""
    lines = [
        "| cells | n | model | rank position | untrained | ahead of rank position (95 % interval) |",
        "|---|---|---|---|---|---|",
    ]
    scored = results["masked_genes"]
    for row in [*scored["files"], {"file": "all", **scored["all"]}]:
        shown = [_pair(row.get(name)) for name in ("model", "rank_position", "untrained")]
        gain = row["ahead_of"].get("rank_position")
        ahead = "–"
        if gain is not None:
            ahead = f"{_gain(gain['loss'])} nats, {_gain(gain['accuracy'], percent=True)} points"
        lines.append(f"| {row['file']} | {row['model']['n_cells']:,} | {' | '.join(shown)} | {ahead} |")
    return "\n".join(lines)


def _gain(gain: dict[str, float], *, percent: bool = False) -> str:
    factor, digits = (100, 2) if percent else (1, 3)
    mean, low, high = (f"{factor * gain[key]:+.{digits}f}" for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def _pair(score: dict[str, float] | None) -> str:
    return "–" if score is None else f"{score['loss']:.3f} nats, {100 * score['accuracy']:.2f} %"


def _inputs(cells: Sequence[Path | str]) -> list[tuple[str, Any, str]]:
    """Return (name, what to read, sha256) of each file, or of the demo cells where none is named."""
    from geneformer_grn.cells.corpora.plan import sha256_of

    if not cells:
        return [demo_cells()]
    missing = [str(path) for path in cells if not Path(path).exists()]
    if missing:
        raise FileNotFoundError(f"no such file: {', '.join(missing)}")
    return [(Path(path).name, Path(path), sha256_of(Path(path))) for path in cells]


def _seen(training: dict[str, Any] | None, sources: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return sha256 -> what for, of every file that the model, its start or its vocabulary was made from."""
    from geneformer_grn.training.record import training_stages

    files = [entry for stage in training_stages(training) for entry in stage["corpus"]["files"]]
    fitted = {source["sha256"]: "made this model's vocabulary" for source in sources if "sha256" in source}
    return fitted | {entry["sha256"]: "was in this model's training corpus" for entry in files}


def _require_held_out(name: str, digest: str, known: Mapping[str, str]) -> None:
    if digest in known:
        raise ValueError(
            f"{name} {known[digest]} (same sha256), so that its score would say nothing; "
            "give cells the model has not seen"
        )


def _baseline(folder: Path) -> Any:
    from geneformer_grn.cells.rank_position import RankPositionBaseline

    path = folder / "rank_position.npz"
    return RankPositionBaseline.load(path) if path.is_file() else None


def _describe(encoder: Any, folder: Path) -> dict[str, Any]:
    weights = folder / "model.safetensors"
    vocabulary, shape = encoder.vocabulary, encoder.model.config
    return {
        "name": encoder.name,
        "parameters": encoder.n_parameters,
        "layers": encoder.n_layers,
        "hidden_size": encoder.hidden_size,
        "attention_heads": shape.num_attention_heads,
        "ffn_size": shape.intermediate_size,
        "max_length": vocabulary.max_length,
        "weights_mb": round(weights.stat().st_size / 1e6, 2) if weights.is_file() else None,
        "weights_sha256": sha256_file(weights) if weights.is_file() else None,
        "vocabulary": {
            "setting": vocabulary.setting,
            "n_genes": len(vocabulary) - vocabulary.n_special,
            "n_regulators": int(vocabulary.is_regulator.sum()),
            "fingerprint": vocabulary.fingerprint,
        },
        "sources": vocabulary.provenance.get("sources", []),
    }
