"""Whether a screen in silico finds the gene behind a state: simulated cells, a model trained on them, ranks.

Cells are simulated in two states that differ by one gene's production alone. A small model is pretrained on
them with the package's own pretraining, never told of the states, and every gene is perturbed in held-out
cells of one state. Reported is the driver's rank among all genes, for each kind and readout, next to methods
without a model. The driver's own expression differs between the states, so differential expression finds it
at once: a model that finds it too shows that a screen works, not that it is needed.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from measuring import device, versions

from geneformer_grn._runtime import choose_device, write_json
from geneformer_grn.cells.corpora.tokenizing import write_corpus
from geneformer_grn.cells.counts import CellCounts, log_normalised, read_counts
from geneformer_grn.cells.ranking import rank_cells
from geneformer_grn.cells.vocabulary_build import VocabularySettings, build_vocabulary
from geneformer_grn.embedding import EmbedSettings, embed_cells
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.model.checkpoint import ModelConfig, new_model
from geneformer_grn.model.encoder import Encoder, load_encoder
from geneformer_grn.network.inference import ridge_edges
from geneformer_grn.network.simulated_truth import Simulation, SimulationSettings, simulate
from geneformer_grn.network.simulator_network import RegulatoryNetwork
from geneformer_grn.network.topologies import TopologySettings
from geneformer_grn.perturbation.effects import CellFacts, run_screen
from geneformer_grn.perturbation.matching import rank_groups
from geneformer_grn.perturbation.requests import PerturbSettings
from geneformer_grn.perturbation.screen import PerturbationPlan
from geneformer_grn.training.config import read_config
from geneformer_grn.training.pretrain import run_pretraining

RECIPE = Path(__file__).parents[1] / "pretrain" / "configs" / "mini.toml"
TOP = 0.01
MODEL = ModelConfig(n_layers=3, hidden_size=64, n_heads=4, ffn_size=256)
TOKEN_BUDGET = 4096
NEVER = 10**9
# What takes a cell from the state to the other: losing the driver turns it off, gaining it turns it on.
KINDS = {
    "delete": ("on", "off"), "knockout": ("on", "off"), "inhibit": ("on", "off"),
    "overexpress": ("off", "on"), "activate": ("off", "on"),
}  # fmt: skip
TWIN_KINDS = ("delete", "knockout", "overexpress")  # of the untrained model


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the rank of the driver by every method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="RESULTS.json")
    parser.add_argument("--quick", action="store_true", help="100 genes, one network, little training")
    parser.add_argument("--genes", type=int, default=400)
    parser.add_argument("--cells", type=int, default=6_000, help="a sixth of them held out")
    parser.add_argument("--length", type=int, default=128, help="genes of a cell that the model reads")
    parser.add_argument("--steps", type=int, default=350, help="of pretraining")
    parser.add_argument("--cells-per-gene", type=int, default=10, help="in which each is perturbed")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated: a network, a driver, a model each")
    parser.add_argument("--drivers", default="largest", help="of largest and middle, by reach")
    sizes = parser.parse_args(arguments)
    if sizes.quick:
        sizes.genes, sizes.cells, sizes.length, sizes.seeds = 100, 1_200, 48, "0"
        sizes.steps, sizes.cells_per_gene, sizes.drivers = min(sizes.steps, 150), 10, "largest"
    torch.set_num_threads(1)
    told = ("genes", "cells", "length", "steps", "cells_per_gene", "quick")
    conditions = {name: getattr(sizes, name) for name in told} | {
        "model": asdict(MODEL), "token_budget": TOKEN_BUDGET, "recipe": RECIPE.name, "top": TOP,
        "kinds": {kind: f"{start} to {goal}" for kind, (start, goal) in KINDS.items()},
    }  # fmt: skip
    for seed in map(int, sizes.seeds.split(",")):
        for which in sizes.drivers.split(","):
            result = read(sizes.out, conditions)
            if any((case["seed"], case["driver"]) == (seed, which) for case in result["cases"]):
                continue
            case, rows = run_case(seed, which, sizes)
            print(json.dumps(case), flush=True)
            result["cases"].append(case)
            result["rows"] += rows
            result["summary"] = summarise(result["rows"])
            write_json(sizes.out, result)


def read(path: Path, conditions: dict[str, Any]) -> dict[str, Any]:
    """Return the results so far; those under other conditions are refused."""
    if not path.is_file():
        machine = {"device": device(), "versions": versions("torch"), "load_average": os.getloadavg()[0]}
        return {"benchmark": "driver", **machine, "conditions": conditions, "cases": [], "rows": []}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if found["conditions"] != conditions:
        raise SystemExit(f"{path.name} holds runs under other conditions; give another --out")
    return found


def run_case(seed: int, which: str, sizes: argparse.Namespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what one simulation and its model are, and the driver's rank by every method."""
    started = time.perf_counter()
    simulation = simulated(seed, which, sizes)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vocabulary, encoder, training = trained(simulation, folder, seed, sizes)
        held_out = read_counts(folder / "held_out.h5ad", vocabulary)
    driver = int(vocabulary.token_of[str(simulation.driver)])
    untrained = new_model(MODEL, vocabulary, seed=seed).eval()
    models = {"trained": encoder, "untrained": Encoder(untrained, vocabulary, choose_device("cpu"))}
    rows = [
        {"model": "none", "kind": "", "readout": method, "statistic": "", **rank_of(driver, scores)}
        for method, scores in baselines(held_out, vocabulary).items()
    ]
    for model, used in models.items():
        for kind in KINDS if model == "trained" else TWIN_KINDS:
            rows += [
                {"model": model, "kind": kind, "readout": readout, "statistic": statistic, **rank}
                for (readout, statistic), rank in screened(used, held_out, kind, driver, sizes, seed).items()
            ]
    case = {"seed": seed, "driver": which, **described(simulation), **training}
    case["seconds"] = round(time.perf_counter() - started, 1)
    return case, [{"seed": seed, "driver": which, **row} for row in rows]


def simulated(seed: int, which: str, sizes: argparse.Namespace) -> Simulation:
    """Return cells in the states of a driver: the regulator of most genes, or one in the middle."""
    settings = {"topology": TopologySettings(n_genes=sizes.genes)}
    network = simulate(SimulationSettings(n_cells=1, **settings), seed=seed).network
    name = chosen_driver(network, which)
    return simulate(SimulationSettings(n_cells=sizes.cells, driver=name, **settings), seed=seed)


def chosen_driver(network: RegulatoryNetwork, which: str) -> str:
    """Return the ``largest`` regulator by the genes it leads to, or the one in the ``middle``."""
    reach = [int(np.isfinite(network.distances(gene)).sum()) for gene in network.regulators]
    order = np.argsort(reach, kind="stable")
    return str(network.genes[network.regulators[order[-1 if which == "largest" else len(order) // 2]]])


def described(simulation: Simulation) -> dict[str, Any]:
    """Return who the driver is, and how far its state reaches."""
    place = int(np.flatnonzero(simulation.network.genes == simulation.driver)[0])
    hops = simulation.network.distances(place)
    return {
        "gene": simulation.driver, "targets": int((hops == 1).sum()),
        "leads_to": int(np.isfinite(hops).sum()) - 1,
    }  # fmt: skip


def trained(
    simulation: Simulation, folder: Path, seed: int, sizes: argparse.Namespace
) -> tuple[GeneVocabulary, Encoder, dict[str, Any]]:
    """Return the vocabulary of the cells, a model pretrained on five sixths of them, and how well it learned.

    What is held out lies in `folder` as ``held_out.h5ad`` then.
    """
    n = len(simulation.cells) * 5 // 6
    files = {"train": simulation.cells[:n], "held_out": simulation.cells[n:]}
    for name, cells in files.items():
        cells.write_h5ad(folder / f"{name}.h5ad")
    length = sizes.length + 2  # <cls> and <eos>
    vocabulary = build_vocabulary([folder / "train.h5ad"], VocabularySettings(max_length=length))
    for name in files:
        write_corpus([folder / f"{name}.h5ad"], folder / f"{name}_corpus", vocabulary)
    shape = {f"model.{key}": value for key, value in asdict(MODEL).items() if key != "activation"}
    changes = {
        **shape, "data.corpus": folder / "train_corpus", "data.validation": folder / "held_out_corpus",
        "data.token_budget": TOKEN_BUDGET, "optim.warmup_steps": max(1, sizes.steps // 15),
        "run.max_steps": sizes.steps, "run.seed": seed, "run.precision": "fp32", "run.compile": "false",
        "run.device": "cpu", "run.threads": 1, "run.validate_every": NEVER, "run.checkpoint_every": NEVER,
        "run.export_dtype": "float32",
    }  # fmt: skip
    config = read_config(RECIPE, [f"{key}={value}" for key, value in changes.items()])
    summary = run_pretraining(config, folder / "run")
    if not summary["finished"]:
        raise SystemExit("training was stopped; the cases before are written")
    facts = {key: summary[key] for key in ("step", "tokens", "validation_loss", "baseline_loss")}
    return vocabulary, load_encoder(folder / "run" / "model", device="cpu"), facts


def screened(
    encoder: Encoder, counts: CellCounts, kind: str, driver: int, sizes: argparse.Namespace, seed: int
) -> dict[tuple[str, str], dict[str, Any]]:
    """Perturb every gene in cells of the kind's start state; return the driver's rank by each readout.

    ``goal`` is the shift towards the mean of the goal state's cells, ``goal_less_start`` that less the shift
    towards the start's. ``excess`` is less the mean of the matched null genes.
    """
    start, goal = KINDS[kind]
    ranked, vocabulary = rank_cells(counts, encoder.vocabulary), encoder.vocabulary
    labels = counts.obs["state"].astype(str).to_numpy(dtype=object)
    embedded = embed_cells(encoder, ranked, EmbedSettings()).astype(np.float64)
    states = {name: embedded[labels == name].mean(axis=0) for name in (start, goal)}
    genes = list(range(vocabulary.n_special, len(vocabulary)))
    found = run_screen(
        encoder, ranked, np.where(labels == start, labels, None), genes,
        PerturbationPlan(kind=kind, cells_per_gene=sizes.cells_per_gene, seed=seed),
        settings=PerturbSettings(readouts=("cell", "state"), pooling="mean", quartiles=3),
        states=states, known=CellFacts(counts=counts),
    )  # fmt: skip
    return ranks_of_effects(found.effects, vocabulary, driver, goal=goal)


def ranks_of_effects(
    effects: pd.DataFrame, vocabulary: GeneVocabulary, driver: int, *, goal: str
) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the driver's rank by each readout of a screen, raw and less the matched null."""
    scores: dict[tuple[str, str], np.ndarray] = {}
    for (readout, state), part in effects.groupby(["readout", "state"], sort=False):
        tokens = part["gene"].map(vocabulary.token_of).to_numpy()
        for statistic, less in (("shift", 0.0), ("excess", part["null_mean"].to_numpy())):
            values = np.full(len(vocabulary), np.nan)
            values[tokens] = part["shift"].to_numpy() - less
            name = readout if readout == "cell" else "goal" if state == goal else "start"
            scores[name, statistic] = values
    for statistic in ("shift", "excess"):
        scores["goal_less_start", statistic] = scores["goal", statistic] - scores.pop(("start", statistic))
    return {key: rank_of(driver, values) for key, values in scores.items()}


def baselines(counts: CellCounts, vocabulary: GeneVocabulary) -> dict[str, np.ndarray]:
    """Return ``(V,)`` scores of every gene by methods without a model, from the held-out cells.

    ``front_in_on`` and ``behind_in_off`` are the mean place in the ranking, where it is lacking the last one:
    what an edit of the ranking does by position alone, since deleting what is in front, or putting in front
    what is behind, moves all other genes by one.
    """
    expression = log_normalised(counts).toarray().astype(np.float64)
    is_on = counts.obs["state"].to_numpy() == "on"
    on, off = expression[is_on], expression[~is_on]
    difference = on.mean(axis=0) - off.mean(axis=0)
    error = np.sqrt(on.var(axis=0, ddof=1) / len(on) + off.var(axis=0, ddof=1) / len(off))
    names = vocabulary.ensembl_ids[counts.column_tokens]
    pairs = ridge_edges(expression, names, regulators=list(names), targets=list(names))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "differential_expression": np.abs(difference) / error,
            "fold_change": np.abs(difference),
            "correlation_with_state": np.abs(
                (expression - expression.mean(axis=0)).T @ (is_on - is_on.mean()) / expression.std(axis=0)
            ),
            "ridge_degree": np.nansum(np.abs(pairs.weights), axis=1),
        }  # fmt: skip
    scores = {}
    for name, values in found.items():
        scores[name] = np.full(len(vocabulary), np.nan)
        scores[name][counts.column_tokens] = values
    labels = counts.obs["state"].astype(str).to_numpy(dtype=object)
    for group in rank_groups(rank_cells(counts, vocabulary), labels, vocabulary, seed=0):
        place = 1.0 - group.detection * (1.0 - group.rank)
        place[: vocabulary.n_special] = np.nan
        scores["front_in_on" if group.name == "on" else "behind_in_off"] = (
            -place if group.name == "on" else place
        )
    return scores


def rank_of(driver: int, scores: np.ndarray) -> dict[str, Any]:
    """Return the driver's place from the top, ties counted against it, among the genes with a score."""
    genes = int(np.isfinite(scores).sum())
    if not np.isfinite(scores[driver]):
        return {"rank": None, "genes": genes, "top": False}
    rank = int(np.sum(scores >= scores[driver]))
    return {"rank": rank, "genes": genes, "top": rank <= max(1, int(TOP * genes))}


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each method and choice of driver its ranks over seeds, and how often it was at the top."""
    table = pd.DataFrame(rows)
    keys = ["driver", "model", "kind", "readout", "statistic"]
    return [
        {
            **dict(zip(keys, key, strict=True)), "cases": len(part),
            "ranks": [None if pd.isna(rank) else int(rank) for rank in part["rank"]],
            "top": int(part["top"].sum()),
        }
        for key, part in table.groupby(keys, sort=False)
    ]  # fmt: skip


if __name__ == "__main__":
    main()
