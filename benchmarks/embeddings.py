"""Cell embeddings of the shipped model beside variable genes, Harmony and random weights, on real cells.

Donors of one study (untreated blood cells, 8 donors × 8 types) and two protocols (three cell lines, each by
CEL-seq2 and by Drop-seq). Data sets that are in the JSON already are skipped, so a stopped command goes on.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from anndata import AnnData
from measuring import device, versions

from geneformer_grn._runtime import write_json
from geneformer_grn.cells.opening import read_anndata
from geneformer_grn.workflows.evaluate_embeddings import (
    EvaluateEmbeddingsSettings,
    embeddings_table,
    evaluate_embeddings,
)

DATA = {
    "donors": (("kang_ifnb_1287g",), "cell_type", "donor"),
    "protocols": (("lungline_sc_celseq2", "lungline_sc_dropseq"), "cell_type", "assay"),
}


def main() -> None:
    """Score one data set after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    parser.add_argument("--only", choices=list(DATA), help="one data set")
    parser.add_argument("--quick", action="store_true", help="few cells, two halves, one data set")
    parser.add_argument("--cells", type=int, default=1_500)
    parser.add_argument("--halves", type=int, default=6)
    parser.add_argument("--shared", type=Path, default=_shared(), help="folder with data/")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.only, chosen.cells, chosen.halves = "protocols", 150, 2
    torch.set_num_threads(chosen.threads)
    result = json.loads(chosen.out.read_text(encoding="utf-8")) if chosen.out.is_file() else {"data": {}}
    for name in [chosen.only] if chosen.only else list(DATA):
        if name in result["data"]:
            continue
        begun = time.perf_counter()
        found = measured(name, chosen)
        print(embeddings_table(found), flush=True)
        result["data"][name] = found | {"seconds": time.perf_counter() - begun}
        result |= {"device": device(), "versions": versions("scib-metrics", "harmonypy", "jax")}
        write_json(chosen.out, result)


def measured(name: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """Score the cells of one data set."""
    files, label, batch = DATA[name]
    adata = together([read_anndata(chosen.shared / "data" / "dev_eval" / f"{file}.h5ad") for file in files])
    settings = EvaluateEmbeddingsSettings(
        label=label, batch=batch, n_cells=chosen.cells, n_halves=chosen.halves, device="cpu"
    )
    return evaluate_embeddings(adata, settings) | {"file": " + ".join(files)}


def together(parts: list[AnnData]) -> AnnData:
    """Return the cells of all files with the genes that all of them have."""
    import anndata

    return anndata.concat(parts, join="inner") if len(parts) > 1 else parts[0]


def _shared() -> Path:
    return Path(os.environ.get("GENEFORMER_GRN_SHARED", Path(__file__).resolve().parents[2] / "shared"))


if __name__ == "__main__":
    main()
