"""What a screen finds and what it saves: every gene of real cells run exactly, and the screen beside it.

The truth is the exact run. Recall is the share of the truly strongest tenth of all genes that the screen put
on its list; the simple rival is a list of the same length of the genes that rank highest in their cells. Rows
that are in the JSON already are skipped, so a stopped command goes on. README.md says what the keys mean.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import json
import time
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from measuring import device, versions

from geneformer_grn._runtime import write_json
from geneformer_grn.cells.counts import CellCounts, ReadSettings, read_counts
from geneformer_grn.cells.opening import read_anndata
from geneformer_grn.cells.ranking import rank_cells
from geneformer_grn.model.encoder import Encoder, load_encoder
from geneformer_grn.perturbation.shortlist import strongest
from geneformer_grn.workflows.perturb import perturb_counts
from geneformer_grn.workflows.perturb_options import PerturbOptions
from geneformer_grn.workflows.screen import ScreenOptions, screen_counts

DEMO = "demo"
GOAL_CELLS = 50
TOP = 0.1


@dataclass(frozen=True, kw_only=True)
class Group:
    """Cells to screen: a file below the shared data (or the demo cells), a cell type, and the goal's."""

    file: str
    label: str | None = None
    goal: str | None = None
    n_cells: int = 10


GROUPS = (
    Group(file="dev_eval/pbmc3k.h5ad", label="B cells", goal="NK cells", n_cells=5),
    Group(file=DEMO, n_cells=3),
    Group(file="dev_eval/kang_ifnb_2511g.h5ad", label="CD14+ Monocytes", goal="CD4 T cells"),
    Group(file="dev_eval/kang_ifnb_2511g.h5ad", label="NK cells", goal="CD4 T cells"),
)
QUICK = (Group(file=DEMO, n_cells=1),)


def main() -> None:
    """Measure every group and kind, and write the JSON after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    parser.add_argument("--quick", action="store_true", help="one demo cell, knock-out only")
    parser.add_argument("--shared", type=Path, default=_shared(), help="folder with data/")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    encoder = load_encoder(chosen.model, device=chosen.device)
    known = json.loads(chosen.out.read_text(encoding="utf-8"))["rows"] if chosen.out.is_file() else []
    for group in QUICK if chosen.quick else GROUPS:
        for kind in ("knockout",) if chosen.quick else ("delete", "knockout"):
            name = {"file": Path(group.file).name, "group": group.label or "all", "kind": kind}
            if any(name.items() <= row.items() for row in known):
                continue
            known += [{**name, **row} for row in measured(encoder, group, kind, chosen.shared)]
            write_json(chosen.out, _result(encoder, known, chosen))


def measured(encoder: Encoder, group: Group, kind: str, shared: Path) -> list[dict[str, Any]]:
    """Run every gene of a group exactly, then the screen by the cell shift and by the shift to the goal."""
    both, cells = _read(encoder, group, shared)
    states = {} if group.goal is None else {"states": "state", "start": "start", "goal": "goal"}
    started = time.process_time()
    truth = perturb_counts(encoder, both, PerturbOptions(genes="all", kind=kind, n_null=0, **states))
    seconds = time.process_time() - started
    rows = []
    for goal, counts in (("", cells), ("goal", both)):
        if goal and not states:
            continue
        asked = PerturbOptions(genes="all", kind=kind, n_null=0, **(states if goal else {}))
        started = time.process_time()
        found = screen_counts(encoder, counts, ScreenOptions(perturb=asked))
        exact = truth.effects[truth.effects["state"] == goal].set_index("gene")["shift"].abs()
        row = {"ranked_by": "shift towards the goal" if goal else "cell shift"}
        row |= _scores(found.genes, exact, rank=_mean_rank(encoder, cells))
        names = (
            "n_passes", "n_passes_estimate", "n_passes_exact_run", "times_fewer_passes", "recall_low",
            "recall_high", "n_genes_audited",
        )  # fmt: skip
        row |= {name: found.facts[name] for name in names} | {"recall_audited": found.facts["recall"]}
        row |= {"cpu_seconds": time.process_time() - started, "cpu_seconds_exact_run": seconds}
        rows.append({"cells": len(cells), **row})
    return rows


def _scores(genes: pd.DataFrame, exact: pd.Series, *, rank: pd.Series) -> dict[str, Any]:
    """Return the recall of the true top, of the screen's list and of the simple rival's."""
    table = genes.set_index("gene")
    truth = exact.reindex(table.index).to_numpy()
    top, listed = strongest(truth, TOP), table["listed"].to_numpy()
    by_rank = strongest(-rank.reindex(table.index).to_numpy(), listed.sum() / len(table))
    return {
        "genes": len(table),
        "spearman": float(pd.Series(truth).corr(table["estimate"].abs().reset_index(drop=True), "spearman")),
        "recall": float(listed[top].mean()),
        "recall_before_exact_runs": float(strongest(table["estimate"].abs().to_numpy(), TOP)[top].mean()),
        "recall_by_rank": float(by_rank[top].mean()),
        "n_true_top": int(top.sum()),
    }


def _mean_rank(encoder: Encoder, counts: CellCounts) -> pd.Series:
    """Return the mean position of each gene in the cells that hold it, 0 the first."""
    ranked, vocabulary = rank_cells(counts, encoder.vocabulary), encoder.vocabulary
    room = vocabulary.max_length - vocabulary.n_wrapping
    cells = [ranked.cell(row)[:room] for row in range(len(ranked))]
    tokens, places = np.concatenate(cells), np.concatenate([np.arange(len(cell)) for cell in cells])
    return pd.Series(places).groupby(vocabulary.ensembl_ids[tokens]).mean()


def _read(encoder: Encoder, group: Group, shared: Path) -> tuple[CellCounts, CellCounts]:
    """Return counts of the group's cells with those of its goal, and of the group's cells alone."""
    if group.file == DEMO:
        with as_file(files("geneformer_grn") / "_demo" / "cells.h5ad") as path:
            adata = read_anndata(path, None).to_memory()
    else:
        adata = read_anndata(shared / "data" / group.file, None).to_memory()
    rng = np.random.default_rng(0)
    labels = (
        np.full(adata.n_obs, "") if group.label is None else adata.obs["cell_type"].astype(str).to_numpy()
    )
    start = rng.permutation(np.flatnonzero(labels == (group.label or "")))[: group.n_cells]
    goal = rng.permutation(np.flatnonzero(labels == group.goal))[:GOAL_CELLS]
    both = adata[np.concatenate([start, goal])].copy()
    both.obs["state"] = ["start"] * len(start) + ["goal"] * len(goal)
    alone = both[: len(start)].copy()
    counted = (read_counts(part, encoder.vocabulary, ReadSettings()) for part in (both, alone))
    return next(counted), next(counted)


def _result(encoder: Encoder, rows: list[dict[str, Any]], chosen: argparse.Namespace) -> dict[str, Any]:
    defaults = asdict(ScreenOptions(perturb=PerturbOptions(genes="all", n_null=0)))
    options = {name: value for name, value in defaults.items() if name != "perturb"}
    summary = {}
    for kind, by in sorted({(row["kind"], row["ranked_by"]) for row in rows}):
        part = [row for row in rows if (row["kind"], row["ranked_by"]) == (kind, by)]
        found = sum(row["recall"] * row["n_true_top"] for row in part)
        summary[f"{kind}, {by}"] = {
            "recall": found / sum(row["n_true_top"] for row in part),
            "recall_least": min(row["recall"] for row in part),
            "times_fewer_passes_least": min(row["times_fewer_passes"] for row in part),
        }
    return {
        "device": device(),
        "versions": versions("torch", "transformers"),
        "conditions": {
            "model": encoder.name, "device": chosen.device, "threads": chosen.threads, "top": TOP,
            "options": options, "load_average_before": os.getloadavg()[0],
        },
        "rows": rows,
        "summary": summary,
    }  # fmt: skip


def _shared() -> Path:
    return Path(os.environ.get("GENEFORMER_GRN_SHARED", Path(__file__).resolve().parents[2] / "shared"))


if __name__ == "__main__":
    main()
