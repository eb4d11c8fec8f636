"""``evaluate effects``: what a perturbation run says of genes, held against perturbations as measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from geneformer_grn._runtime import library_versions, logger, write_json
from geneformer_grn.cells.counts import CellCounts, log_normalised, read_counts
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.workflows.effect_run import READOUTS, read_readout, run_record, run_vocabulary
from geneformer_grn.workflows.effect_truth import Truth, TruthSettings, read_effect_truth

if TYPE_CHECKING:
    from geneformer_grn.evaluation.effect_baselines import Baselines
    from geneformer_grn.evaluation.effect_trials import TrialSettings
    from geneformer_grn.evaluation.effects import Measured

_EFFECTS = "effects.parquet"
NAMES = {
    "delta_nats": "expression, nats", "delta_nats_moderated": "expression, nats over its error",
    "delta_rank": "expression, rank", "delta_rank_specific": "expression, rank, less other perturbations",
    "gene_shift": "gene shift", "signed_shift": "gene shift along own axis",
    "delta_nats_with_coexpression": "expression, nats, with co-expression", "coexpression": "co-expression",
    "coexpression_signed": "co-expression, positive first", "mean_expression": "mean expression",
    "other_perturbations": "other perturbations, measured",
}  # fmt: skip
_HEADINGS = {
    "matched": "AUROC, matched genes", "all_genes": "AUROC, all genes", "up_over_down": "AUROC, up over down",
    "sign_agreement": "same sign",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EvaluateEffectsSettings:
    """How effects are scored.

    Parameters
    ----------
    truth
        How measured perturbations are read.
    n_rivals, min_responders, seed
        See `geneformer_grn.evaluation.effect_trials.TrialSettings`.
    model
        Whose vocabulary genes are looked up in; None: of the model that the run names.
    """

    truth: TruthSettings = field(default_factory=TruthSettings)
    n_rivals: int = 20
    min_responders: int = 5
    seed: int = 0
    model: str | None = None

    def __post_init__(self) -> None:
        if self.n_rivals < 1 or self.min_responders < 1:
            raise ValueError(
                "at least one responder and one rival are needed; got "
                f"{self.min_responders} and {self.n_rivals}"
            )

    def trials(self) -> TrialSettings:
        """Return the settings of the score card."""
        from geneformer_grn.evaluation.effect_trials import TrialSettings

        return TrialSettings(n_rivals=self.n_rivals, min_responders=self.min_responders, seed=self.seed)


def evaluate_effects(
    folder: Path | str,
    truth: Path | str,
    settings: EvaluateEffectsSettings | None = None,
    *,
    cells: Path | str | None = None,
    out: Path | str | None = None,
) -> dict[str, Any]:
    """Score the readouts of a perturbation run against measured perturbations, beside baselines.

    Parameters
    ----------
    folder
        What ``perturb`` wrote, with the readout ``expression``, ``genes`` or both.
    truth
        Measured perturbations, see `geneformer_grn.workflows.effect_truth.read_effect_truth`. Their effects
        are of the same direction as the run's: knock-outs for ``delete``, ``knockout`` and ``inhibit``.
    settings
        See `EvaluateEffectsSettings`.
    cells
        Unperturbed cells, for baselines and matching; None: the truth's control cells, where it holds cells.
        Without either, genes are matched on the share of perturbed cells that hold them, and co-expression
        and its like are not scored: the results say so.
    out
        JSON file to write the results to.

    Returns
    -------
    dict
        ``cards``: kind -> score card (`geneformer_grn.evaluation.effects.score_card`), ``sizes``, ``truth``,
        ``run``, ``caveats``, ``conditions``, ``versions``.

    Raises
    ------
    FileNotFoundError, ValueError
        The folder, the truth or the cells cannot be used, or they share no gene; a table of the folder is
        not of the run that its parameters.json names.
    VocabularyMismatchError
        The run was made with another vocabulary than the model's.
    """
    from geneformer_grn.evaluation.effect_trials import cards_of, predictions_of, rivals_of

    settings, folder = settings or EvaluateEffectsSettings(), Path(folder)
    run = run_record(folder)
    vocabulary = run_vocabulary(folder, run, settings.model)
    measured = read_effect_truth(truth, vocabulary, settings.truth)
    genes = sorted({one.gene for one in measured.measured})
    predictions = predictions_of(*(read_readout(folder, name, genes) for name in READOUTS))
    reference = measured.controls
    if cells is not None:
        reference = read_counts(cells, vocabulary, settings.truth.read)
    baselines = {} if reference is None else {"": cell_baselines(reference, vocabulary, genes)}
    rivals = rivals_of(measured.measured, baselines)
    results = {
        "kind": "effects",
        "date": datetime.now(tz=UTC).strftime("%Y-%m-%d"),
        "cards": cards_of(predictions, measured.measured, rivals, settings.trials()),
        "sizes": effect_sizes(folder, measured.measured),
        "truth": measured.facts,
        "run": {key: run[key] for key in ("model", "file", "parameters") if key in run},
        "caveats": _caveats(measured, reference),
        "conditions": asdict(settings)
        | {"model": None if settings.model is None else Path(settings.model).name}
        | {"cells": None if reference is None else reference.name},
        "versions": library_versions(),
    }
    if out is not None:
        write_json(out, results)
        logger.info("wrote %s", out)
    return results


def cell_baselines(counts: CellCounts, vocabulary: GeneVocabulary, genes: Sequence[str]) -> Baselines:
    """Return the baselines that unperturbed cells give for perturbing `genes` (sets joined by ``+``)."""
    from geneformer_grn.evaluation.effect_baselines import baselines_of

    members = sorted({member for gene in genes for member in gene.split("+")})
    return baselines_of(log_normalised(counts), vocabulary.ensembl_ids[counts.column_tokens], members)


def effect_sizes(folder: Path, measured: Sequence[Measured]) -> dict[str, Any] | None:
    """Return whether genes that move cells further have more responders: a rank correlation over genes."""
    from geneformer_grn.metrics import spearman

    path = folder / _EFFECTS
    if not path.is_file():
        return None
    effects = pd.read_parquet(path)
    cell = effects[effects["readout"] == "cell"].dropna(subset=["shift"])
    shift = cell.groupby(cell["gene"].astype(str))["shift"].mean()
    counts = pd.Series(
        [int(one.responds.sum()) for one in measured], index=[one.gene for one in measured], dtype=float
    )
    responders = counts.groupby(level=0).mean()
    both = shift.index.intersection(responders.index)
    rank = spearman(shift[both].to_numpy(), responders[both].to_numpy())
    return {"n_perturbed_genes": len(both), "spearman_shift_and_responders": rank}


def effects_text(results: Mapping[str, Any]) -> str:
    """Return the score cards as Markdown, with what has to be known to read them."""
    parts = []
    for kind, card in results["cards"].items():
        parts.append(
            f"{kind}: {card['n_perturbed_genes']:,} perturbed genes ({card['n_trials']:,} trials, "
            f"{card['n_too_few_responders']:,} more with too few responders), {card['n_responders']:,} "
            f"responders, {100 * card['share_up']:.0f} % up, among {card['n_genes']:,.0f} genes; 95 % "
            f"intervals over {card['unit']}"
        )
        parts += [_table(card[section], section) for section in ("strength", "direction") if card[section]]
    parts += [f"Caveat: {caveat}." for caveat in results.get("caveats", [])]
    return "\n\n".join(parts)


def _table(rows: Mapping[str, Any], section: str) -> str:
    measures = list(next(iter(rows.values())))
    ordered = sorted(rows.items(), key=lambda item: -_or_lowest(item[1][measures[0]]["mean"]))
    lines = [
        f"| {section} by | {' | '.join(_HEADINGS[measure] for measure in measures)} |",
        "|---" * (1 + len(measures)) + "|",
    ]
    for name, row in ordered:
        stem = name.removeprefix("untrained_")
        shown = NAMES.get(stem, stem) + (" (untrained model)" if stem != name else "")
        lines.append(f"| {shown} | {' | '.join(_shown(row[measure]) for measure in measures)} |")
    return "\n".join(lines)


def _or_lowest(value: float | None) -> float:
    return -1.0 if value is None or value != value else value


def _shown(value: Mapping[str, float]) -> str:
    mean, low, high = (_or_lowest(value[key]) for key in ("mean", "low", "high"))
    if mean < 0:
        return "–"
    return f"{mean:.3f}" if low < 0 else f"{mean:.3f} ({low:.3f} to {high:.3f})"


def _caveats(truth: Truth, reference: CellCounts | None) -> list[str]:
    if reference is None:
        return [
            "no unperturbed cells were given (--cells): genes are matched on nothing but the share of "
            "perturbed cells that hold them, and neither co-expression nor mean expression is scored"
        ]
    if truth.controls is None:
        return [f"expression and co-expression are those of {reference.name}, not of the cells measured"]
    return []
