"""Suite: cell types kept apart and batches mixed by cell embeddings, against variable genes and Harmony."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geneformer_grn.workflows.suite_bench import Bench, joined_counts
from geneformer_grn.workflows.suite_rows import UNTRAINED, suite_row

if TYPE_CHECKING:
    from geneformer_grn.cells.counts import CellCounts

TASK = "cell embeddings"
N_CELLS = 600
_N_HALVES = 5
_MEASURES = {"bio": "cell types apart", "batch": "batches mixed", "total": "total, 0.6 types + 0.4 batches"}


def donor_rows(bench: Bench) -> list[dict[str, Any]]:
    """Return the rows of blood cells of several donors."""
    return integration_rows(bench, bench.counts("kang"), "Kang PBMC, 8 donors", batch="donor")


def protocol_rows(bench: Bench) -> list[dict[str, Any]]:
    """Return the rows of three cell lines measured by two protocols."""
    return integration_rows(bench, both_protocols(bench), "lung cancer lines, 2 protocols", batch="assay")


def both_protocols(bench: Bench) -> CellCounts:
    """Return the cells of both files of the cell lines, over the genes of either."""
    return joined_counts(bench, ("lung_celseq2", "lung_dropseq"), name="lung cancer lines")


def integration_rows(bench: Bench, counts: CellCounts, data: str, *, batch: str) -> list[dict[str, Any]]:
    """Return what cell embeddings keep of cell types and of batches, without any training on them.

    Parameters
    ----------
    bench
        The model.
    counts
        Cells with the obs columns ``cell_type`` and `batch`.
    data
        What the rows call them.
    batch
        Column of what should mix.

    Raises
    ------
    ModuleNotFoundError
        The extra ``integration`` is not installed.
    ValueError
        Labels and batches cannot be scored.
    """
    from geneformer_grn.evaluation.integration import require_integration, score_integration
    from geneformer_grn.workflows.evaluate_embeddings import (
        EvaluateEmbeddingsSettings,
        embed_for_scoring,
    )

    require_integration()
    settings = EvaluateEmbeddingsSettings(
        label="cell_type", batch=batch, n_cells=N_CELLS, seed=bench.seed, token_budget=bench.token_budget
    )
    embedded = embed_for_scoring(counts, bench.encoder, settings)
    kept = {name: each for name, each in embedded.embeddings.items() if name != "model_harmony"}
    kept[UNTRAINED] = kept.pop("random_weights")
    scored = score_integration(kept, embedded.data, n_halves=_N_HALVES, seed=bench.seed)
    return [
        suite_row(
            TASK, title, data,
            values={name: scores[measure] for name, scores in scored["scores"].items()},
            ahead={name: _renamed(gaps[measure]) for name, gaps in scored["differences"].items()},
            n=len(embedded.rows),
            note="means of scib-metrics; intervals from halves of the cells",
        )
        for measure, title in _MEASURES.items()
    ]  # fmt: skip


def _renamed(gap: dict[str, float]) -> dict[str, float]:
    return {"mean": gap["difference"], "low": gap["low"], "high": gap["high"]}
