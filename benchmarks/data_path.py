"""The cells that `pretrain.py` trains on, and how fast they become batches: packing, loader, waiting."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geneformer_grn.cells.batches import BatchSettings, plan_epoch, training_batches
from geneformer_grn.cells.packing import PackedBatch
from geneformer_grn.genes.vocabulary import MAX_LENGTH, SPECIAL_TOKENS, GeneVocabulary
from geneformer_grn.training.cost import REFERENCE_TOKENS
from geneformer_grn.training.stream import Prefetched, Share, training_steps

LENGTHS = Path(__file__).parent / "lengths.json"
MEGABATCH = 50  # batches that transformers' length-grouped sampler sorts together


@dataclass(frozen=True, eq=False)
class FlatCells:
    """Cells as flat tokens and offsets: what the loader reads of a corpus, Arrow folder or not."""

    values: np.ndarray
    offsets: np.ndarray
    vocabulary: GeneVocabulary
    source: str

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def cell(self, index: int) -> np.ndarray:
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def require_vocabulary(self, vocabulary: GeneVocabulary) -> None:
        vocabulary.require_same(self.vocabulary.fingerprint, this="the model", other="the cells")


def open_cells(
    *, corpus: Path | None, arrays: Path | None, setting: str, n_cells: int, seed: int
) -> FlatCells:
    """Return the cells of a corpus folder, of ``input_ids.npy`` and ``offsets.npy``, or generated ones."""
    if corpus is not None:
        from geneformer_grn.cells.corpus import Corpus  # needs pyarrow

        opened = Corpus.open(corpus)
        return FlatCells(opened.input_ids, opened.offsets, opened.vocabulary, f"corpus {corpus.name}")
    vocabulary = make_vocabulary(setting)
    if arrays is not None:
        values = np.load(arrays / "input_ids.npy", mmap_mode="r")
        offsets = np.load(arrays / "offsets.npy")
        if values.dtype != np.uint16 or int(values.max()) >= len(vocabulary):
            raise ValueError(
                f"{arrays.name}: input_ids must be uint16 below {len(vocabulary):,}, see README.md"
            )
        return FlatCells(values, offsets, vocabulary, f"arrays {arrays.name}")
    generator = np.random.default_rng(seed)
    lengths = drawn_lengths(n_cells, generator, longest=vocabulary.max_length)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = generator.integers(vocabulary.n_special, len(vocabulary), offsets[-1], dtype=np.uint16)
    return FlatCells(values, offsets, vocabulary, "generated tokens, lengths of lengths.json")


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
    device: torch.device,
    *,
    steps: int,
) -> dict[str, Any]:
    """Return the share of training time that steps wait for data, the first step left out."""
    stream = training_steps(cells, cells.vocabulary, settings, share=Share())
    waited = spent = 0.0
    with Prefetched(stream, device) as ready:
        for number in range(steps + 1):
            started = time.perf_counter()
            data = next(ready)
            got = time.perf_counter()
            for batch in data.batches:
                step(batch.to(device))
            if number:
                waited, spent = waited + got - started, spent + time.perf_counter() - started
    return {"steps": steps, "token_budget": settings.token_budget, "share": waited / spent}
