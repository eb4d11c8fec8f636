"""Real tokens a second in pretraining: ours beside a plain BERT with padding and the full head.

All contestants make the same updates of equal weights from the same cells with the same masks, in turn; a run
in which their losses differ fails. README.md beside this file says what the keys of the JSON mean.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data_path import (
    FlatCells,
    data_wait,
    filled_shares,
    loader_speed,
    open_cells,
    plain_batches,
    representative,
)  # fmt: skip
from measuring import device, summarise, timed_rounds, versions
from pretrain_models import Models
from torch import Tensor

from geneformer_grn._runtime import choose_device, write_json
from geneformer_grn.cells.batches import BatchSettings, MaskSettings, batch_shape, mask_cell, plan_epoch
from geneformer_grn.cells.masking import IGNORED
from geneformer_grn.cells.packing import PackedBatch, fill, pack
from geneformer_grn.model.layout import candidates
from geneformer_grn.training.cost import H100_PEAK

SHAPES = {"v1-10m": "v1", "v2-104m": "v2", "v2-316m": "v2"}
ORDERS = ("random", "grouped")
# Largest relative difference of the mean loss from the plain model's in fp32. Sums in another order differ by
# 1e-6; a mask or a position that is wrong by a thousand times that.
TOLERANCE = {"fp32": 1e-4, "bf16": 1e-2}


@dataclass(frozen=True, eq=False)
class Work:
    """The same cells with the same masks as padded batches and as packed ones."""

    padded: list[dict[str, Tensor]]
    packed: list[PackedBatch]
    n_cells: int
    n_tokens: int
    mean_length: float
    real_share: float


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    device_used = choose_device(options.device)
    on_gpu = device_used.type == "cuda"
    if options.threads:
        torch.set_num_threads(options.threads)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    cells = open_cells(
        corpus=options.corpus, arrays=options.arrays, setting=SHAPES[options.shape], n_cells=options.cells,
        seed=options.seed,
    )  # fmt: skip
    work = {order: make_work(cells, order, options) for order in ORDERS}
    models = Models(options.shape, cells, device_used)
    contestants = make_contestants(models, work, quick=options.quick)
    notes: dict[str, dict[str, float]] = {}

    def noted(name: str, run: Callable[[], dict[str, float]]) -> Callable[[Path], None]:
        def call(_: Path) -> None:
            notes[name] = run()

        return call

    n_cells = work["random"].n_cells
    with tempfile.TemporaryDirectory() as folder:
        calls = {name: noted(name, run) for name, run in contestants.items()}
        for name, call in calls.items():  # compiles and warms
            call(Path(folder) / name)
        require_same_loss(notes)
        rows = timed_rounds(
            calls, Path(folder), repetitions=options.repetitions, n_cells=n_cells,
            at_most_s=60.0 if options.quick else None,
        )  # fmt: skip
    for row in rows:
        used = work[row["name"].partition("_")[0]]
        row["tokens_per_s"] = used.n_tokens / row["seconds"]
        row["effective_tflops"] = models.operations(used.mean_length) * row["tokens_per_s"] / 1e12
        row |= notes[row["name"]]
    result = {
        "benchmark": "pretrain",
        "device": device() | ({"gpu": torch.cuda.get_device_name(device_used)} if on_gpu else {}),
        "versions": versions(),
        "conditions": {
            "quick": options.quick, "seed": options.seed, "repetitions": options.repetitions,
            "threads": torch.get_num_threads(), "load_average_before": load, "shape": options.shape,
            "parameters": models.n_parameters, "vocabulary": len(cells.vocabulary), "dropout": 0.0,
            "attention_dropout": 0.0, "mask_rate": 0.15, "cells": cells.source,
            "cells_a_batch": options.cells_per_batch, "token_budget": options.token_budget,
            "peak_tflops_of_mfu": H100_PEAK["bf16"] / 1e12 if on_gpu else None,
            **{order: describe(work[order], cells, order, options) for order in ORDERS},
        },
        "rows": rows,
        **summarise(rows, ratios_of(rows)),
        **medians(rows, on_gpu=on_gpu),
        "data_path": describe_data_path(cells, models, rows, options),
    }  # fmt: skip
    write_json(options.out, result)
    for name, value in result["ratios"].items():
        low, high = result["ratio_ranges"][name]
        print(f"{name}: {value:.2f} ({low:.2f} to {high:.2f})")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Pretraining steps: ours beside a plain, padded BERT.")
    parser.add_argument("--out", type=Path, required=True, metavar="RESULTS.json")
    parser.add_argument("--quick", action="store_true", help="within 3 minutes on 2 cores")
    parser.add_argument("--corpus", type=Path, help="corpus folder; default: generated cells of real lengths")
    parser.add_argument(
        "--arrays", type=Path, help="folder of input_ids.npy (uint16) and offsets.npy instead"
    )
    parser.add_argument("--shape", choices=SHAPES, default="v1-10m")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="default: torch's choice")
    parser.add_argument("--batches", type=int, help="plain batches a round; default 2, on a GPU 16")
    parser.add_argument(
        "--cells-per-batch", type=int, default=12, help="of the plain model (the reference: 12)"
    )
    parser.add_argument("--token-budget", type=int, help="of ours; default 16,384, on a GPU 65,536")
    parser.add_argument("--cells", type=int, default=6_000, help="cells to generate")
    parser.add_argument("--repetitions", type=int, help="default 5; with --quick 7, or fewer")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    on_gpu = choose_device(options.device).type == "cuda"
    options.batches = options.batches or (16 if on_gpu else 1 if options.quick else 2)
    options.token_budget = options.token_budget or (65_536 if on_gpu else 16_384)
    options.repetitions = options.repetitions or (7 if options.quick else 5)
    # On a CPU the time goes with the tokens, so every sixth cell of a plain batch,
    # padded as the whole is, tells as much.
    options.every = 6 if options.quick and not on_gpu else 1
    return options


def make_work(cells: FlatCells, order: str, options: argparse.Namespace) -> Work:
    """Choose batches that stand for all of an epoch's, mask their cells, and lay them out both ways."""
    longest = cells.vocabulary.max_length
    lengths = np.minimum(cells.lengths, longest)
    every = plain_batches(lengths, options.cells_per_batch, grouped=order == "grouped", seed=options.seed)
    batches = representative(every, lengths, options.batches)
    widths = lengths[batches].max(axis=1).tolist()
    batches = batches[:, options.every // 2 :: options.every]  # sorted by length: evenly over the batch
    masked = {
        cell: mask_cell(
            cells.cell(cell)[:longest], cells.vocabulary, MaskSettings(), seed=0, epoch=0, cell=cell
        )
        for cell in batches.ravel().tolist()
    }
    chosen = batches.ravel()
    settings = BatchSettings(token_budget=options.token_budget, max_length=longest)
    shape = batch_shape(lengths, settings, max_length=longest)
    packed = [
        pack(
            [masked[cell][0] for cell in group], labels=[masked[cell][1] for cell in group], cell_index=group
        )
        for group in (part.tolist() for part in plan_epoch(lengths, settings, epoch=0, cells=chosen))
    ]
    if options.device != "cpu" and torch.cuda.is_available():  # one shape, as the compiled step takes it
        packed = [fill(batch, shape, filler=cells.vocabulary.token_of["<pad>"]) for batch in packed]
    used = lengths[chosen]
    return Work(
        padded=[
            padded([masked[cell] for cell in row], width)
            for row, width in zip(batches.tolist(), widths, strict=True)
        ],
        packed=packed,
        n_cells=len(chosen),
        n_tokens=int(used.sum()),
        mean_length=float((used.astype(np.float64) ** 2).sum() / used.sum()),
        real_share=float(used.sum() / (np.array(widths) * batches.shape[1]).sum()),
    )  # fmt: skip


def padded(cells: Sequence[tuple[np.ndarray, np.ndarray]], width: int) -> dict[str, Tensor]:
    """Return masked cells as one padded batch, as transformers' collators make it; the pad token is 0."""
    ids, labels = np.zeros((len(cells), width), np.int64), np.full((len(cells), width), IGNORED)
    mask = np.zeros_like(ids)
    for row, (cell_ids, cell_labels) in enumerate(cells):
        ids[row, : len(cell_ids)], labels[row, : len(cell_ids)], mask[row, : len(cell_ids)] = (
            cell_ids,
            cell_labels,
            1,
        )
    arrays = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def make_contestants(
    models: Models, work: dict[str, Work], *, quick: bool
) -> dict[str, Callable[[], dict[str, float]]]:
    """Return every contestant as ``order_implementation_precision``, ours in all attentions there are."""
    contestants: dict[str, Callable[[], dict[str, float]]] = {}

    def add(name: str, batches: Sequence[Any], step: Callable[..., Any], *given: Any, **options: Any) -> None:
        steps = [lambda batch=batch: step(batch, *given, **options) for batch in batches]
        contestants[name] = lambda: models.run(steps)

    on_gpu = models.device.type == "cuda"
    for order in ORDERS:
        used = work[order]
        for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            if precision == "fp32" or on_gpu or not quick:
                add(f"{order}_plain_{precision}", used.padded, models.step_plain, precision)
            for kind in candidates(models.device, dtype):
                suffix = f"{precision}_{kind}" if on_gpu else precision
                add(f"{order}_ours_{suffix}", used.packed, models.step_ours, precision, kind=kind)
                if kind != "buckets" and (on_gpu or not quick):
                    compiled = f"{order}_ours_{suffix}_compiled"
                    add(compiled, used.packed, models.step_ours, precision, kind=kind, compiled=True)
    return contestants


def require_same_loss(notes: dict[str, dict[str, float]]) -> None:
    """Raise RuntimeError where a contestant's loss is not the plain model's: speeds would mean nothing."""
    for name, note in notes.items():
        wanted = notes[f"{name.partition('_')[0]}_plain_fp32"]["loss"]
        precision = "fp32" if "fp32" in name else "bf16"
        if not abs(note["loss"] - wanted) <= TOLERANCE[precision] * wanted:
            raise RuntimeError(f"{name} has a loss of {note['loss']}, the plain model {wanted}")


def ratios_of(rows: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """Return what is compared: ours in its fastest attention over the plain model in fp32, and in bf16."""
    speeds: dict[str, list[float]] = {}
    for row in rows:
        speeds.setdefault(row["name"], []).append(row["cells_per_s"])
    ratios = {}
    for order in ORDERS:
        for precision in ("fp32", "bf16"):
            ours = [name for name in speeds if name.startswith(f"{order}_ours_{precision}")]
            fastest = max(ours, key=lambda name: float(np.median(speeds[name])))
            ratios[f"{order}_{precision}"] = (fastest, f"{order}_plain_fp32")
            if f"{order}_plain_bf16" in speeds and precision == "bf16":
                ratios[f"{order}_bf16_both"] = (fastest, f"{order}_plain_bf16")
    return ratios


def medians(rows: list[dict[str, Any]], *, on_gpu: bool) -> dict[str, Any]:
    """Return each contestant's median tokens a second and largest memory; on a GPU also its MFU."""
    names = list(dict.fromkeys(row["name"] for row in rows))

    def of(name: str, key: str) -> list[float]:
        return [row[key] for row in rows if row["name"] == name and row[key] is not None]

    found: dict[str, Any] = {
        "tokens_per_s": {name: float(np.median(of(name, "tokens_per_s"))) for name in names},
        "peak_memory_mb": {name: max(of(name, "peak_memory_mb"), default=None) for name in names},
    }
    if on_gpu:
        tflops = {name: float(np.median(of(name, "effective_tflops"))) for name in names}
        found["mfu"] = {name: value * 1e12 / H100_PEAK["bf16"] for name, value in tflops.items()}
    return found


def describe(work: Work, cells: FlatCells, order: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return what one order's cells are like, beside the same of a whole epoch."""
    lengths = np.minimum(cells.lengths, cells.vocabulary.max_length)
    every = plain_batches(lengths, options.cells_per_batch, grouped=order == "grouped", seed=options.seed)
    padded_tokens = (lengths[every].max(axis=1) * options.cells_per_batch).sum()
    return {
        "cells": work.n_cells, "tokens": work.n_tokens, "mean_length": work.n_tokens / work.n_cells,
        "mean_length_of_epoch": float(lengths.mean()), "real_share": work.real_share,
        "real_share_of_epoch": float(lengths[every].sum() / padded_tokens),
        "packed_batches": len(work.packed),
    }  # fmt: skip


def describe_data_path(
    cells: FlatCells, models: Models, rows: list[dict[str, Any]], options: argparse.Namespace
) -> dict[str, Any]:
    """Return packing, the loader's own speed (one core), and what our fastest step leaves it to do."""
    lengths = np.minimum(cells.lengths, cells.vocabulary.max_length)
    settings = BatchSettings(token_budget=options.token_budget)
    loader = loader_speed(cells, settings, seconds=2.0)
    fastest = max(row["tokens_per_s"] for row in rows if "_ours_" in row["name"])
    small = BatchSettings(token_budget=4_096 if models.device.type == "cpu" else options.token_budget)
    kind = candidates(models.device, torch.bfloat16)[0]

    def step(batch: PackedBatch) -> None:
        models.run([lambda: models.step_ours(batch, "bf16", kind=kind)])

    return {
        "filled": filled_shares(lengths, (8_192, 16_384, 65_536, 131_072)),
        "loader_a_core": loader,
        "loader_vs_step": loader["tokens_per_s"] / fastest,
        "wait": data_wait(cells, small, step, models.device, steps=4 if options.quick else 10),
    }


if __name__ == "__main__":
    main()
