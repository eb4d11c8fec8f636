"""Whether memory stays bounded: many generated cells on disk, tokenised by the command in its own process.

The cells are drawn once and repeated, so that making the file takes minutes; nothing in the way they are read
can profit from that. What is measured is the peak resident memory of that process, and the time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from measuring import device, versions
from scipy import sparse

from geneformer_grn._runtime import write_json

DRAWN = 4_000  # cells that differ
N_GENES = 20_000
# The command, and then its own peak: what the system tells of a child holds its parent's memory, too.
COMMAND = r"""
import re, sys
from pathlib import Path
from geneformer_grn.cli import main

peak = Path(sys.argv.pop())
try:
    main()
finally:
    peak.write_text(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Peak memory and speed of tokenising large files.")
    parser.add_argument("--out", type=Path, required=True, metavar="RESULTS.json")
    parser.add_argument("--quick", action="store_true", help="a tenth of the cells")
    parser.add_argument("--folder", type=Path, help="where the files go (default: a temporary folder)")
    parser.add_argument("--genes-a-cell", type=int, default=1_000)
    parser.add_argument("--csr-cells", type=int, default=500_000)
    parser.add_argument("--csc-cells", type=int, default=100_000)
    options = parser.parse_args(arguments)
    share = 10 if options.quick else 1
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        drawn = draw(options.genes_a_cell)
        for layout, n_cells in (("csr", options.csr_cells // share), ("csc", options.csc_cells // share)):
            path = Path(folder) / f"{layout}.h5ad"
            write_file(path, drawn, n_cells, layout=layout)
            rows.append(tokenise(path, Path(folder) / "corpus", n_cells=n_cells))
            path.unlink()
            print(rows[-1])
    write_json(
        options.out,
        {
            "benchmark": "scale",
            "device": device(),
            "versions": versions("h5py", "pyarrow"),
            "conditions": {
                "quick": options.quick, "genes_a_cell_mean": drawn.nnz / DRAWN, "genes": N_GENES,
                "cells_that_differ": DRAWN, "vocabulary": "mini", "workers": 1, "threads": "all",
                "load_average_before": os.getloadavg()[0],
            },
            "rows": rows,
        },
    )  # fmt: skip


def draw(genes_a_cell: int) -> sparse.csr_matrix:
    """Draw Poisson counts of log-normal genes; ``(DRAWN, N_GENES)`` float32."""
    rng = np.random.default_rng(0)
    shares = np.sort(rng.lognormal(0.0, 2.0, N_GENES))[::-1]
    shares /= shares.sum()
    depth = 1.0
    while (1 - np.exp(-depth * shares)).sum() < genes_a_cell:
        depth *= 1.05
    order = rng.permutation(N_GENES)
    blocks = [
        sparse.csr_matrix(rng.poisson(depth * shares[order], (500, N_GENES)).astype(np.float32))
        for _ in range(DRAWN // 500)
    ]
    return sparse.csr_matrix(sparse.vstack(blocks, format="csr"))


def write_file(path: Path, drawn: sparse.csr_matrix, n_cells: int, *, layout: str) -> None:
    """Write an h5ad of `n_cells`, the drawn ones again and again, piece by piece."""
    import anndata
    import pandas as pd

    from geneformer_grn.genes.vocabulary import GeneVocabulary

    genes = GeneVocabulary.load("human").ensembl_ids[10 : 10 + N_GENES].astype(str)
    obs = pd.DataFrame(index=[f"cell{row}" for row in range(n_cells)])
    anndata.AnnData(obs=obs, var=pd.DataFrame(index=genes)).write_h5ad(path)
    times, rest = divmod(n_cells, DRAWN)
    with h5py.File(path, "r+") as file:
        if "X" in file:
            del file["X"]
        group = file.create_group("X")
        group.attrs.update({"encoding-type": f"{layout}_matrix", "encoding-version": "0.1.0"})
        group.attrs["shape"] = (n_cells, N_GENES)
        if layout == "csr":
            pieces = [drawn] * times + [drawn[:rest]]
            lengths = np.concatenate([np.diff(piece.indptr) for piece in pieces])
        else:
            columns = drawn.tocsc()
            some = drawn[:rest].tocsc()
            lengths = np.diff(columns.indptr).astype(np.int64) * times + np.diff(some.indptr)
        n_values = int(lengths.sum())
        group["indptr"] = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        data = group.create_dataset("data", (n_values,), np.float32)
        indices = group.create_dataset("indices", (n_values,), np.int32)
        start = 0
        if layout == "csr":
            for piece in pieces:
                data[start : start + piece.nnz] = piece.data
                indices[start : start + piece.nnz] = piece.indices
                start += piece.nnz
            return
        for gene in range(N_GENES):
            one = slice(columns.indptr[gene], columns.indptr[gene + 1])
            last = slice(some.indptr[gene], some.indptr[gene + 1])
            shifts = np.repeat(np.arange(times) * DRAWN, one.stop - one.start)
            values = np.concatenate([np.tile(columns.data[one], times), some.data[last]])
            cells = np.tile(columns.indices[one], times) + shifts
            rows = np.concatenate([cells, some.indices[last] + times * DRAWN])
            data[start : start + len(values)] = values
            indices[start : start + len(values)] = rows
            start += len(values)


def tokenise(path: Path, out: Path, *, n_cells: int) -> dict[str, Any]:
    """Run the command; return its cells, seconds and peak memory."""
    peak = out.parent / "peak"
    arguments = ["tokenize", str(path), "--out", str(out), "--quiet", "--json", str(peak)]
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    seconds = time.monotonic() - started
    made = json.loads(done.stdout.splitlines()[-1])
    if made["n_cells"] != n_cells:
        raise RuntimeError(f"{made['n_cells']:,} of {n_cells:,} cells came out")
    return {
        "name": path.stem, "cells": n_cells, "file_bytes": path.stat().st_size, "tokens": made["n_tokens"],
        "seconds": seconds, "cells_per_s": n_cells / seconds,
        "peak_memory_bytes": int(peak.read_text()) * 1024,
    }  # fmt: skip


if __name__ == "__main__":
    main()
