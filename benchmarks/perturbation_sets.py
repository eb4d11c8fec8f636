"""Knock-outs: which cells are perturbed, and what they are held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np

from geneformer_grn.cells.counts import CellCounts, ReadSettings, read_counts
from geneformer_grn.cells.opening import read_h5ad
from geneformer_grn.cells.ranking import RankedCells, rank_cells
from geneformer_grn.evaluation.effect_trials import (
    Prediction,
    TrialSettings,
    cards_of,
    predictions_of,
    rivals_of,
    with_untrained,
)
from geneformer_grn.evaluation.effects import Measured
from geneformer_grn.model.encoder import Encoder
from geneformer_grn.perturbation.axes import gene_axes
from geneformer_grn.perturbation.engine import perturb_cells
from geneformer_grn.perturbation.requests import PerturbSettings, Request
from geneformer_grn.workflows.effect_truth import TruthSettings, read_effect_truth
from geneformer_grn.workflows.evaluate_effects import cell_baselines

STEM_LIKE = ("cortex_ips_lines_pollen", "ipsc_cardiomyocyte_diff", "embryo_blakeley")
NOT_STEM_LIKE = ("blood (cell line)", "breast (cell line)", "skin (cell line)", "skin (primary culture)")
_LEAST_CELLS = 3
_AXES_CELLS = 100
_READOUTS = ("cell", "genes", "expression")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What every set needs: the data, the model and its untrained copy, and how much may be spent.

    Of perturbed genes, those that most cells hold are taken, `n_genes` at most.
    """

    data: Path
    encoder: Encoder
    twin: Encoder
    n_cells: int
    n_genes: int
    n_null: int
    seed: int


def papalexi(bench: Bench) -> dict[str, Any]:
    """Score guides in THP-1 cells: targets within the panel, knocked out and deleted in control cells."""
    path = bench.data / "perturbation" / "papalexi_eccite_thp1_299g.h5ad"
    settings = TruthSettings(min_effect=0.1, read=ReadSettings(where="grna_fraction > 0.8", drop_empty=True))
    truth = read_effect_truth(path, bench.encoder.vocabulary, settings)
    controls = truth.controls
    assert controls is not None  # noqa: S101 - the file holds cells
    ranked = rank_cells(controls, bench.encoder.vocabulary)
    genes = [one.gene for one in truth.measured]
    requests = [
        request for kind in ("knockout", "delete") for request in requests_of(bench, ranked, genes, kind=kind)
    ]
    result = _scored(bench, ranked, requests, truth.measured, controls)
    return result | {
        "truth": truth.facts,
        "caveats": [
            "the panel has 299 genes, chosen by the package that ships it: cells of about 70 genes are far "
            "from those the model was trained on",
            "nothing tells which cells escaped their guide; responders are those of a rank-sum test over "
            "cells, with q <= 0.05 and 0.1 in mean log-normalised expression",
        ],
    }


def morphic(bench: Bench) -> dict[str, Any]:
    """Score bulk knock-outs in stem-cell-derived cells, perturbed in other cells of a like kind."""
    path = bench.data / "perturbation" / "morphic_bulk_ko_de_dev.h5ad"
    where = "kind == 'knockout_vs_WT' and ko_gene not in ['Auxin', 'day', 'hyp']"
    settings = TruthSettings(column="ko_ensembl", min_effect=0.5, read=ReadSettings(where=where))
    truth = read_effect_truth(path, bench.encoder.vocabulary, settings)
    cells = _stem_like(bench)
    ranked = rank_cells(cells, bench.encoder.vocabulary)
    genes = sorted({one.gene for one in truth.measured})
    requests = requests_of(bench, ranked, genes, kind="knockout")
    result = _scored(bench, ranked, requests, truth.measured, cells)
    return result | {
        "truth": truth.facts,
        "n_genes_not_perturbed": len(genes) - len(requests),
        "caveats": [
            f"no unperturbed counts were measured: {len(cells)} iPSC, embryo, fetal cortex and cardiomyocyte "
            "cells of other studies stand in for them, and the model has seen these cells in pretraining",
            "responders have q <= 0.05 and at least 0.5 log2; a knocked-out gene that is not among the 1,022 "
            "highest-ranked genes of at least 3 of these cells is not scored",
        ],
    }


def requests_of(bench: Bench, ranked: RankedCells, genes: Sequence[str], *, kind: str) -> list[Request]:
    """Return a request per gene: as many of the cells that hold it within the model's length as may be."""
    vocabulary = bench.encoder.vocabulary
    room = vocabulary.max_length - vocabulary.n_wrapping
    holders: dict[int, list[int]] = {vocabulary.token_of[gene]: [] for gene in genes}
    for cell in range(len(ranked)):
        for token in set(ranked.cell(cell)[:room].tolist()) & set(holders):
            holders[token].append(cell)
    rng = np.random.default_rng(bench.seed)
    best = sorted(holders.items(), key=lambda item: -len(item[1]))[: bench.n_genes]
    return [
        Request(genes=(token,), kind=kind, cells=np.sort(rng.permutation(cells)[: bench.n_cells]))
        for token, cells in best
        if len(cells) >= _LEAST_CELLS
    ]


def predictions_for(bench: Bench, ranked: RankedCells, requests: Sequence[Request]) -> list[Prediction]:
    """Return what the model says of each request, with what its untrained copy says."""
    found, sample = [], np.random.default_rng(bench.seed).permutation(len(ranked))[:_AXES_CELLS]
    for encoder in (bench.encoder, bench.twin):
        settings = PerturbSettings(readouts=_READOUTS)
        axes = gene_axes(encoder, ranked, cells=sample, seed=bench.seed)
        done = perturb_cells(encoder, ranked, requests, settings, axes=axes)
        predicted = predictions_of(done.expression, done.gene_shifts)
        found.append([replace(one, gene="+".join(sorted(one.gene.split("+")))) for one in predicted])
    return with_untrained(*found)


def _scored(
    bench: Bench,
    ranked: RankedCells,
    requests: Sequence[Request],
    measured: Sequence[Measured],
    cells: CellCounts,
) -> dict[str, Any]:
    predictions = predictions_for(bench, ranked, requests)
    genes = sorted({one.gene for one in predictions})
    rivals = rivals_of(measured, {"": cell_baselines(cells, bench.encoder.vocabulary, genes)})
    return {"cards": cards_of(predictions, measured, rivals, TrialSettings(seed=bench.seed))}


def _stem_like(bench: Bench) -> CellCounts:
    """Return the stem-cell-like cells of the pretraining files."""
    parts = []
    for name in STEM_LIKE:
        part = read_h5ad(bench.data / "pretrain" / f"{name}.h5ad")
        kept = ~part.obs["tissue"].astype(str).isin(NOT_STEM_LIKE)
        parts.append(anndata.AnnData(part.X[kept.to_numpy()], obs=part.obs[kept], var=part.var[[]]))
    joined = anndata.concat(parts, join="outer", fill_value=0)
    return read_counts(
        joined, bench.encoder.vocabulary, ReadSettings(drop_empty=True), name="stem-cell-like cells"
    )
