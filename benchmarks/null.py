"""Whether p-values of perturbation effects are uniform where there is nothing to find, and discoveries rare.

Real cells, but nothing tells the tested genes from the null genes: they are drawn at random, and either the
model's weights are random or the labels of the cells are shuffled. A run is one whole screen. Counted is in
how many of 200 runs any q is below 0.05. The tested genes of ``shuffled_groups_front`` are among the highest
ranked, which have no equals above them: there p-values without the trend taken out are not uniform.

Cells are cropped to their first genes, so that a run takes seconds and not minutes. With shuffled labels the
model and the cells stay the same, so every gene of every cell is perturbed once, and all runs read from that.
Scenarios that the JSON already holds are not run again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import reduce
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from measuring import device, versions
from scipy import stats

from geneformer_grn._runtime import choose_device, plain_json, write_json
from geneformer_grn.cells.counts import read_counts
from geneformer_grn.cells.opening import read_anndata
from geneformer_grn.cells.ranking import RankedCells, rank_cells
from geneformer_grn.embedding import EmbedSettings, embed_cells
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.model.checkpoint import ModelConfig, new_model
from geneformer_grn.model.encoder import Encoder, load_encoder
from geneformer_grn.perturbation.effects import prepare, run_screen, summarise
from geneformer_grn.perturbation.engine import perturb_cells
from geneformer_grn.perturbation.matching import GroupRanks, rank_groups
from geneformer_grn.perturbation.requests import PerturbSettings, Request
from geneformer_grn.perturbation.screen import PerturbationPlan
from geneformer_grn.statistics import benjamini_hochberg

RANDOM_MODEL = ModelConfig(n_layers=3, hidden_size=64, n_heads=4, ffn_size=128)
ALPHA = 0.05
SCENARIOS = ["shuffled_groups", "shuffled_groups_front", "shuffled_states", "random_weights"]


def demo_cells() -> Any:
    """Return the cells that ship with the package."""
    with as_file(files("geneformer_grn") / "_demo" / "cells.h5ad") as path:
        return read_anndata(path)


def sample_cells(adata: Any, vocabulary: GeneVocabulary, n_cells: int, seed: int) -> RankedCells:
    """Return a random sample of the demo cells, ranked; what is cropped is up to the vocabulary."""
    return rank_cells(read_counts(adata, vocabulary, n_cells=n_cells, seed=seed), vocabulary)


def draw_genes(
    ranks: Sequence[GroupRanks], sizes: argparse.Namespace, seed: int, *, front: bool = False
) -> list[int]:
    """Return genes drawn at random from those that can be null genes, or from the highest ranked of them."""
    often = reduce(np.intersect1d, [group.detected(sizes.cells_per_gene) for group in ranks])
    if front:
        often = often[np.argsort(ranks[0].rank[often], kind="stable")[: 4 * sizes.genes]]
    return np.random.default_rng(seed).choice(often, sizes.genes, replace=False).tolist()


def random_weights(sizes: argparse.Namespace) -> Iterator[pd.DataFrame]:
    """Yield the effects of runs in which the weights, the cells and the tested genes are drawn anew."""
    vocabulary = replace(load_encoder("mini", device="cpu").vocabulary, max_length=sizes.length)
    adata = demo_cells()
    for seed in range(sizes.runs):
        model = new_model(RANDOM_MODEL, vocabulary, seed=seed).eval()
        encoder = Encoder(model, vocabulary, choose_device("cpu"))
        ranked = sample_cells(adata, vocabulary, sizes.cells, seed)
        plan = PerturbationPlan(cells_per_gene=sizes.cells_per_gene, n_null=sizes.nulls, seed=seed)
        genes = draw_genes(rank_groups(ranked, None, vocabulary, seed=seed), sizes, seed)
        yield run_screen(encoder, ranked, None, genes, plan).effects


class PerturbedOnce:
    """Every gene of some cells perturbed once by the shipped model, from which runs read.

    The shift towards any state follows from the shifts towards the axes of the embedding: the cosine with a
    state is the sum of those with the axes, each times the state's part along it.
    """

    def __init__(self, sizes: argparse.Namespace) -> None:
        encoder = load_encoder("mini", device="cpu")
        self.vocabulary = replace(encoder.vocabulary, max_length=sizes.length)
        encoder = replace(encoder, vocabulary=self.vocabulary)
        adata = demo_cells()
        self.ranked = sample_cells(adata, self.vocabulary, sizes.cells, 0)
        room = self.vocabulary.max_length - self.vocabulary.n_wrapping
        cells = [self.ranked.cell(cell)[:room].astype(np.int64) for cell in range(len(self.ranked))]
        rows = pd.Series(np.repeat(np.arange(len(cells)), [len(cell) for cell in cells]))
        holders = rows.groupby(np.concatenate(cells))
        requests = [Request(genes=(int(gene),), kind="delete", cells=of.to_numpy()) for gene, of in holders]
        axes = {str(axis): row for axis, row in enumerate(np.eye(encoder.hidden_size))}
        settings = PerturbSettings(readouts=("cell", "state"), pooling="mean")
        found = perturb_cells(encoder, self.ranked, requests, settings, states=axes).cells
        wide = dict(iter(found.groupby(["readout", "state"], sort=False)["shift"]))
        genes = np.repeat([request.genes[0] for request in requests], [len(r.cells) for r in requests])
        self.index = pd.MultiIndex.from_arrays([genes, np.concatenate([r.cells for r in requests])])
        self.cell = wide["cell", ""].to_numpy()
        self.axes = np.column_stack([wide["state", axis].to_numpy() for axis in axes])
        self.embedding = embed_cells(encoder, self.ranked, EmbedSettings(pooling="mean")).astype(np.float64)

    def reader(self, requests: list[Request], states: dict[str, np.ndarray]) -> Any:
        """Return a reader of the shifts of `requests`: of the cell, and towards each state."""

        def read(numbers: np.ndarray) -> pd.DataFrame:
            asked = [requests[number] for number in numbers]
            sizes = [len(request.cells) for request in asked]
            cells = np.concatenate([request.cells for request in asked])
            genes = np.repeat([request.genes[0] for request in asked], sizes)
            rows = self.index.get_indexer(pd.MultiIndex.from_arrays([genes, cells]))
            moved = {("cell", ""): self.cell}
            for state, mean in states.items():
                moved["state", state] = self.axes @ (mean / np.linalg.norm(mean))
            return pd.concat(
                pd.DataFrame(
                    {
                        "request": np.repeat(numbers, sizes), "cell_id": cells, "readout": readout,
                        "state": state, "shift": np.where(rows < 0, np.nan, shift[rows]),
                    }
                )
                for (readout, state), shift in moved.items()
            )  # fmt: skip

        return read


def shuffled(
    sizes: argparse.Namespace, once: PerturbedOnce, *, by: str, front: bool
) -> Iterator[pd.DataFrame]:
    """Yield the effects of runs with labels drawn at random: two groups, or two states, one perturbed."""
    for seed in range(sizes.runs):
        rng = np.random.default_rng([seed, 1])
        labels = rng.permutation(np.resize(["A", "B"], len(once.ranked))).astype(object)
        states = {}
        if by == "states":
            states = {f"state {name}": once.embedding[labels == name].mean(axis=0) for name in ("A", "B")}
            labels[labels == "B"] = None
        plan = PerturbationPlan(cells_per_gene=sizes.cells_per_gene, n_null=sizes.nulls, seed=seed)
        ranks = rank_groups(once.ranked, labels, once.vocabulary, seed=seed)
        genes = draw_genes(ranks, sizes, seed, front=front)
        prepared = prepare(once.ranked, labels, genes, once.vocabulary, plan)
        effects, _ = summarise(prepared, once.reader(prepared.screen.requests, states))
        yield effects[effects["readout"] == ("state" if states else "cell")]


def interval(found: int, runs: int) -> list[float]:
    """Return the 95 % interval of a share (Clopper and Pearson 1934)."""
    return [float(end) for end in stats.binomtest(found, runs).proportion_ci(0.95, "exact")]


def one_run(scenario: str, number: int, effects: pd.DataFrame, seconds: float) -> dict[str, Any]:
    """Return what one run found."""
    tested = effects[effects["p_value"].notna()]
    per_group = tested.groupby(["group", "readout", "state"], sort=False)["p_value"]
    q_per_group = per_group.transform(lambda p: benjamini_hochberg(p.to_numpy()))
    raw = tested.groupby(["readout", "state"], sort=False)["p_value_raw"]
    q_raw = raw.transform(lambda p: benjamini_hochberg(p.to_numpy()))
    return {
        "scenario": scenario, "run": number, "seconds": seconds,
        "tests": len(tested), "n_null_fewest": int(tested["n_null"].min()),
        "q_value": float(tested["q_value"].min()),
        "q_value_raw": float(q_raw.min()),
        "q_value_per_group": float(q_per_group.min()),
        "p_value": " ".join(f"{p:.4f}" for p in tested["p_value"]),  # a list would be a line a number
        "p_value_raw": " ".join(f"{p:.4f}" for p in tested["p_value_raw"]),
    }  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return for one scenario how often anything was found, and how p-values are spread."""
    found = {}
    for q in ("q_value", "q_value_raw", "q_value_per_group"):
        n = sum(row[q] < ALPHA for row in rows)
        found[q] = {"runs_with_any": n, "share": n / len(rows), "interval": interval(n, len(rows))}
    spread = {}
    for name in ("p_value", "p_value_raw"):
        p = np.concatenate([np.array(row[name].split(), dtype=float) for row in rows])
        spread[name] = {
            "n": len(p), "mean": float(p.mean()), "ks": float(stats.kstest(p, "uniform").statistic),
            **{f"share_to_{level:g}": float((p <= level).mean()) for level in (0.01, 0.05, 0.1, 0.5)},
        }  # fmt: skip
    return {"runs": len(rows), "any_q_below_0.05": found, "p": spread}


def main() -> None:
    """Write how often a screen with nothing to find finds something."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="few runs")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--cells", type=int, default=160)
    parser.add_argument("--length", type=int, default=96, help="genes of a cell that are kept")
    parser.add_argument("--cells-per-gene", type=int, default=4)
    parser.add_argument("--genes", type=int, default=10, help="tested genes in a run")
    parser.add_argument("--nulls", type=int, default=200)
    parser.add_argument("--scenarios", nargs="+", default=SCENARIOS, choices=SCENARIOS)
    sizes = parser.parse_args()
    if sizes.quick:
        sizes.runs = min(sizes.runs, 5)
    torch.set_num_threads(1)
    conditions = {key: value for key, value in vars(sizes).items() if key != "out"}
    result: dict[str, Any] = {
        "device": device(), "versions": versions("torch", "scipy"),
        "conditions": {**conditions, "random_model": asdict(RANDOM_MODEL), "model": "mini"},
        "summary": {}, "rows": [],
    }  # fmt: skip
    if sizes.out.is_file():
        found = json.loads(sizes.out.read_text(encoding="utf-8"))
        if found["conditions"] != plain_json(result["conditions"]):
            parser.error(f"{sizes.out.name} is of other conditions; give another --out")
        result |= {key: found[key] for key in ("summary", "rows")}
    missing = [scenario for scenario in sizes.scenarios if scenario not in result["summary"]]
    once = PerturbedOnce(sizes) if set(missing) - {"random_weights"} else None
    for scenario in missing:
        if scenario == "random_weights" or once is None:
            runs = random_weights(sizes)
        else:
            runs = shuffled(sizes, once, by=scenario.split("_")[1], front=scenario.endswith("front"))
        rows = []
        begun = time.perf_counter()
        for number, effects in enumerate(runs):
            rows.append(one_run(scenario, number, effects, time.perf_counter() - begun))
            begun = time.perf_counter()
        result["summary"][scenario] = summary(rows)
        result["rows"] += rows
        write_json(sizes.out, result)


if __name__ == "__main__":
    main()
