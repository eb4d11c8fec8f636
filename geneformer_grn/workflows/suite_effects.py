"""Suite: whether knocking genes out in the model finds the genes that real knock-outs moved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geneformer_grn.workflows.suite_bench import Bench
from geneformer_grn.workflows.suite_rows import MODEL, UNTRAINED, suite_row

if TYPE_CHECKING:
    from geneformer_grn.cells.ranking import RankedCells
    from geneformer_grn.perturbation.requests import Request

TASK = "perturbation truth"
READOUT, KIND = "delta_rank", "knockout"
N_CELLS, N_GENES, MIN_EFFECT = 25, 10, 0.1
_LEAST_CELLS = 3
_BASELINES = {
    "strength": ("coexpression", "ridge", "mean_expression", "other_perturbations"),
    "direction": ("coexpression", "ridge", "other_perturbations"),
}
_ROWS = (
    ("strength", "matched", "AUROC, responders against matched genes"),
    ("direction", "up_over_down", "AUROC, up against down"),
)


def papalexi_rows(bench: Bench) -> list[dict[str, Any]]:
    """Return the rows of guides in THP-1 cells: targets within the panel, knocked out in control cells."""
    from geneformer_grn.cells.counts import ReadSettings
    from geneformer_grn.workflows.effect_truth import TruthSettings

    settings = TruthSettings(
        min_effect=MIN_EFFECT, read=ReadSettings(where="grna_fraction > 0.8", drop_empty=True)
    )
    return effect_rows(bench, bench.path("papalexi"), settings, data="Papalexi THP-1")


def effect_rows(bench: Bench, path: Any, settings: Any, *, data: str) -> list[dict[str, Any]]:
    """Return how well a model's knock-outs rank the genes that measured ones moved.

    The readout is fixed: the change of each gene's expected rank when the perturbed gene is hidden from the
    model. Baselines come from the same unperturbed cells, but for ``other_perturbations``, which knows the
    measured responses to the others. The interval is over perturbed genes.

    Parameters
    ----------
    bench
        The model.
    path
        Perturbed cells with their controls.
    settings
        `geneformer_grn.workflows.effect_truth.TruthSettings`.
    data
        What the rows call them.

    Raises
    ------
    ValueError
        There are no controls, or no perturbation has enough responders.
    """
    from geneformer_grn.evaluation.effect_trials import (
        TrialSettings,
        cards_of,
        predictions_of,
        rivals_of,
        with_untrained,
    )
    from geneformer_grn.perturbation.engine import perturb_cells
    from geneformer_grn.perturbation.requests import PerturbSettings
    from geneformer_grn.workflows.effect_truth import read_effect_truth
    from geneformer_grn.workflows.evaluate_effects import cell_baselines

    vocabulary = bench.encoder.vocabulary
    truth = read_effect_truth(path, vocabulary, settings)
    if truth.controls is None:
        raise ValueError(f"{path.name} holds no unperturbed cells to perturb")
    ranked = bench.ranked(truth.controls)
    requests = requests_of(bench, ranked, [one.gene for one in truth.measured])
    how = PerturbSettings(readouts=("expression",), token_budget=bench.token_budget)
    said = [
        predictions_of(perturb_cells(encoder, ranked, requests, how).expression, None)
        for encoder in (bench.encoder, bench.twin)
    ]
    genes = sorted({one.gene for one in said[0]})
    rivals = rivals_of(truth.measured, {"": cell_baselines(truth.controls, vocabulary, genes)})
    card = cards_of(with_untrained(*said), truth.measured, rivals, TrialSettings(seed=bench.seed))[KIND]
    note = (
        f"{card['n_responders']:,} responders of {card['n_perturbed_genes']} perturbed genes; "
        f"{card['n_genes']:,.0f} genes; {N_CELLS} cells a gene; intervals over {card['unit']}"
    )
    return [_row(card, section, measure, title, data, note) for section, measure, title in _ROWS]


def _row(card: Any, section: str, measure: str, title: str, data: str, note: str) -> dict[str, Any]:
    named = {UNTRAINED: f"untrained_{READOUT}"} | {name: name for name in _BASELINES[section]}
    scored, ahead = card[section], card["ahead_of"][measure][READOUT]
    named = {name: column for name, column in named.items() if column in scored}
    values = {MODEL: scored[READOUT][measure]["mean"]}
    values |= {name: scored[column][measure]["mean"] for name, column in named.items()}
    return suite_row(
        TASK, title, data, values=values, ahead={name: ahead[column] for name, column in named.items()},
        n=card["n_perturbed_genes"], note=note,
    )  # fmt: skip


def requests_of(bench: Bench, ranked: RankedCells, genes: Sequence[str]) -> list[Request]:
    """Return a knock-out for each of the genes that most cells hold within the model's length.

    Parameters
    ----------
    bench
        The model.
    ranked
        Unperturbed cells.
    genes
        Ensembl IDs; some may be unknown.
    """
    from geneformer_grn.perturbation.requests import Request

    vocabulary = bench.encoder.vocabulary
    room = vocabulary.max_length - vocabulary.n_wrapping
    holders: dict[int, list[int]] = {
        vocabulary.token_of[gene]: [] for gene in dict.fromkeys(genes) if gene in vocabulary.token_of
    }
    for cell in range(len(ranked)):
        for token in set(ranked.cell(cell)[:room].tolist()) & set(holders):
            holders[token].append(cell)
    rng = np.random.default_rng(bench.seed)
    best = sorted(holders.items(), key=lambda item: -len(item[1]))[:N_GENES]
    return [
        Request(genes=(token,), kind=KIND, cells=np.sort(rng.permutation(cells)[:N_CELLS]))
        for token, cells in best
        if len(cells) >= _LEAST_CELLS
    ]
