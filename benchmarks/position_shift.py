"""How much of a deletion's effect is the move of later genes by one position, on the shipped checkpoint.

Genes drawn at random are deleted and knocked out in the same cells: a knock-out takes the gene away and keeps
the positions, so the difference is the move. Genes are drawn evenly from the ranking, since those in front
move more genes than those at the end.
"""

from __future__ import annotations

import argparse
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from measuring import device, versions

from geneformer_grn._runtime import write_json
from geneformer_grn.cells.counts import read_counts
from geneformer_grn.cells.opening import read_anndata
from geneformer_grn.cells.ranking import rank_cells
from geneformer_grn.model.encoder import Encoder, load_encoder
from geneformer_grn.perturbation.effects import run_screen
from geneformer_grn.perturbation.matching import rank_groups
from geneformer_grn.perturbation.position import position_shift
from geneformer_grn.perturbation.screen import PerturbationPlan
from geneformer_grn.statistics import bootstrap_ratio

THIRDS = ("front", "middle", "end")


def measure(encoder: Encoder, path: Path, sizes: argparse.Namespace) -> pd.DataFrame:
    """Return the position shift of each gene drawn, with the third of the ranking it lies in."""
    counts = read_counts(read_anndata(path), encoder.vocabulary, n_cells=sizes.cells, seed=0)
    ranked = rank_cells(counts, encoder.vocabulary)
    (group,) = rank_groups(ranked, None, encoder.vocabulary, seed=0)
    often = group.detected(sizes.cells_per_gene)
    by_rank = np.array_split(often[np.argsort(group.rank[often], kind="stable")], len(THIRDS))
    rng = np.random.default_rng(0)
    drawn = {
        int(gene): third
        for third, genes in zip(THIRDS, by_rank, strict=True)
        for gene in rng.choice(genes, sizes.genes // len(THIRDS), replace=False)
    }
    cells = {
        kind: run_screen(
            encoder, ranked, None, list(drawn),
            PerturbationPlan(kind=kind, cells_per_gene=sizes.cells_per_gene, n_null=0),
        ).cells
        for kind in ("delete", "knockout")
    }  # fmt: skip
    third_of = {encoder.vocabulary.ensembl_ids[gene]: third for gene, third in drawn.items()}
    return position_shift(cells["delete"], cells["knockout"]).assign(third=lambda t: t["gene"].map(third_of))


def share(genes: pd.DataFrame) -> dict[str, Any]:
    """Return what part of the summed deletion shift is the move, with an interval over genes."""
    moved, deleted = genes["position_shift"].to_numpy(), genes["delete"].to_numpy()
    low, high = bootstrap_ratio(moved, deleted, rng=np.random.default_rng(0), n=2000)
    return {
        "genes": len(genes), "delete": float(deleted.mean()), "knockout": float(genes["knockout"].mean()),
        "position_share": float(moved.sum() / deleted.sum()), "interval": [low, high],
        "median_of_genes": float(genes["position_share"].median()),
    }  # fmt: skip


def main() -> None:
    """Write the share of the position shift for the shipped cells, and for more files that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="more count files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="few genes")
    parser.add_argument("--cells", type=int, default=100)
    parser.add_argument("--genes", type=int, default=30)
    parser.add_argument("--cells-per-gene", type=int, default=5)
    sizes = parser.parse_args()
    if sizes.quick:
        sizes.genes, sizes.cells_per_gene = 6, 2
    torch.set_num_threads(1)
    encoder = load_encoder("mini", device="cpu")
    rows, summary = [], {}
    with as_file(files("geneformer_grn") / "_demo" / "cells.h5ad") as demo:
        for name, path in [("demo cells", demo), *((path.name, path) for path in sizes.files)]:
            found = measure(encoder, path, sizes)
            summary[name] = {
                "all": share(found),
                **{third: share(part) for third, part in found.groupby("third", sort=False)},
            }
            rows += found.assign(cells=name).to_dict("records")
    conditions = {key: value for key, value in vars(sizes).items() if key not in {"out", "files"}}
    write_json(
        sizes.out,
        {
            "device": device(), "versions": versions("torch"),
            "conditions": {**conditions, "model": "mini", "seed": 0},
            "summary": summary, "rows": rows,
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
