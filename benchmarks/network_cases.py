"""What networks.py compares methods on: simulated cells, simulated sets of others, and blood."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geneformer_grn.cells.counts import ReadSettings, log_normalised
from geneformer_grn.cells.ranking import rank_cells
from geneformer_grn.evaluation.masked_genes import prepare
from geneformer_grn.extraction.attention import attention_by_head
from geneformer_grn.extraction.head_selection import select_heads
from geneformer_grn.extraction.methods import score_with_model
from geneformer_grn.network.boosting import BoostingSettings
from geneformer_grn.network.graph_autoencoder import AutoencoderSettings
from geneformer_grn.network.methods import GENE_LIMITS, MODEL_FREE
from geneformer_grn.network.ordering import ordered_edges, scaled_levels
from geneformer_grn.network.scored import ScoredPairs
from geneformer_grn.network.simulated_truth import SimulationSettings, recount, simulate
from geneformer_grn.network.topologies import TopologySettings
from geneformer_grn.network.trees import ForestSettings
from geneformer_grn.network.truth import Truth, canonical_genes, read_truth, truth_of
from geneformer_grn.workflows.cells import OpenSettings, open_cells
from geneformer_grn.workflows.regulators import choose_genes

DEPTHS = {"clean": None, "5k": 5_000.0, "1k": 1_000.0, "100": 100.0}
SLOW: dict[str, dict[str, Any]] = {
    "graphical_lasso": {},
    "genie3": {"settings": ForestSettings(n_trees=10, max_features=10, min_leaf=5, max_cells=1_000)},
    "grnboost": {"settings": BoostingSettings(max_trees=50, max_cells=1_000)},
    "graph_autoencoder": {"settings": AutoencoderSettings(epochs=100)},
}
"""Methods that take most of the time, with settings that take less of it; all others have their defaults."""
MODEL = {"attention": {}, "embedding": {}, "contextual": {}, "attention_rollout": {},
         "gene_shifts": {"cells_per_regulator": 5, "min_support": 3},
         "influence": {"cells_per_regulator": 5, "min_support": 3}}  # fmt: skip
SELECTED, UNTRAINED = "attention_selected", "untrained_"
TRUTHS = {
    "TRRUST": ("trrust_v2_human.tsv.gz", None, ""),
    "DoRothEA A-C": ("dorothea_human_A-E.tsv.gz", ("A", "B", "C"), ""),
    "DoRothEA D-E": ("dorothea_human_A-E.tsv.gz", ("D", "E"), ""),
    "STRING": ("beeline_STRING_human.tsv.gz", None, "partly inferred from co-expression"),
}
Source = Callable[[], ScoredPairs]


@dataclass(frozen=True, eq=False, kw_only=True)
class Case:
    """Cells, what scores their edges, and the truths to judge them by.

    `by_truth` are sources that look at a truth, out of fold.
    """

    name: str
    depth: str
    seed: int
    expression: Any
    genes: np.ndarray
    regulators: list[str]
    targets: list[str]
    sources: dict[str, Source]
    truths: dict[str, Truth]
    by_truth: dict[str, Callable[[Truth], ScoredPairs]] = field(default_factory=dict)
    model_based: frozenset[str] = frozenset()


def from_counts(
    expression: Any, levels: Any, genes: np.ndarray, pairs: Mapping[str, Any], *, slow: bool = True
) -> dict[str, Source]:
    """Return the methods that need no model; those that take fewer genes are left out, slow ones if asked."""
    n_genes = len(set(pairs["regulators"]) | set(pairs["targets"]))

    def source(method: str) -> Source:
        return lambda: MODEL_FREE[method](expression, genes, **pairs, **SLOW.get(method, {}))

    taken = [name for name in MODEL_FREE if n_genes <= GENE_LIMITS.get(name, n_genes)]
    found = {name: source(name) for name in taken if slow or name not in SLOW}
    return found | {"ordered": lambda: ordered_edges(levels, genes, **pairs)}


def simulated(seed: int, sizes: Mapping[str, Any]) -> Iterator[Case]:
    """Yield one network's cells at each depth."""
    topology = TopologySettings(n_genes=sizes["genes"])
    settings = SimulationSettings(topology=topology, n_cells=sizes["cells"], names="synthetic")
    simulation = simulate(settings, seed=seed)
    truth = truth_of(simulation.truth.assign(sign=0)[["source", "target", "sign"]], name="simulated")
    depths = [DEPTHS[depth] for depth in sizes["depths"]]
    for depth, counts in zip(sizes["depths"], recount(simulation, depths).values(), strict=True):
        genes = np.array(counts.var_names, dtype=object)
        clean = depth == "clean"
        levels = np.asarray(counts.X) if clean else scaled_levels(counts.X).toarray()
        expression = np.log1p(levels) if clean else np.log1p(levels / levels.sum(axis=1).mean() * 1e4)
        pairs = {"regulators": genes[counts.var["is_regulator"]].tolist(), "targets": genes.tolist()}
        yield Case(
            name="simulated", depth=depth, seed=seed, expression=expression, genes=genes, **pairs,
            sources=from_counts(expression, levels, genes, pairs, slow=seed == 0),
            truths={"simulated": truth},
        )  # fmt: skip


def published(data: Path) -> Iterator[Case]:
    """Yield the simulated sets of others that come with their network."""
    folder = data / "grn" / "simulated"
    gsd = pd.read_csv(folder / "beeline_GSD" / "ExpressionData.csv.gz", index_col=0)
    edges = pd.read_csv(folder / "beeline_GSD" / "GroundTruthNetwork.csv")
    yield _published("BoolODE GSD", gsd, edges["Gene1"].astype(str), edges["Gene2"].astype(str))
    ds4 = pd.read_csv(folder / "sergio" / "DS4__simulated_noNoise_T_0.csv.gz", index_col=0)
    edges = pd.read_csv(folder / "sergio" / "DS4__gt_GRN.csv", header=None, dtype=str)
    ds4.index = ds4.index.astype(str)
    yield _published("SERGIO DS4", np.log1p(ds4), edges[0], edges[1])


def _published(name: str, by_gene: pd.DataFrame, source: pd.Series, target: pd.Series) -> Case:
    genes = canonical_genes(by_gene.index)
    expression = by_gene.to_numpy(np.float64).T
    edges = {"source": canonical_genes(source), "target": canonical_genes(target), "sign": 0}
    truth = truth_of(pd.DataFrame(edges), name=name)
    pairs = {"regulators": sorted(set(truth.edges["source"]) & set(genes)), "targets": genes.tolist()}
    return Case(
        name=name, depth="clean", seed=0, expression=expression, genes=genes, **pairs,
        sources=from_counts(expression, np.expm1(expression), genes, pairs), truths={name: truth},
    )  # fmt: skip


def blood(data: Path, sizes: Mapping[str, Any], seed: int = 0) -> Iterator[Case]:
    """Yield real blood cells that the model was not trained on, with every truth."""
    opened = open_cells(
        data / "dev_eval" / "pbmc3k.h5ad", OpenSettings(read=ReadSettings(drop_empty=True)), with_model=True
    )
    counts, vocabulary, encoder = opened.counts, opened.vocabulary, opened.encoder
    expression = log_normalised(counts)
    truths = {
        name: read_truth(data / "grn" / file, confidence=classes, circular=circular)
        for name, (file, classes, circular) in TRUTHS.items()
        if name in sizes.get("truths", TRUTHS)
    }
    known = set().union(*(set(truth.edges["source"]) for truth in truths.values() if not truth.circular))
    ids = vocabulary.ensembl_ids
    regulators, targets = choose_genes(
        counts, expression, vocabulary, regulators=tuple(sorted(known & set(ids))),
        groups={"all": np.arange(len(counts))}, max_targets=sizes["targets"], min_support=sizes["support"],
    )  # fmt: skip
    genes = ids[counts.column_tokens]
    pairs = {"regulators": ids[regulators].tolist(), "targets": ids[targets].tolist()}
    depth = np.asarray(expression.expm1().sum(axis=1)).ravel()
    levels = expression.expm1().multiply(1 / depth.mean()).tocsr()
    sources = from_counts(expression, levels, genes, pairs, slow=False)
    twin = replace(encoder, model=prepare(encoder, None, seed=seed).untrained, name="untrained")
    ranked = rank_cells(counts, vocabulary)
    cells = np.sort(np.random.default_rng(seed).permutation(len(counts))[: sizes["model_cells"]])
    tokens = {"regulators": regulators, "targets": targets, "cells": cells}
    by_truth = {}
    for prefix, model in (("", encoder), (UNTRAINED, twin)):
        for method in sizes["model_methods"]:
            sources[prefix + method] = _of_model(method, model, ranked, tokens)
        by_truth[prefix + SELECTED] = _selected(model, ranked, tokens)
    yield Case(
        name="pbmc3k", depth="counts", seed=seed, expression=expression, genes=genes, **pairs,
        sources=sources, truths=truths, by_truth=by_truth,
        model_based=frozenset((*sizes["model_methods"], SELECTED)),
    )  # fmt: skip


def _of_model(method: str, encoder: Any, ranked: Any, tokens: Mapping[str, Any]) -> Source:
    return lambda: score_with_model(method, encoder, ranked, **tokens, **MODEL[method])


def _selected(encoder: Any, ranked: Any, tokens: Mapping[str, Any]) -> Callable[[Truth], ScoredPairs]:
    """Return what chooses heads by a truth; the cells are read once for all truths."""
    kept: dict[str, Any] = {}

    def score(truth: Truth) -> ScoredPairs:
        if not kept:
            kept.update(heads=attention_by_head(encoder, ranked, **tokens))
        return select_heads(kept["heads"], truth).scores

    return score


def shared_data() -> Path:
    """Return the folder of shared data, whether it is there or not."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    return Path(os.environ.get("GENEFORMER_GRN_SHARED", beside)) / "data"
