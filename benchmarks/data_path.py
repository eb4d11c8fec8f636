"""The cells that `pretrain.py` trains on, and how fast they become batches: packing, loader, waiting.

As a script: training batches from the compiled pass, beside those made cell by cell with numpy's generators.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import device, summarise, timed_rounds, versions

from geneformer_grn._runtime import write_json
from geneformer_grn.cells.batches import (
    BatchSettings,
    mask_cell,
    pack,
    plan_epoch,
    training_batches,
)
from geneformer_grn.cells.packing import PackedBatch
from geneformer_grn.genes.vocabulary import MAX_LENGTH, SPECIAL_TOKENS, GeneVocabulary
from geneformer_grn.training.cost import REFERENCE_TOKENS
from geneformer_grn.training.stream import Prefetched, Share, training_steps

LENGTHS = Path(__file__).parent / "lengths.json"
MEGABATCH = 50  # batches that transformers' length-grouped sampler sorts together


@dataclass(frozen=True, eq=False)
class FlatCells:
    """Cells as flat tokens and offsets: what the loader reads of a corpus, Arrow folder or not.

    `values` are its record batches, of whole cells; `starts` where each begins.
    """

    values: list[np.ndarray]
    offsets: np.ndarray
    vocabulary: GeneVocabulary
    source: str

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    @cached_property
    def starts(self) -> np.ndarray:
        return np.cumsum([0, *(len(values) for values in self.values)])

    def cell(self, index: int) -> np.ndarray:
        part = int(np.searchsorted(self.starts, self.offsets[index], side="right")) - 1
        before = self.starts[part]
        return self.values[part][self.offsets[index] - before : self.offsets[index + 1] - before]

    def require_vocabulary(self, vocabulary: GeneVocabulary) -> None:
        vocabulary.require_same(self.vocabulary.fingerprint, this="the model", other="the cells")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Training batches a second, of one thread.")
    parser.add_argument("--out", type=Path, required=True, metavar="RESULTS.json")
    parser.add_argument("--quick", action="store_true", help="fewer cells and repetitions")
    parser.add_argument("--corpus", type=Path, help="corpus folder; default: generated cells of real lengths")
    parser.add_argument("--setting", choices=("v1", "v2"), default="v1", help="vocabulary of generated cells")
    parser.add_argument("--cells", type=int, default=20_000, help="cells to generate")
    parser.add_argument("--token-budget", type=int, default=65_536)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.quick:
        options.cells, options.repetitions = min(options.cells, 4_000), min(options.repetitions, 3)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    cells = open_cells(
        corpus=options.corpus, arrays=None, setting=options.setting, n_cells=options.cells, seed=options.seed
    )
    settings = BatchSettings(token_budget=options.token_budget, seed=options.seed)
    contestants = loader_contestants(cells, settings)
    with tempfile.TemporaryDirectory() as folder:
        for call in contestants.values():  # compiles, and reads the cells once
            call(Path(folder))
        rows = timed_rounds(contestants, Path(folder), repetitions=options.repetitions, n_cells=len(cells))
    lengths = np.minimum(cells.lengths, cells.vocabulary.max_length)
    for row in rows:
        row["tokens_per_s"] = int(lengths.sum()) / row["seconds"]
        row["cells_per_cpu_s"] = row["cells"] / row["cpu_seconds"]
    ratios = {f"{name}_vs_cell_by_cell": (name, "cell_by_cell") for name in contestants if "batches" in name}
    result = {
        "benchmark": "data_path",
        "device": device(),
        "versions": versions("numba"),
        "conditions": {
            "quick": options.quick, "seed": options.seed, "repetitions": options.repetitions, "threads": 1,
            "load_average_before": load, "cells": cells.source, "n_cells": len(cells),
            "record_batches": len(cells.values), "mean_length": float(lengths.mean()),
            "vocabulary": len(cells.vocabulary), "token_budget": options.token_budget, "mask_rate": 0.15,
        },
        "rows": rows,
        **summarise(rows, ratios),
        "cells_per_cpu_s": {
            name: float(np.median([row["cells_per_cpu_s"] for row in rows if row["name"] == name]))
            for name in contestants
        },
        "filled": filled_shares(lengths, (8_192, 16_384, 65_536, 131_072)),
    }  # fmt: skip
    write_json(options.out, result)
    for name, value in result["cells_per_s"].items():
        print(f"{name}: {value:,.0f} cells/s, {result['cells_per_cpu_s'][name]:,.0f} a second of the core")


def loader_contestants(cells: FlatCells, settings: BatchSettings) -> dict[str, Callable[[Path], None]]:
    """Return an epoch of batches from the compiled pass, in each of its ways, and from one cell at a time."""
    parts = np.linspace(0, len(cells), 21).astype(int)
    values = np.concatenate(cells.values)
    places = cells.offsets[parts]
    in_parts = [values[start:stop] for start, stop in itertools.pairwise(places)]
    one, several = replace(cells, values=[values]), replace(cells, values=in_parts)

    def read(batches: Iterator[PackedBatch]) -> None:
        for batch in batches:
            len(batch)

    def epoch(source: FlatCells, **changes: Any) -> Callable[[Path], None]:
        used = replace(settings, **changes)
        return lambda _: read(training_batches(source, cells.vocabulary, used, epoch=0))

    lengths = np.minimum(cells.lengths, cells.vocabulary.max_length)
    return {
        "batches_of_one_record_batch": epoch(one),
        "batches_of_20_record_batches": epoch(several),
        "batches_of_static_shape": epoch(one, static=True),
        "planning_alone": lambda _: len(plan_epoch(lengths, settings, epoch=0)) and None,
        "cell_by_cell": lambda _: read(one_by_one(one, settings, lengths)),
    }


def one_by_one(cells: FlatCells, settings: BatchSettings, lengths: np.ndarray) -> Iterator[PackedBatch]:
    """Yield an epoch's batches with every cell masked by a generator of its own, then packed."""
    for group in plan_epoch(lengths, settings, epoch=0):
        masked = [
            mask_cell(
                cells.cell(cell), cells.vocabulary, settings.mask, seed=settings.seed, epoch=0, cell=cell
            )
            for cell in group.tolist()
        ]
        yield pack([ids for ids, _ in masked], labels=[labels for _, labels in masked], cell_index=group)


def open_cells(
    *, corpus: Path | None, arrays: Path | None, setting: str, n_cells: int, seed: int
) -> FlatCells:
    """Return the cells of a corpus folder, of ``input_ids.npy`` and ``offsets.npy``, or generated ones."""
    if corpus is not None:
        from geneformer_grn.cells.corpora.corpus import Corpus  # needs pyarrow

        opened = Corpus.open(corpus)
        return FlatCells(opened.values, opened.offsets, opened.vocabulary, f"corpus {corpus.name}")
    vocabulary = make_vocabulary(setting)
    if arrays is not None:
        values = np.load(arrays / "input_ids.npy", mmap_mode="r")
        offsets = np.load(arrays / "offsets.npy")
        if values.dtype != np.uint16 or int(values.max()) >= len(vocabulary):
            raise ValueError(
                f"{arrays.name}: input_ids must be uint16 below {len(vocabulary):,}, see README.md"
            )
        return FlatCells([np.asarray(values)], offsets, vocabulary, f"arrays {arrays.name}")
    generator = np.random.default_rng(seed)
    lengths = drawn_lengths(n_cells, generator, longest=vocabulary.max_length)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = generator.integers(vocabulary.n_special, len(vocabulary), offsets[-1], dtype=np.uint16)
    return FlatCells([np.asarray(values)], offsets, vocabulary, "generated tokens, lengths of lengths.json")


def drawn_lengths(n: int, generator: np.random.Generator, *, longest: int) -> np.ndarray:
    """Draw lengths from the real distribution in lengths.json, cropped at `longest`."""
    quantiles = json.loads(LENGTHS.read_text(encoding="utf-8"))["quantiles"]
    drawn = np.interp(generator.random(n), np.linspace(0, 1, len(quantiles)), quantiles)
    return np.minimum(np.rint(drawn), longest).astype(np.int64)


def make_vocabulary(setting: str) -> GeneVocabulary:
    """Return a vocabulary of the size of the reference's; its genes have numbers for names."""
    special, size = SPECIAL_TOKENS[setting], REFERENCE_TOKENS[setting]
    genes = [f"ENSG{number:011d}" for number in range(size - len(special))]
    ids = np.array([*special, *genes], dtype=object)
    return GeneVocabulary(
        ensembl_ids=ids, symbols=ids, medians=np.ones(size), is_regulator=np.zeros(size, dtype=bool),
        setting=setting, max_length=MAX_LENGTH[setting], aliases={},
    )  # fmt: skip


def plain_batches(lengths: np.ndarray, size: int, *, grouped: bool, seed: int) -> np.ndarray:
    """Return an epoch's batches ``(n, size)`` of cell numbers, longest first in each; a rest is left out.

    Grouped by length as transformers' sampler does it: shuffled, then sorted within 50 batches at a time.
    """
    order = np.random.default_rng(seed).permutation(len(lengths))
    if grouped:
        span = MEGABATCH * size
        parts = [order[start : start + span] for start in range(0, len(order), span)]
        order = np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in parts])
    batches = order[: len(order) // size * size].reshape(-1, size)
    return np.take_along_axis(batches, np.argsort(-lengths[batches], axis=1, kind="stable"), axis=1)


def representative(batches: np.ndarray, lengths: np.ndarray, count: int) -> np.ndarray:
    """Return `count` of the batches, evenly over all of them ordered by padded, then by real tokens."""
    order = np.lexsort((lengths[batches].sum(axis=1), lengths[batches].max(axis=1)))
    return batches[order[((np.arange(count) + 0.5) / count * len(order)).astype(int)]]


def filled_shares(lengths: np.ndarray, budgets: tuple[int, ...]) -> dict[str, float]:
    """Return the share of each token budget that an epoch's packed batches fill."""
    tokens = int(lengths.sum())
    return {
        str(budget): tokens / (budget * len(plan_epoch(lengths, BatchSettings(token_budget=budget), epoch=0)))
        for budget in budgets
        if budget >= lengths.max()
    }


def loader_speed(cells: FlatCells, settings: BatchSettings, *, seconds: float) -> dict[str, float]:
    """Return what one thread of the loader makes alone in about `seconds`: read, crop, mask, pack."""
    n_cells = n_tokens = epoch = 0
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        for batch in training_batches(cells, cells.vocabulary, settings, epoch=epoch):
            n_cells, n_tokens = n_cells + len(batch), n_tokens + batch.n_tokens
            if time.perf_counter() - started >= seconds:
                break
        epoch += 1
    spent = time.perf_counter() - started
    return {"cells_per_s": n_cells / spent, "tokens_per_s": n_tokens / spent}


def data_wait(
    cells: FlatCells,
    settings: BatchSettings,
    step: Callable[[PackedBatch], object],
    target: torch.device,
    *,
    steps: int,
) -> dict[str, Any]:
    """Return the share of training time that steps wait for data, the first step left out."""
    settings = replace(settings, pinned=target.type == "cuda")
    stream = training_steps(cells, cells.vocabulary, settings, share=Share())
    waited = spent = 0.0
    with Prefetched(stream, target) as ready:
        for number in range(steps + 1):
            started = time.perf_counter()
            data = next(ready)
            got = time.perf_counter()
            for batch in data.batches:
                step(batch.to(target))
            if number:
                waited, spent = waited + got - started, spent + time.perf_counter() - started
    return {"steps": steps, "token_budget": settings.token_budget, "share": waited / spent}


if __name__ == "__main__":
    main()
