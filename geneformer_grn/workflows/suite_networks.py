"""Suite: the model's attention edges against known networks, beside correlation and target degree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geneformer_grn.workflows.suite_bench import Bench
from geneformer_grn.workflows.suite_rows import MODEL, UNTRAINED, suite_row

if TYPE_CHECKING:
    from geneformer_grn.cells.counts import CellCounts
    from geneformer_grn.network.scored import ScoredPairs
    from geneformer_grn.network.truth import Truth

TASK = "network truth"
N_GENES, N_SIMULATED = 150, 400
N_TARGETS, N_CELLS, MIN_SUPPORT = 300, 100, 50
_RESAMPLES = 300
_MEASURES = {"auprc_ratio": "AUPRC over chance", "auroc": "AUROC"}


def simulated_rows(bench: Bench) -> list[dict[str, Any]]:
    """Return the rows of a network that the package's simulator drew, and of cells that it made.

    Genes carry names of the vocabulary by chance, so that what a model knows of a name is of no use: left are
    the ranks of these cells.

    Raises
    ------
    ValueError
        The vocabulary holds too few of the simulated genes.
    """
    from geneformer_grn.cells.counts import ReadSettings, read_counts
    from geneformer_grn.network.simulated_truth import SimulationSettings, simulate
    from geneformer_grn.network.topologies import TopologySettings
    from geneformer_grn.network.truth import truth_of

    settings = SimulationSettings(topology=TopologySettings(n_genes=N_GENES), n_cells=N_SIMULATED)
    simulation = simulate(settings, seed=bench.seed)
    vocabulary = bench.encoder.vocabulary
    counts = read_counts(simulation.cells, vocabulary, ReadSettings(drop_empty=True), name="simulated cells")
    truth = truth_of(simulation.truth.assign(sign=0)[["source", "target", "sign"]], name="simulated")
    known = set(simulation.truth["source"])
    ids = vocabulary.ensembl_ids[counts.column_tokens]
    regulators = counts.column_tokens[np.isin(ids.astype(str), sorted(known))].astype(np.int64)
    return edge_rows(
        bench, counts, {"simulated network": truth}, regulators=regulators,
        targets=counts.column_tokens.astype(np.int64), n_cells=N_SIMULATED,
    )  # fmt: skip


def blood_rows(bench: Bench) -> list[dict[str, Any]]:
    """Return the rows of blood cells against TRRUST and classes A to C of DoRothEA."""
    from geneformer_grn.cells.counts import log_normalised
    from geneformer_grn.network.truth import read_truth
    from geneformer_grn.workflows.regulators import choose_genes

    counts, vocabulary = bench.counts("pbmc3k"), bench.encoder.vocabulary
    truths = {
        "pbmc3k, TRRUST": read_truth(bench.path("trrust")),
        "pbmc3k, DoRothEA A-C": read_truth(bench.path("dorothea"), confidence=("A", "B", "C")),
    }
    known = set().union(*(truth.edges["source"] for truth in truths.values()))
    regulators, targets = choose_genes(
        counts, log_normalised(counts), vocabulary,
        regulators=tuple(sorted(known & set(vocabulary.ensembl_ids))),
        groups={"all": np.arange(len(counts))}, max_targets=N_TARGETS,
        min_support=min(MIN_SUPPORT, len(counts) // 4),
    )  # fmt: skip
    return edge_rows(bench, counts, truths, regulators=regulators, targets=targets, n_cells=N_CELLS)


def edge_rows(
    bench: Bench,
    counts: CellCounts,
    truths: Mapping[str, Truth],
    *,
    regulators: np.ndarray,
    targets: np.ndarray,
    n_cells: int,
) -> list[dict[str, Any]]:
    """Return how well attention finds known edges.

    Parameters
    ----------
    bench
        The model.
    counts
        Cells; correlation is over all of them, attention over a sample.
    truths
        What the rows call the data -> known edges.
    regulators, targets
        Tokens.
    n_cells
        Cells that the model reads.
    """
    from geneformer_grn.cells.counts import log_normalised
    from geneformer_grn.evaluation.networks import judged_pairs
    from geneformer_grn.extraction.methods import score_with_model
    from geneformer_grn.network.inference import correlation_edges

    ids, ranked = bench.encoder.vocabulary.ensembl_ids, bench.ranked(counts)
    cells = np.sort(np.random.default_rng(bench.seed).permutation(len(counts))[:n_cells])
    scored: dict[str, ScoredPairs] = {
        name: score_with_model(
            "attention", encoder, ranked, regulators=regulators, targets=targets, cells=cells,
            token_budget=bench.token_budget,
        )
        for name, encoder in ((MODEL, bench.encoder), (UNTRAINED, bench.twin))
    }  # fmt: skip
    genes = {"regulators": ids[regulators].tolist(), "targets": ids[targets].tolist()}
    expression = log_normalised(counts)
    scored["correlation"] = correlation_edges(expression, ids[counts.column_tokens], **genes)
    rows = []
    for data, truth in truths.items():
        pairs = judged_pairs(genes["regulators"], genes["targets"], truth)
        strengths = {name: _laid_out(each, pairs) for name, each in scored.items()}
        strengths["target_degree"] = _target_degree(scored["correlation"], truth, pairs)
        rows += _rows(strengths, pairs, data, seed=bench.seed)
    return rows


def _rows(strengths: Mapping[str, np.ndarray], pairs: Any, data: str, *, seed: int) -> list[dict[str, Any]]:
    from geneformer_grn.evaluation.networks import FEWEST_REGULATORS, resampled, score_strengths

    points = {name: score_strengths(each, pairs, seed=seed, n=1) for name, each in strengths.items()}
    enough = len(pairs.regulators) >= FEWEST_REGULATORS
    drawn = {
        name: resampled(each, pairs, seed=seed, n=_RESAMPLES) if enough else {}
        for name, each in strengths.items()
    }
    note = (
        f"attention of all heads, mean; {pairs.known.sum():,} known edges of {len(pairs.regulators):,} "
        f"regulators × {len(pairs.targets):,} targets; target degree knows the other regulators' edges"
    )
    rows = []
    for measure, title in _MEASURES.items():
        ahead = {}
        for name in strengths:
            gain = {"mean": points[MODEL][measure] - points[name][measure]}
            if enough:
                gaps = drawn[MODEL][measure] - drawn[name][measure]
                gain["low"], gain["high"] = (float(end) for end in np.nanquantile(gaps, [0.025, 0.975]))
            ahead[name] = gain
        values = {name: point[measure] for name, point in points.items()}
        rows.append(
            suite_row(TASK, title, data, values=values, ahead=ahead, n=len(pairs.regulators), note=note)
        )
    return rows


def _laid_out(scored: ScoredPairs, pairs: Any) -> np.ndarray:
    """Return ``(R, T)`` strengths of the judged pairs, -1 where there is no score."""
    from geneformer_grn.network.truth import canonical_genes

    row = pd.Index(canonical_genes(scored.regulators)).get_indexer(pairs.regulators)
    place = pd.Index(canonical_genes(scored.targets)).get_indexer(pairs.targets)
    return np.nan_to_num(np.abs(scored.weights[np.ix_(row, place)].astype(np.float64)), nan=-1.0)


def _target_degree(like: ScoredPairs, truth: Truth, pairs: Any) -> np.ndarray:
    """Return how many regulators of other folds each target is known to have, ``(R, T)``; 0 if too few."""
    from geneformer_grn.network.combination import known_pairs
    from geneformer_grn.network.folds import FOLDS
    from geneformer_grn.network.truth import canonical_genes

    degree = np.zeros(like.weights.shape)
    try:
        known = known_pairs(like, truth)
    except ValueError:  # fewer regulators with edges than folds
        return np.zeros(pairs.known.shape)
    for fold in range(FOLDS):
        others = (known.fold >= 0) & (known.fold != fold)
        degree[known.fold == fold] = (known.known & known.judged)[others].sum(axis=0)
    row = pd.Index(canonical_genes(like.regulators)).get_indexer(pairs.regulators)
    place = pd.Index(canonical_genes(like.targets)).get_indexer(pairs.targets)
    return degree[np.ix_(row, place)]
