"""Perturbation passes a second: ours beside plain `BertForMaskedLM`, as the reference method runs it.

Both delete the same genes, one a pass, from the same real cells, with equal weights, and their shifts are
compared: a run in which they differ fails. README.md beside this file says what the keys of the JSON mean.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import importlib.util
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data_path import make_vocabulary, open_cells
from measuring import device, summarise, timed_rounds, versions
from pretrain_models import peak_memory_mb, reset_peak_memory
from torch import Tensor
from transformers import BertForMaskedLM

from geneformer_grn._runtime import choose_device, write_json
from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.model.checkpoint import ModelConfig, new_model
from geneformer_grn.model.encoder import Encoder, load_encoder
from geneformer_grn.perturbation.engine import perturb_cells
from geneformer_grn.perturbation.requests import PerturbSettings, Request

SHAPE = ModelConfig(n_layers=6, hidden_size=256, n_heads=4, ffn_size=512, activation="relu", dropout=0.0)
LONGEST = 2_048
TOLERANCE = 1e-5  # of a shift, fp32 against fp32
Cells = list[tuple[np.ndarray, np.ndarray]]  # of each cell: its tokens, and the positions deleted in turn


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    logging.getLogger("geneformer_grn").setLevel(logging.WARNING)
    target = choose_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    cells, source = open_tokens(options)
    cells = chosen(cells, options.cells, options.genes)
    contestants = make_contestants(options, target)
    if options.measure:
        print(json.dumps(measured_memory(contestants[options.measure], longest(cells), target)))
        return
    n_passes = sum(len(positions) + 1 for _, positions in cells)
    exact = plain_shifts(contestants["plain_fp32"], cells)  # compiles and warms, too
    shifts = {name: run(cells) for name, run in contestants.items() if name.startswith("ours")}
    difference = float(np.abs(shifts["ours_fp32"] - exact).max())
    if not difference <= TOLERANCE:
        raise RuntimeError(f"our shifts differ from the plain model's by up to {difference}")
    with tempfile.TemporaryDirectory() as folder:
        calls = {name: lambda _, run=run: run(cells) for name, run in contestants.items()}
        rows = timed_rounds(
            calls, Path(folder), repetitions=options.repetitions, n_cells=n_passes,
            at_most_s=40.0 if options.quick else None,
        )  # fmt: skip
    memory = {name: child_memory(name, arguments) for name in contestants}
    found = summarise(rows, ratios_of(list(contestants)))
    result = {
        "benchmark": "perturb",
        "device": device() | ({"gpu": torch.cuda.get_device_name(target)} if target.type == "cuda" else {}),
        "versions": versions(),
        "conditions": {
            "quick": options.quick, "seed": options.seed, "repetitions": options.repetitions,
            "threads": torch.get_num_threads(), "load_average_before": load, "shape": "v1-10m",
            "weights": "random", "cells": source, "lengths": [len(ids) for ids, _ in cells],
            "genes_a_cell": [len(positions) for _, positions in cells], "passes": n_passes,
            "kind": "delete", "encoder_layer": -1, "plain_batch": options.plain_batch,
            "token_budget": options.token_budget,
        },
        "rows": [row | {"passes_per_s": row["cells_per_s"]} for row in rows],
        **found,
        "memory_mb": memory,
        "memory_ratios": memory_ratios(memory),
        "largest_difference": difference,
        "bf16_noise": {"v1-10m": noise(shifts["ours_bf16"], shifts["ours_fp32"]), **mini_noise(options)},
    }  # fmt: skip
    write_json(options.out, result)
    report(result)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Perturbation passes a second beside plain BERT.")
    parser.add_argument("--out", type=Path, required=True, metavar="RESULTS.json")
    parser.add_argument("--quick", action="store_true", help="within 3 minutes on 2 cores")
    parser.add_argument("--arrays", type=Path, help="folder of input_ids.npy (uint16) and offsets.npy")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="default: torch's choice")
    parser.add_argument("--cells", type=int, help="default 5; with --quick 3")
    parser.add_argument(
        "--genes", type=int, help="neighbouring genes deleted in a cell; 100; with --quick 12"
    )
    parser.add_argument("--plain-batch", type=int, default=10, help="cells a batch of the plain model")
    parser.add_argument("--token-budget", type=int, help="of ours; default 16,384, on a GPU 65,536")
    parser.add_argument("--repetitions", type=int, help="default 5; with --quick 3, or fewer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # a contestant, alone in a process: its memory
    options = parser.parse_args(arguments)
    on_gpu = choose_device(options.device).type == "cuda"
    options.cells = options.cells or (3 if options.quick else 5)
    options.genes = options.genes or (12 if options.quick else 100)
    options.token_budget = options.token_budget or (65_536 if on_gpu else 16_384)
    options.repetitions = options.repetitions or (3 if options.quick else 5)
    return options


def open_tokens(options: argparse.Namespace) -> tuple[list[np.ndarray], str]:
    """Return the tokens of each cell, and where they are from: the demo's, given ones, else generated."""
    if options.arrays is None and importlib.util.find_spec("anndata"):
        from geneformer_grn.cells.counts import read_counts
        from geneformer_grn.cells.ranking import rank_cells
        from geneformer_grn.model.folder import read_vocabulary, resolve_checkpoint

        vocabulary = read_vocabulary(resolve_checkpoint("mini"))
        with as_file(files("geneformer_grn") / "_demo" / "cells.h5ad") as path:
            ranked = rank_cells(read_counts(path, vocabulary), vocabulary)
        cells = [ranked.cell(number)[:LONGEST] for number in range(len(ranked))]
        return cells, "the demo's, token numbers as in the vocabulary human"
    opened = open_cells(
        corpus=None, arrays=options.arrays, setting="v1", n_cells=1_000, seed=options.seed
    )  # fmt: skip
    distinct = np.random.default_rng(options.seed)
    genes = np.arange(opened.vocabulary.n_special, len(opened.vocabulary))
    if options.arrays is None:  # a cell holds a gene once
        lengths = np.minimum(opened.lengths, LONGEST)
        return [distinct.permutation(genes)[:length] for length in lengths], opened.source
    return [opened.cell(number)[:LONGEST] for number in range(len(opened))], opened.source


def chosen(cells: list[np.ndarray], count: int, n_genes: int) -> Cells:
    """Return `count` cells evenly over all ordered by length, and the positions of genes from their middle.

    The cost of a pass does not depend on the gene, and neighbours are what a run over every gene does
    together. Longer cells have more genes to delete, hence more passes: in proportion, `n_genes` on average.
    """
    order = np.argsort([len(ids) for ids in cells], kind="stable")
    picked = [cells[order[int((i + 0.5) / count * len(order))]] for i in range(count)]
    mean = np.mean([len(ids) for ids in picked])
    found = []
    for ids in picked:
        n = min(len(ids) - 1, max(1, round(n_genes * len(ids) / mean)))
        found.append((ids.astype(np.int64), (len(ids) - n) // 2 + np.arange(n)))
    return found


def longest(cells: Cells) -> Cells:
    """Return the longest cell with its first few deletions: what memory depends on."""
    ids, positions = max(cells, key=lambda cell: len(cell[0]))
    return [(ids, positions[:12])]


def make_contestants(
    options: argparse.Namespace, target: torch.device
) -> dict[str, Callable[[Cells], np.ndarray]]:
    """Return what computes the shifts of all deletions: the plain way, and ours in both precisions."""
    vocabulary = make_vocabulary("v1")
    model = new_model(SHAPE, vocabulary, seed=options.seed).eval()
    config = type(model.config).from_dict(model.config.to_dict())
    config._attn_implementation, config.output_hidden_states = "sdpa", True
    plain = BertForMaskedLM(config).eval()
    plain.load_state_dict(model.state_dict())
    settings = PerturbSettings(token_budget=options.token_budget, pooling="mean")
    contestants: dict[str, Callable[[Cells], np.ndarray]] = {
        "plain_fp32": Plain(plain.to(target), target, options.plain_batch)
    }
    if not options.quick:
        contestants["plain_fp32_one_by_one"] = Plain(plain, target, 1)
    for precision in ("fp32", "bf16"):
        encoder = Encoder(model.to(target), vocabulary, target, precision)  # type: ignore[arg-type]
        contestants[f"ours_{precision}"] = lambda cells, encoder=encoder: ours(encoder, settings, cells)
    return contestants


class Plain:
    """The reference's way: padded batches of a cell's perturbations, all layers, the head on every token."""

    def __init__(self, model: BertForMaskedLM, target: torch.device, size: int) -> None:
        self.model, self.target, self.size = model, target, size
        self.dtype = torch.float32

    def __call__(self, cells: Cells) -> np.ndarray:
        return np.concatenate([self.cell(ids, positions) for ids, positions in cells])

    def cell(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        original = self.states([ids])[0]
        shifts = []
        for start in range(0, len(positions), self.size):
            part = positions[start : start + self.size]
            after = self.states([np.delete(ids, position) for position in part])
            before = torch.stack([torch.cat([original[:p], original[p + 1 :]]) for p in part])
            cosines = torch.nn.CosineSimilarity(dim=2)(before.to(self.dtype), after.to(self.dtype))
            shifts.append(1.0 - cosines.mean(dim=1).double().cpu().numpy())
        return np.concatenate(shifts)

    def states(self, inputs: list[np.ndarray]) -> Tensor:
        width = max(len(ids) for ids in inputs)
        batch = torch.zeros((len(inputs), width), dtype=torch.int64)
        mask = torch.zeros_like(batch)
        for row, ids in enumerate(inputs):
            batch[row, : len(ids)], mask[row, : len(ids)] = torch.from_numpy(ids), 1
        with torch.no_grad():
            output = self.model(input_ids=batch.to(self.target), attention_mask=mask.to(self.target))
        return output.hidden_states[-2]


def plain_shifts(plain: Any, cells: Cells) -> np.ndarray:
    """Return the plain model's shifts with its cosines in float64, which the rounding of fp32 ones blurs."""
    plain.dtype = torch.float64
    shifts: np.ndarray = plain(cells)
    plain.dtype = torch.float32
    return shifts


def ours(encoder: Encoder, settings: PerturbSettings, cells: Cells, kind: str = "delete") -> np.ndarray:
    """Return the shifts by the engine, in the order of the cells and their positions."""
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids, _ in cells])])
    tokens = np.concatenate([ids for ids, _ in cells]).astype(np.uint16)
    ranked = RankedCells(tokens=tokens, offsets=offsets, n_counts=np.ones(len(cells)))
    requests = [
        Request(genes=(int(ids[position]),), kind=kind, cells=np.array([number]))
        for number, (ids, positions) in enumerate(cells)
        for position in positions
    ]
    return perturb_cells(encoder, ranked, requests, settings).cells["shift"].to_numpy()


def noise(rough: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """Return the median difference of bf16 shifts from fp32 ones, the median shift, and their ratio."""
    floor, effect = float(np.median(np.abs(rough - exact))), float(np.median(np.abs(exact)))
    return {"floor": floor, "median_effect": effect, "share": floor / effect}


def mini_noise(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the same of the shipped, trained model on the demo's cells: deleted and knocked out."""
    if options.arrays is not None or not importlib.util.find_spec("anndata"):
        return {}
    tokens, _ = open_tokens(options)
    encoders = [load_encoder("mini", device=options.device, precision=p) for p in ("fp32", "bf16")]
    room = encoders[0].vocabulary.max_length - encoders[0].vocabulary.n_wrapping
    cells = chosen([ids[:room] for ids in tokens], options.cells, options.genes)
    settings = PerturbSettings(token_budget=options.token_budget, pooling="mean")
    found = {}
    for kind in ("delete", "knockout"):
        exact, rough = (ours(encoder, settings, cells, kind) for encoder in encoders)
        found[f"mini_{kind}"] = noise(rough, exact)
    return found


def measured_memory(
    run: Callable[[Cells], np.ndarray], cells: Cells, target: torch.device
) -> dict[str, float | None]:
    """Return the memory before a contestant runs, libraries and weights, and at its peak, in MB."""
    reset_peak_memory(target)
    before = peak_memory_mb(target)
    run(cells)
    return {"before": before, "peak": peak_memory_mb(target)}


def child_memory(name: str, arguments: Sequence[str] | None) -> dict[str, float | None]:
    """Measure a contestant's memory in a process of its own, in which no other has left any."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = [sys.executable, __file__, *given, "--measure", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, float | None] = json.loads(done.stdout.splitlines()[-1])
    return result


def memory_ratios(memory: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """Return the plain way's peak over ours: whole, and what the run added to libraries and weights."""
    ratios: dict[str, float | None] = {}
    plain = memory["plain_fp32"]
    for precision in ("fp32", "bf16"):
        own = memory[f"ours_{precision}"]
        known = None not in (*plain.values(), *own.values())
        ratios[precision] = plain["peak"] / own["peak"] if known else None
        added = max(own["peak"] - own["before"], 1.0) if known else None
        ratios[f"{precision}_added"] = (plain["peak"] - plain["before"]) / added if added else None
    return ratios


def ratios_of(names: list[str]) -> dict[str, tuple[str, str]]:
    """Return what is compared: ours in either precision over the plain way in fp32."""
    ratios = {precision: (f"ours_{precision}", "plain_fp32") for precision in ("fp32", "bf16")}
    if "plain_fp32_one_by_one" in names:
        for precision in ("fp32", "bf16"):
            ratios[f"{precision}_vs_one_by_one"] = (f"ours_{precision}", "plain_fp32_one_by_one")
    return ratios


def report(result: dict[str, Any]) -> None:
    for name, value in result["cells_per_s"].items():
        print(f"{name}: {value:.2f} passes/s, {result['memory_mb'][name]['peak']} MB")
    for key in ("ratios", "memory_ratios", "largest_difference", "bf16_noise"):
        print(f"{key}: {result[key]}")


if __name__ == "__main__":
    main()
