"""Whether perturbation effects rank the genes that real perturbations moved, next to simple baselines.

Three sets of measured perturbations, the shipped model and its untrained copy, the same genes for every
method. It compares methods and not speeds, so there are no ratios: the table says which wins.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from measuring import device, versions
from perturbation_interferon import interferon
from perturbation_sets import Bench, morphic, papalexi

from geneformer_grn._runtime import write_json
from geneformer_grn.evaluation.masked_genes import prepare
from geneformer_grn.model.encoder import load_encoder
from geneformer_grn.workflows.evaluate_effects import effects_text

SETS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "papalexi": papalexi,
    "morphic": morphic,
    "interferon": interferon,
}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cells per perturbed gene in each set, most perturbed genes, null genes of the state readout."""

    cells: dict[str, int]
    n_genes: int
    n_null: int


FULL = Cost(cells={"papalexi": 50, "morphic": 4, "interferon": 12}, n_genes=12, n_null=20)
QUICK = Cost(cells={"papalexi": 10, "morphic": 3, "interferon": 4}, n_genes=5, n_null=10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="RESULTS.json")
    parser.add_argument("--quick", action="store_true", help="fewer cells: ends within 3 minutes on 2 cores")
    parser.add_argument("--sets", default=",".join(SETS), help=f"of {', '.join(SETS)}")
    parser.add_argument("--cells", type=int, metavar="N", help="cells per perturbed gene, in every set")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chosen = arguments.sets.split(",")
    unknown = [name for name in chosen if name not in SETS]
    if unknown or (arguments.cells is not None and arguments.cells < 1):
        parser.error(f"no such sets: {', '.join(unknown)}" if unknown else "--cells is at least 1")
    data = (
        Path(os.environ.get("GENEFORMER_GRN_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
    )
    if not (data / "perturbation").is_dir():
        parser.error("no shared data (set GENEFORMER_GRN_SHARED, or put it at ../shared)")
    torch.set_num_threads(arguments.threads)
    encoder = load_encoder(arguments.model, device=arguments.device)
    untrained = prepare(encoder, None, seed=arguments.seed).untrained
    cost = QUICK if arguments.quick else FULL
    conditions = {
        "model": encoder.name, "quick": arguments.quick, "seed": arguments.seed, "device": arguments.device,
        "cells_per_gene": {name: arguments.cells or cost.cells[name] for name in SETS},
        "n_genes": cost.n_genes, "n_null": cost.n_null,
    }  # fmt: skip
    results = earlier(arguments.out, conditions)
    for name in chosen:
        if name in results:
            continue
        begun = time.perf_counter()
        bench = Bench(
            data=data, encoder=encoder, twin=replace(encoder, model=untrained, name="untrained"),
            n_cells=conditions["cells_per_gene"][name], n_genes=cost.n_genes, n_null=cost.n_null,
            seed=arguments.seed,
        )  # fmt: skip
        results[name] = SETS[name](bench)
        results[name] |= {"seconds": time.perf_counter() - begun, "threads": arguments.threads}
        print(f"\n## {name}\n\n{effects_text(results[name])}\n\n{results[name].get('text', '')}", flush=True)
        found = {"device": device(), "versions": versions(), "conditions": conditions}
        write_json(arguments.out, {**found, "rows": rows(results), "sets": results})


def earlier(out: Path, conditions: dict[str, Any]) -> dict[str, Any]:
    """Return the sets that an earlier call left in `out`: only those that are missing are run."""
    if not out.exists():
        return {}
    found = json.loads(out.read_text(encoding="utf-8"))
    if found["conditions"] != conditions:
        raise SystemExit(f"{out.name} was made under other conditions; choose another file")
    return dict(found["sets"])


def rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return every measure of every method as a flat row."""
    return [
        {"set": name, "kind": kind, "method": method, "measure": measure, **value}
        for name, result in results.items()
        for kind, card in result["cards"].items()
        for section in ("strength", "direction")
        for method, measures in card[section].items()
        for measure, value in measures.items()
    ]


if __name__ == "__main__":
    main()
