"""Peak memory and speed of edges out of the model's attention, at the size of an atlas.

1,500 regulators and 15,000 targets, and 20,000 ranked cells in memory. Sums are kept for pairs, so that
memory must not grow with the cells that are read: each way of scoring is measured with some cells and with
four times as many, every time in a process of its own. Time grows with the cells, and is extrapolated from
the longer run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measuring import device, versions

from geneformer_grn._runtime import write_json

HELD = 20_000  # cells in memory
DRAWN = 500  # of which differ
GENES_A_CELL = 1_800
SETTINGS: dict[str, dict[str, Any]] = {
    "attention": {},
    "attention_both": {"direction": "both"},
    "attention_average_product": {"correction": "average_product"},
    "attention_row_rank": {"correction": "row_rank"},
    "attention_rank_corrected": {"correction": "rank_position"},
    "attention_4_heads": {"heads": ((0, 0), (1, 1), (2, 2), (3, 3))},
    "attention_rollout": {},
    "embedding": {},
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every way of scoring in its own process and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, metavar="RESULTS.json")
    parser.add_argument("--quick", action="store_true", help="few cells, fewer ways of scoring")
    parser.add_argument("--cells", type=int, default=100, help="cells of the shorter run")
    parser.add_argument("--regulators", type=int, default=1_500)
    parser.add_argument("--targets", type=int, default=15_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # what a process of its own is asked for
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(measure(options.measure, options)))
        return
    if options.out is None:
        parser.error("--out is needed")
    if options.quick:
        options.cells, options.methods = 5, options.methods[:1]
    rows = []
    for method in options.methods:
        for n_cells in (options.cells, 4 * options.cells):
            rows.append(in_own_process(method, n_cells, options))
            print(rows[-1], flush=True)
    write_json(
        options.out,
        {
            "benchmark": "attention_edges",
            "device": device(),
            "versions": versions(),
            "conditions": {
                "quick": options.quick, "model": "mini", "cells_in_memory": HELD, "cells_that_differ": DRAWN,
                "genes_a_cell": GENES_A_CELL, "regulators": options.regulators, "targets": options.targets,
                "threads": options.threads, "load_average_before": os.getloadavg()[0],
            },
            "rows": rows,
        },
    )  # fmt: skip


def in_own_process(method: str, n_cells: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return what a fresh process finds."""
    sizes = {
        "cells": n_cells, "regulators": options.regulators, "targets": options.targets,
        "threads": options.threads,
    }  # fmt: skip
    command = [sys.executable, __file__, "--measure", method]
    for name, value in sizes.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(method: str, sizes: argparse.Namespace) -> dict[str, Any]:
    """Return seconds and peak resident memory of this process, scoring over the first cells."""
    import torch

    from geneformer_grn.extraction.attention import AttentionSettings, attention_by_head
    from geneformer_grn.extraction.methods import METHODS
    from geneformer_grn.model.encoder import load_encoder

    torch.set_num_threads(sizes.threads)
    encoder = load_encoder("mini", device="cpu")
    ranked = generated(encoder.vocabulary)
    genes = np.arange(encoder.vocabulary.n_special, len(encoder.vocabulary))
    drawn = np.random.default_rng(1).permutation(genes)
    call = {
        "regulators": drawn[: sizes.regulators], "targets": np.sort(drawn[-sizes.targets :]),
        "cells": np.arange(sizes.cells),
    }  # fmt: skip
    changes = SETTINGS[method]
    before, started = peak_bytes(), time.perf_counter()
    if "heads" in changes:
        by_head = attention_by_head(encoder, ranked, settings=AttentionSettings(**changes), **call)
        pairs = by_head[0, 0]
    else:
        score, settings = METHODS.get(method, METHODS["attention"])
        pairs = score(encoder, ranked, settings=replace(settings, **changes), **call)
    seconds = time.perf_counter() - started
    return {
        "name": method, "cells": sizes.cells, "seconds": seconds, "cells_per_s": sizes.cells / seconds,
        "hours_for_20000_cells": HELD / sizes.cells * seconds / 3600,
        "peak_memory_bytes": peak_bytes(), "peak_before_bytes": before,
        "pairs_scored": int(pairs.scored.sum()),
    }  # fmt: skip


def generated(vocabulary: Any) -> Any:
    """Return 20,000 cells of random genes, some common and some rare; a few drawn and then repeated."""
    from geneformer_grn.cells.ranking import RankedCells

    rng = np.random.default_rng(0)
    genes = np.arange(vocabulary.n_special, len(vocabulary), dtype=np.uint16)
    share = rng.lognormal(0.0, 1.5, len(genes))
    lengths = np.clip(rng.lognormal(np.log(GENES_A_CELL), 0.4, DRAWN), 200, 8_000).astype(np.int64)
    cells = []
    for length in lengths:
        # the largest of weighted exponential races: a draw without replacement, in order
        race = share / rng.standard_exponential(len(genes))
        first = np.argpartition(race, -length)[-length:]
        cells.append(genes[first[np.argsort(-race[first])]])
    times = HELD // DRAWN
    offsets = np.concatenate([[0], np.cumsum(np.tile(lengths, times))])
    return RankedCells(tokens=np.tile(np.concatenate(cells), times), offsets=offsets, n_counts=np.ones(HELD))


def peak_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    if found is None:
        raise RuntimeError("this system does not tell the peak memory of a process (Linux does)")
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()
