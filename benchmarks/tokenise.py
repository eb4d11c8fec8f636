"""How fast cells become tokens: ours beside a per-cell argsort and beside the reference pipeline's shape.

All contestants turn the same generated cells into the same tokens, in turn, several times over, held to one
core unless named otherwise; a run in which their tokens differ fails. README.md beside this file says what
the keys of the JSON mean.
"""

from __future__ import annotations

import os

# One thread for all; read by the libraries when they are imported.
os.environ.update(
    dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
)
os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anndata
import datasets
import numba
import numpy as np
import pandas as pd
import pyarrow as pa
from measuring import device, summarise, timed_rounds, versions
from scipy import optimize, sparse

from geneformer_grn._runtime import write_json
from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.cells.corpora.tokenizing import write_corpus
from geneformer_grn.cells.counts import CellCounts, read_counts
from geneformer_grn.cells.ranker import Ranker
from geneformer_grn.cells.ranking import model_input
from geneformer_grn.cells.reading import open_counts
from geneformer_grn.genes.vocabulary import MAX_LENGTH, SPECIAL_TOKENS, TARGET_SUM, GeneVocabulary

N_KNOWN, N_OTHER = 20_000, 5_000  # genes of the vocabulary; genes of the file that it does not hold
GENES_A_CELL = 2_000
N_CELL_TYPES = 6
ALL_CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
SPIN = 100_000_000
CHUNK = 512  # rows the reference slices at a time
RATIOS = {
    "memory_vs_argsort": ("ours_memory", "argsort"),
    "memory_vs_reference": ("ours_memory", "reference_memory"),
    "disk_vs_reference": ("ours_disk", "reference_disk"),
    "memory_vs_argsort_unstable": ("ours_memory", "argsort_unstable"),
    "two_cores_vs_one": ("ours_memory_two_cores", "ours_memory"),
    "disk_two_cores_vs_one": ("ours_disk_two_cores", "ours_disk"),
    "machine_two_cores_vs_one": ("spin_two_cores", "spin_one"),
    "memory_vs_copy": ("ours_memory", "copy"),
}


@dataclass(frozen=True)
class Cells:
    """The same generated cells at each contestant's start: on disk, as AnnData, and as checked counts."""

    path: Path
    adata: anndata.AnnData
    counts: CellCounts
    vocabulary: GeneVocabulary


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Cells tokenised a second: ours, argsort, the reference's shape."
    )
    parser.add_argument("--out", type=Path, required=True, metavar="RESULTS.json")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions; within 3 minutes on 2 cores")
    parser.add_argument("--cells", type=int, help="cells to generate; default 10,000")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated cells")
    options = parser.parse_args(arguments)
    n_cells = options.cells if options.cells is not None else 10_000
    repetitions = 3 if options.quick else 7
    if n_cells < 1:
        parser.error(f"--cells {n_cells}: at least 1 is needed")
    pa.set_cpu_count(1)
    datasets.disable_progress_bars()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with tempfile.TemporaryDirectory() as folder, cores(1):
        cells = generate_cells(n_cells, Path(folder), seed=options.seed)
        require_same_tokens(cells, Path(folder))
        rows = timed_rounds(
            {contestant.__name__: partial(contestant, cells) for contestant in CONTESTANTS},
            Path(folder), repetitions=repetitions, n_cells=n_cells,
        )  # fmt: skip
    result = {
        "benchmark": "tokenise",
        "device": device(),
        "versions": versions("datasets", "pyarrow"),
        "conditions": {
            "quick": options.quick, "seed": options.seed, "repetitions": repetitions, "processes": 1,
            "cores": "1, contestants named two_cores 2", **describe(cells),
            "page_cache": "warm", "load_average_before": load,
        },
        "rows": rows,
        **summarise(rows, RATIOS),
    }  # fmt: skip
    write_json(options.out, result)
    for name, value in result["ratios"].items():
        low, high = result["ratio_ranges"][name]
        print(f"{name}: {value:.2f} ({low:.2f} to {high:.2f})")


def generate_cells(n_cells: int, folder: Path, *, seed: int) -> Cells:
    """Draw 10x-like counts: log-normal gene shares in a few cell types, log-normal depths, Poisson counts.

    The typical depth is solved for, so that a cell shows about 2,000 genes of the vocabulary. Genes come in
    the file in an order of their own, as they do in real files.
    """
    rng = np.random.default_rng(seed)
    n_genes = N_KNOWN + N_OTHER
    shares = rng.lognormal(0.0, 2.4, n_genes)
    shares[N_KNOWN:] *= 0.3  # what vocabularies leave out is mostly faint
    shares /= shares.sum()
    depth: float = optimize.brentq(
        lambda depth: N_KNOWN - np.exp(-depth * shares[:N_KNOWN]).sum() - GENES_A_CELL, 1.0, 1e7
    )
    types = shares * rng.lognormal(0.0, 0.4, (N_CELL_TYPES, n_genes))
    types /= types.sum(axis=1, keepdims=True)
    order = rng.permutation(n_genes)
    types_in_file = types[:, order]
    blocks = []
    for start in range(0, n_cells, 200):
        size = min(200, n_cells - start)
        depths = depth * rng.lognormal(0.0, 0.3, (size, 1))
        drawn = rng.poisson(depths * types_in_file[rng.integers(N_CELL_TYPES, size=size)])
        blocks.append(sparse.csr_matrix(drawn.astype(np.float32)))
    matrix = sparse.csr_matrix(sparse.vstack(blocks))
    names = np.array([f"ENSG{number:011d}" for number in range(1, n_genes + 1)], dtype=object)
    adata = anndata.AnnData(
        X=matrix,
        obs=pd.DataFrame({"n_counts": matrix.sum(axis=1).A1}, index=[f"cell{row}" for row in range(n_cells)]),
        var=pd.DataFrame(index=pd.Index(names[order].astype(str))),
    )
    adata.write_h5ad(folder / "cells.h5ad")
    # A rare gene is seen as one count, so its non-zero median is one count of a typical cell.
    typical = np.maximum(depth * shares[:N_KNOWN], 1.0) * TARGET_SUM / depth
    vocabulary = make_vocabulary(names[:N_KNOWN], typical * rng.lognormal(0.0, 0.15, N_KNOWN))
    counts = read_counts(adata, vocabulary)
    return Cells(path=folder / "cells.h5ad", adata=adata, counts=counts, vocabulary=vocabulary)


def make_vocabulary(genes: np.ndarray, medians: np.ndarray) -> GeneVocabulary:
    """Return a vocabulary in the setting v2 that brings its own (empty) aliases, as imported ones do.

    Medians are multiples of 2^-16, so that some genes of a cell tie, and tie exactly in every contestant's
    arithmetic.
    """
    special = SPECIAL_TOKENS["v2"]
    medians = np.maximum(np.round(medians * 65_536), 1.0) / 65_536
    ids = np.array([*special, *genes], dtype=object)
    return GeneVocabulary(
        ensembl_ids=ids,
        symbols=ids,
        medians=np.concatenate([np.full(len(special), np.nan), medians]),
        is_regulator=np.zeros(len(ids), dtype=bool),
        setting="v2",
        max_length=MAX_LENGTH["v2"],
        aliases={},
    )


def argsort(cells: Cells, _: Path, *, kind: Any = "stable") -> list[np.ndarray]:
    """Rank each cell by numpy's argsort of count / median; stable, since columns ascend by token."""
    counts, vocabulary = cells.counts, cells.vocabulary
    matrix, tokens = counts.matrix, counts.column_tokens.astype(np.uint16)
    medians = vocabulary.medians[counts.column_tokens]
    inputs = []
    for row in range(len(counts)):
        values = slice(matrix.indptr[row], matrix.indptr[row + 1])
        columns = matrix.indices[values]
        ratios = matrix.data[values].astype(np.float64) / medians[columns]
        inputs.append(model_input(tokens[columns[np.argsort(-ratios, kind=kind)]], vocabulary))
    return inputs


def argsort_unstable(cells: Cells, folder: Path) -> list[np.ndarray]:
    """Rank by numpy's default argsort, which is faster, and leaves ties in any order."""
    return argsort(cells, folder, kind=None)


def reference_ranks(adata: anndata.AnnData, vocabulary: GeneVocabulary) -> list[np.ndarray]:
    """Rank in the reference's shape: chunks of rows sliced from the AnnData, then row by row.

    Sorting by (value, token) instead of by value is ours: the reference leaves ties in any order.
    """
    found = np.array([vocabulary.token_of.get(gene, -1) for gene in adata.var_names])
    known = np.flatnonzero(found >= 0)
    tokens, medians = found[known], vocabulary.medians[found[known]]
    totals = adata.obs["n_counts"].to_numpy(dtype=np.float64)
    ranks = []
    for start in range(0, adata.n_obs, CHUNK):
        rows = np.arange(start, min(start + CHUNK, adata.n_obs))
        chunk = sparse.csr_matrix(adata[rows, :].X[:, known], dtype=np.float64)
        chunk.data /= medians[chunk.indices]
        chunk.data *= np.repeat(TARGET_SUM / totals[rows], np.diff(chunk.indptr))
        for row in range(len(rows)):
            cell = chunk[row]
            genes = tokens[cell.indices]
            ranks.append(genes[np.lexsort((genes, -cell.data))])
    return ranks


def reference_dataset(adata: anndata.AnnData, vocabulary: GeneVocabulary) -> datasets.Dataset:
    """Crop and wrap the ranked cells as the reference does: one row at a time in ``Dataset.map``."""
    room = vocabulary.max_length - vocabulary.n_wrapping
    first, last = vocabulary.token_of["<cls>"], vocabulary.token_of["<eos>"]

    def finish(example: dict[str, Any]) -> dict[str, Any]:
        ids = [first, *example["input_ids"][:room], last]
        return {"input_ids": ids, "length": len(ids)}

    return datasets.Dataset.from_dict({"input_ids": reference_ranks(adata, vocabulary)}).map(finish)


def reference_memory(cells: Cells, _: Path) -> datasets.Dataset:
    return reference_dataset(cells.adata, cells.vocabulary)


def reference_disk(cells: Cells, folder: Path) -> datasets.Dataset:
    dataset = reference_dataset(anndata.read_h5ad(cells.path), cells.vocabulary)
    dataset.save_to_disk(folder)
    return datasets.load_from_disk(folder)


def ours_memory(cells: Cells, _: Path, *, threads: int = 1) -> list[np.ndarray]:
    """Rank from the AnnData as it is: unknown genes, the file's own order of columns."""
    with open_counts(cells.adata, cells.vocabulary) as opened:
        longest = cells.vocabulary.max_length - cells.vocabulary.n_wrapping
        ranker = Ranker(
            opened.mapping.tokens, cells.vocabulary.medians, threads=threads, longest=longest,
            wrap=cells.vocabulary.wrapping,
        )  # fmt: skip
        inputs: list[np.ndarray] = []
        for _rows, block in opened.blocks():
            ranked = ranker.rank(block)
            opened.check(ranked.values)
            inputs += np.split(ranked.tokens, ranked.offsets[1:-1])
    return inputs


def ours_memory_two_cores(cells: Cells, folder: Path) -> list[np.ndarray]:
    with cores(2):
        return ours_memory(cells, folder, threads=2)


def ours_disk(cells: Cells, folder: Path) -> Corpus:
    return write_corpus([cells.path], folder, cells.vocabulary, threads=1)


def ours_disk_two_cores(cells: Cells, folder: Path) -> Corpus:
    with cores(2):
        return write_corpus([cells.path], folder, cells.vocabulary, threads=2)


def copy(cells: Cells, _: Path) -> None:
    """Copy the counts: what moving the input through memory once, and writing it once, takes at least."""
    matrix = cells.adata.X
    matrix.data.copy()
    matrix.indices.copy()


@numba.njit(nogil=True)
def spin(rounds: int) -> float:
    """Compute without touching memory."""
    total = 0.0
    for number in range(rounds):
        total += number * 1.0000001
    return total


def spin_one(_cells: Cells, _: Path) -> None:
    """Do two portions of work that could not be more apart, one after the other."""
    spin(SPIN)
    spin(SPIN)


def spin_two_cores(_cells: Cells, _: Path) -> None:
    """Do them at once: what two cores of this machine are worth beside one, at most."""
    with cores(2), ThreadPoolExecutor(2) as threads:
        list(threads.map(spin, [SPIN, SPIN]))


@contextlib.contextmanager
def cores(number: int) -> Iterator[None]:
    """Hold this process to the first `number` cores it may use, where the system knows how."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(ALL_CORES[:number]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


CONTESTANTS: tuple[Callable[[Cells, Path], Any], ...] = (
    argsort, argsort_unstable, reference_memory, ours_memory, ours_memory_two_cores, reference_disk,
    ours_disk, ours_disk_two_cores, copy, spin_one, spin_two_cores,
)  # fmt: skip


NOT_TOKENS = (copy, spin_one, spin_two_cores)  # they measure the machine


def require_same_tokens(cells: Cells, folder: Path) -> None:
    """Run each contestant once, untimed (which also compiles and warms), and compare what they made.

    Raises
    ------
    RuntimeError
        A contestant made other tokens than the first; then their speeds are not worth comparing.
    """
    expected = argsort(cells, folder)
    for contestant in CONTESTANTS[1:]:
        if contestant in NOT_TOKENS:
            contestant(cells, folder)
            continue
        name = contestant.__name__
        made = token_arrays(contestant(cells, folder / name))
        if len(made) != len(expected):
            raise RuntimeError(f"{name} made {len(made):,} cells of {len(expected):,}")
        for row, (ids, wanted) in enumerate(zip(made, expected, strict=True)):
            if contestant is argsort_unstable:  # its ties come in any order: only its genes can be compared
                ids, wanted = np.sort(ids), np.sort(wanted)
            if not np.array_equal(ids, wanted):
                raise RuntimeError(f"{name} and argsort made different tokens of cell {row}")
        shutil.rmtree(folder / name, ignore_errors=True)


def token_arrays(result: list[np.ndarray] | datasets.Dataset | Corpus) -> list[np.ndarray]:
    """Return a contestant's result as one array a cell."""
    if isinstance(result, Corpus):
        return [result.cell(row) for row in range(len(result))]
    if isinstance(result, datasets.Dataset):
        return [np.asarray(ids) for ids in result["input_ids"]]
    return result


def describe(cells: Cells) -> dict[str, Any]:
    """Return what the generated cells are like, for the conditions."""
    matrix = cells.counts.matrix
    medians = cells.vocabulary.medians[cells.counts.column_tokens]
    ratios = np.split(matrix.data.astype(np.float64) / medians[matrix.indices], matrix.indptr[1:-1])
    return {
        "cells": len(cells.counts),
        "genes_a_cell_mean": float(np.diff(matrix.indptr).mean()),
        "counts_a_cell_mean": float(cells.counts.n_counts.mean()),
        "ties_a_cell_mean": float(np.mean([len(cell) - len(np.unique(cell)) for cell in ratios])),
        "setting": cells.vocabulary.setting,
        "vocabulary_genes": N_KNOWN,
        "file_genes": N_KNOWN + N_OTHER,
        "file": "h5ad, CSR, float32, uncompressed",
    }


if __name__ == "__main__":
    main()
