"""Suite: hidden genes, against what position, the cell's other genes and neighbouring ranks say of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from geneformer_grn.cells.counts import CellCounts
from geneformer_grn.cells.ranking import model_input
from geneformer_grn.workflows.suite_bench import Bench
from geneformer_grn.workflows.suite_rows import suite_row

TASK = "masked genes"
N_CELLS = 150
_N_FITTED = 1500
_NOTE = (
    "rank_position is from the model's training cells; the other simple methods were fitted on other cells "
    "of this file, which the model has not seen"
)
_NOTE_WITHOUT = (
    "the checkpoint carries no rank-position frequencies of its training cells; simple methods were fitted "
    "on other cells of this file"
)


def masked_rows(bench: Bench, counts: CellCounts, data: str) -> list[dict[str, Any]]:
    """Return loss and accuracy on hidden genes of some cells, the baselines fitted on the others.

    Parameters
    ----------
    bench
        The model.
    counts
        Cells it has not seen.
    data
        What the rows call them.
    """
    from geneformer_grn.evaluation.masked_genes import score_card, score_contestants
    from geneformer_grn.evaluation.masked_guesses import fit_guesses, score_guesses
    from geneformer_grn.training.validation import masked_cells

    vocabulary, ranked = bench.encoder.vocabulary, bench.ranked(counts)
    order = np.random.default_rng(bench.seed).permutation(len(ranked))
    n_scored = min(N_CELLS, len(ranked) // 2)
    sequences = [model_input(ranked.cell(row), vocabulary) for row in order[: n_scored + _N_FITTED]]
    cells = masked_cells(sequences[:n_scored], vocabulary, seed=bench.seed)
    guesses = fit_guesses(sequences[n_scored:], vocabulary, seed=bench.seed)
    scores = score_contestants(bench.contestants, cells, token_budget=bench.token_budget)
    scores |= score_guesses(guesses, cells)
    card = score_card(scores, seed=bench.seed)
    note = _NOTE_WITHOUT if bench.contestants.baseline is None else _NOTE
    return [
        suite_row(
            TASK, title, data,
            values={name: card[name][measure] for name in scores},
            ahead={name: gain[measure] for name, gain in card["ahead_of"].items()},
            n=n_scored, higher_is_better=measure == "accuracy", note=note,
        )
        for measure, title in (("loss", "loss, nats a hidden gene"), ("accuracy", "accuracy"))
    ]  # fmt: skip


def masked_file(key: str, data: str) -> Any:
    """Return the question for a file of the suite."""
    return lambda bench: masked_rows(bench, bench.counts(key), data)
