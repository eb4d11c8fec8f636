"""Suite: whether perturbing genes in the model finds the genes that real perturbations moved.

Knock-outs by guides in single cells with their own controls, and knock-outs measured in bulk, for which cells
of other studies have to stand in. The stimulus has a file of its own, `suite_stimulus`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geneformer_grn.workflows.suite_bench import Bench, joined_counts
from geneformer_grn.workflows.suite_rows import MODEL, UNTRAINED, suite_row

if TYPE_CHECKING:
    from geneformer_grn.cells.ranking import RankedCells
    from geneformer_grn.evaluation.effect_baselines import Baselines
    from geneformer_grn.evaluation.effects import Measured
    from geneformer_grn.perturbation.requests import Request

TASK = "perturbation truth"
READOUT, KNOCKOUT = "delta_rank", "knockout"
N_CELLS, N_GENES, MIN_EFFECT = 100, 10, 0.1
N_BULK_CELLS, N_BULK_GENES, MIN_LOG2 = 3, 10, 0.5
STAND_INS = ("stem_cortex", "stem_cardiomyocytes", "stem_embryo")
_BULK = "kind == 'knockout_vs_WT' and ko_gene not in ['Auxin', 'day', 'hyp']"
_LIKE = (
    "tissue not in ['blood (cell line)', 'breast (cell line)', 'skin (cell line)', 'skin (primary culture)']"
)
_LEAST_CELLS = 3
_BASELINES = {
    "strength": ("coexpression", "ridge", "mean_expression", "other_perturbations"),
    "direction": ("coexpression", "ridge", "other_perturbations"),
}
_ROWS = (
    ("strength", "matched", "AUROC, responders against matched genes"),
    ("direction", "up_over_down", "AUROC, up against down"),
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Experiment:
    """What was measured, and what is asked of the model about it.

    Parameters
    ----------
    measured
        Perturbations as they were measured.
    ranked, requests
        Unperturbed cells, and what to do to them; all of one kind.
    baselines
        Group -> what unperturbed cells say without a model; ``""`` serves all groups.
    note
        What a reader has to know.
    """

    measured: Sequence[Measured]
    ranked: RankedCells
    requests: Sequence[Request]
    baselines: Mapping[str, Baselines]
    note: str


def papalexi_rows(bench: Bench) -> list[dict[str, Any]]:
    """Return the rows of guides in THP-1 cells: targets within the panel, knocked out in control cells.

    Raises
    ------
    ValueError
        There are no controls, or no perturbation has enough responders.
    """
    from geneformer_grn.cells.counts import ReadSettings
    from geneformer_grn.cells.opening import read_h5ad
    from geneformer_grn.workflows.effect_truth import TruthSettings, truth_of_cells
    from geneformer_grn.workflows.evaluate_effects import cell_baselines

    settings = TruthSettings(
        min_effect=MIN_EFFECT, read=ReadSettings(where="grna_fraction > 0.8", drop_empty=True)
    )
    path, vocabulary = bench.path("papalexi"), bench.encoder.vocabulary
    adata = read_h5ad(path)
    truth = truth_of_cells(adata, path.name, vocabulary, settings)
    if truth.controls is None:
        raise ValueError(f"{path.name} holds no unperturbed cells to perturb")
    ranked = bench.ranked(truth.controls)
    genes = scorable(truth.measured)
    requests = requests_of(bench, ranked, genes, n_genes=N_GENES, n_cells=N_CELLS)
    baselines = {"": cell_baselines(truth.controls, vocabulary, names_of(bench, requests))}
    experiment = Experiment(
        measured=truth.measured, ranked=ranked, requests=requests, baselines=baselines,
        note=f"{N_CELLS} cells a gene",
    )  # fmt: skip
    return effect_rows(bench, experiment, data="Papalexi THP-1")


def morphic_rows(bench: Bench) -> list[dict[str, Any]]:
    """Return the rows of bulk knock-outs in stem-cell-derived cells, knocked out in cells of other studies.

    No unperturbed counts were published with the contrasts. The stand-ins are iPSCs, cardiomyocytes made of
    them, an embryo and fetal cortex; co-expression is computed from the same cells. A model may have been
    trained on them, which the row then says: they hold no perturbation, so no answer either.

    Raises
    ------
    ValueError
        No gene knocked out is within the model's length in these cells, or none has enough responders.
    """
    from geneformer_grn.cells.counts import ReadSettings
    from geneformer_grn.workflows.effect_truth import TruthSettings, read_effect_truth
    from geneformer_grn.workflows.evaluate_effects import cell_baselines

    settings = TruthSettings(column="ko_ensembl", min_effect=MIN_LOG2, read=ReadSettings(where=_BULK))
    truth = read_effect_truth(bench.path("morphic"), bench.encoder.vocabulary, settings)
    cells = joined_counts(bench, STAND_INS, name="stem-cell-like cells", where=_LIKE)
    ranked = bench.ranked(cells)
    genes = scorable(truth.measured)
    requests = requests_of(bench, ranked, genes, n_genes=N_BULK_GENES, n_cells=N_BULK_CELLS)
    baselines = {"": cell_baselines(cells, bench.encoder.vocabulary, names_of(bench, requests))}
    experiment = Experiment(
        measured=truth.measured, ranked=ranked, requests=requests, baselines=baselines,
        note=f"{N_BULK_CELLS} cells a gene, the {len(requests)} genes that most cells hold, of {len(genes)} "
        f"with enough responders; {len(cells)} iPSC, cardiomyocyte, embryo and fetal cortex cells of other "
        "studies stand in for those measured",
    )  # fmt: skip
    return effect_rows(bench, experiment, data="MorPhiC bulk knock-outs")


def effect_rows(bench: Bench, experiment: Experiment, *, data: str) -> list[dict[str, Any]]:
    """Return how well a model's perturbations rank the genes that measured ones moved.

    The readout is fixed: the change of each gene's expected rank. Baselines come from the same unperturbed
    cells, but for ``other_perturbations``, which knows the measured responses to the others. The interval is
    over perturbed genes; of a single one there is none, and the note gives that over its responders.

    Parameters
    ----------
    bench
        The model.
    experiment
        What to ask.
    data
        What the rows call it.

    Raises
    ------
    ValueError
        No perturbation has enough responders.
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

    how = PerturbSettings(readouts=("expression",), token_budget=bench.token_budget)
    said = [
        predictions_of(perturb_cells(encoder, experiment.ranked, experiment.requests, how).expression, None)
        for encoder in (bench.encoder, bench.twin)
    ]
    rivals = rivals_of(experiment.measured, experiment.baselines)
    cards = cards_of(with_untrained(*said), experiment.measured, rivals, TrialSettings(seed=bench.seed))
    (card,) = cards.values()
    note = (
        f"{card['n_responders']:,} responders of {card['n_perturbed_genes']} perturbed genes; "
        f"{card['n_genes']:,.0f} genes; {experiment.note}"
    )
    return [_row(card, section, measure, title, data, note) for section, measure, title in _ROWS]


def _row(card: Any, section: str, measure: str, title: str, data: str, note: str) -> dict[str, Any]:
    named = {UNTRAINED: f"untrained_{READOUT}"} | {name: name for name in _BASELINES[section]}
    scored, found = card[section], card["ahead_of"][measure][READOUT]
    named = {name: column for name, column in named.items() if column in scored}
    values = {MODEL: scored[READOUT][measure]["mean"]}
    values |= {name: scored[column][measure]["mean"] for name, column in named.items()}
    ahead = {name: found[column] for name, column in named.items()}
    if card["n_perturbed_genes"] > 1:
        note += f"; intervals over {card['unit']}"
    else:  # responders to one perturbation move together: their interval must not decide who won
        gap = ahead[UNTRAINED]
        note += (
            "; one perturbation, so no interval: over its responders, which is too narrow, the gain on "
            f"untrained is {gap['mean']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f})"
        )
        ahead = {name: {"mean": one["mean"]} for name, one in ahead.items()}
    return suite_row(TASK, title, data, values=values, ahead=ahead, n=card["n_perturbed_genes"], note=note)


def scorable(measured: Sequence[Measured]) -> list[str]:
    """Return the perturbed genes that have enough responders to be scored, in order, each once."""
    from geneformer_grn.evaluation.effects import MIN_RESPONDERS

    enough = [one.gene for one in measured if one.responds.sum() >= MIN_RESPONDERS]
    return list(dict.fromkeys(enough))


def names_of(bench: Bench, requests: Sequence[Request]) -> list[str]:
    """Return what each request perturbs, as tables name it: Ensembl IDs joined by ``+``."""
    ids = bench.encoder.vocabulary.ensembl_ids
    return ["+".join(ids[list(one.genes)]) for one in requests]


def requests_of(
    bench: Bench, ranked: RankedCells, genes: Sequence[str], *, n_genes: int, n_cells: int
) -> list[Request]:
    """Return a knock-out for each of the genes that most cells hold within the model's length.

    Parameters
    ----------
    bench
        The model.
    ranked
        Unperturbed cells.
    genes
        Ensembl IDs; some may be unknown.
    n_genes, n_cells
        Most of them, and cells of each at most, a random sample.

    Raises
    ------
    ValueError
        Too few cells hold any of them.
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
    best = sorted(holders.items(), key=lambda item: -len(item[1]))[:n_genes]
    requests = [
        Request(genes=(token,), kind=KNOCKOUT, cells=np.sort(rng.permutation(cells)[:n_cells]))
        for token, cells in best
        if len(cells) >= _LEAST_CELLS
    ]
    if not requests:
        raise ValueError(
            f"none of {len(genes)} perturbed genes with enough responders is among the {room:,} "
            f"highest-ranked genes of {_LEAST_CELLS} of {len(ranked):,} cells"
        )
    return requests
