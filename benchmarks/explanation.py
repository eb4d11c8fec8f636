"""Whether explanations are complete and faithful: a fine-tuned cell-type model, cells of donors it never saw.

The model is fine-tuned once and kept (`--work`). Each method's ranking is judged by taking its leading genes
away, beside random genes of the same rank and beside the genes that a rank-sum test puts first. Methods that
are in the JSON already are skipped, so a stopped command goes on. README.md says what the keys mean.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from measuring import device, versions
from sklearn.metrics import f1_score

from geneformer_grn._runtime import plain_json, write_json
from geneformer_grn.cells.counts import read_counts
from geneformer_grn.cells.opening import read_anndata
from geneformer_grn.cells.ranking import rank_cells
from geneformer_grn.explanation.settings import BASELINES, AttributionSettings, DeletionSettings
from geneformer_grn.model.encoder import load_encoder
from geneformer_grn.model.head_files import is_finetuned, load_finetuned, read_record, save_finetuned
from geneformer_grn.report.drawing import to_png
from geneformer_grn.report.explanation_figures import deletion_figure
from geneformer_grn.training.finetune import finetune
from geneformer_grn.training.finetune_settings import FinetuneModel, FinetuneOptim, FinetuneSettings
from geneformer_grn.training.splits import SplitRule, make_splits
from geneformer_grn.training.supervision import Split, Task
from geneformer_grn.workflows.explain import ExplainOptions, explain_counts
from geneformer_grn.workflows.explain_options import METHOD_NAMES

FILE = "dev_eval/kang_ifnb_1287g.h5ad"
RIVAL = "differential_expression"


def main() -> None:
    """Fine-tune unless that is done, then measure method after method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    parser.add_argument("--work", type=Path, help="folder that keeps the fine-tuned model; else beside OUT")
    parser.add_argument("--figure", type=Path, help="PNG of the deletion curves to write")
    parser.add_argument("--quick", action="store_true", help="few cells, one cheap method")
    parser.add_argument("--methods", default=",".join(METHOD_NAMES))
    parser.add_argument("--baseline", default=BASELINES[0], choices=BASELINES, help="of integrated gradients")
    parser.add_argument("--cells", type=int, default=64, help="cells explained, of occlusion half")
    parser.add_argument("--max-length", type=int, help="tokens that the model reads of a cell")
    parser.add_argument("--train-cells", type=int, default=2_000)
    parser.add_argument("--shared", type=Path, default=_shared(), help="folder with data/")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.methods, chosen.cells, chosen.train_cells = "gradient_x_input", 16, 100
    chosen.work = chosen.work or chosen.out.with_suffix(".model")
    torch.set_num_threads(chosen.threads)
    result = json.loads(chosen.out.read_text(encoding="utf-8")) if chosen.out.is_file() else {}
    if not is_finetuned(chosen.work):
        fine_tune(chosen)
    for method in chosen.methods.split(","):
        if method not in result.get("methods", {}):
            result = joined(result, measured(method, chosen), method, chosen)
            write_json(chosen.out, result)
    if chosen.figure is not None:
        chosen.figure.write_bytes(to_png(deletion_figure(pd.DataFrame(result["rows"]))))


def fine_tune(chosen: argparse.Namespace) -> None:
    """Fine-tune on cells of some donors, and note how well the model does on those of the others."""
    encoder = load_encoder("mini", device="cpu")
    adata = read_anndata(chosen.shared / "data" / FILE)
    counts = read_counts(adata, encoder.vocabulary)
    ranked = rank_cells(counts, encoder.vocabulary)
    names, values = np.unique(counts.obs["cell_type"].astype(str), return_inverse=True)
    donors = counts.obs["donor"].astype(str).to_numpy()
    task = Task("cell_type", "cell", "classification", values.astype(np.int64), tuple(names))
    (split,) = make_splits(task.values, SplitRule(groups_are="donor"), groups=donors, seed=0)
    rng = np.random.default_rng(0)
    some = replace_parts(split, rng, train=chosen.train_cells, validation=400)
    settings = FinetuneSettings(
        model=FinetuneModel(pooling="mean", max_length=chosen.max_length),
        optim=FinetuneOptim(epochs=1 if chosen.quick else 3, min_steps=0, sampling="balanced"),
    )
    started = time.perf_counter()
    found = finetune(encoder, ranked, [task], {"cell": some}, settings, seed=0)
    judged = np.sort(rng.choice(split.test, min(1_000, len(split.test)), replace=False))
    predicted = found.model.predict(ranked, cells=judged)["cell_type"].argmax(axis=1)
    record = {
        "split": split.rule,
        "test_donors": sorted(set(donors[split.test])),
        "train_cells": len(some.train),
        "test_macro_f1": f1_score(values[judged], predicted, average="macro"),
        "test_accuracy": float((values[judged] == predicted).mean()),
        "seconds": time.perf_counter() - started,
        "settings": settings.model_dump(),
    }
    save_finetuned(found.model, chosen.work, record=record)


def replace_parts(split: Split, rng: np.random.Generator, **sizes: int) -> Split:
    """Return the split with random samples of some parts."""
    parts = {name: np.sort(rng.permutation(getattr(split, name))[:size]) for name, size in sizes.items()}
    return replace(split, **parts)


def measured(method: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """Return the tables and figures of one method on cells of donors that the model never saw."""
    model = load_finetuned(chosen.work, device="cpu")
    adata = read_anndata(chosen.shared / "data" / FILE)
    held_out = adata.obs["donor"].astype(str).isin(read_record(chosen.work)["test_donors"])
    counts = read_counts(adata[held_out.to_numpy()].to_memory(), model.encoder.vocabulary)
    started = time.process_time()
    n_cells = chosen.cells // 2 if method == "occlusion" else chosen.cells  # a pass for every gene of a cell
    options = ExplainOptions(
        label="cell_type", methods=(method,), n_cells=n_cells, deletion=deletion(),
        attribution=AttributionSettings(baseline=chosen.baseline),
    )  # fmt: skip
    found = explain_counts([model], counts, options)
    top = found.drivers[found.drivers["rank"] <= 5]
    return {
        "rows": plain_json(found.deletion.to_dict("records")),
        "facts": {name: value for name, value in found.facts.items() if name != "methods"},
        "figures": found.facts["methods"],
        "completeness": plain_json(_completeness(found.cells)),
        "agreement": plain_json(found.agreement.to_dict("records")),
        "leading_genes": {name: part["gene_symbol"].tolist() for name, part in top.groupby("class")},
        "cpu_seconds": time.process_time() - started,
    }


def deletion() -> DeletionSettings:
    """Return how genes are taken away here."""
    return DeletionSettings(n_random=2)


def joined(
    result: dict[str, Any], part: dict[str, Any], method: str, chosen: argparse.Namespace
) -> dict[str, Any]:
    """Return the JSON with one more method."""
    rows = [row for row in result.get("rows", []) if row["method"] not in {method, RIVAL}]
    names = ("facts", "completeness", "agreement", "leading_genes", "cpu_seconds")
    figures = {**result.get("figures", {}), **part["figures"]}
    of_class = {name: found["class"] for name, found in figures.items()}
    return {
        "device": device(),
        "versions": versions("torch", "transformers", "captum"),
        "conditions": {
            "file": Path(FILE).name, "threads": chosen.threads, "model": read_record(chosen.work),
            "deletion": asdict(deletion()), "baseline": chosen.baseline,
            "load_average_before": os.getloadavg()[0],
        },
        "rows": rows + part["rows"],
        "methods": {**result.get("methods", {}), method: {name: part[name] for name in names}},
        "figures": figures,
        "summary": {
            "hurts_more_than_random": {name: row["excess_low"] > 0 for name, row in of_class.items()},
            "excess": {name: row["excess"] for name, row in of_class.items()},
        },
    }  # fmt: skip


def _completeness(cells: pd.DataFrame) -> dict[str, Any] | None:
    """Return how complete a method's scores are, or None where it does not promise it."""
    errors = cells["completeness_error"].dropna()
    if not len(errors):
        return None
    difference = (cells["output"] - cells["baseline_output"]).abs()
    return {
        "cells": len(errors),
        "share_within_1_percent": float((errors <= 0.01).mean()),
        "median_error": float(errors.median()),
        "largest_error": float(errors.max()),
        "smallest_difference": float(difference.min()),
        "median_steps": float(cells["steps"].median()),
        "most_steps": int(cells["steps"].max()),
    }


def _shared() -> Path:
    return Path(os.environ.get("GENEFORMER_GRN_SHARED", Path(__file__).resolve().parents[2] / "shared"))


if __name__ == "__main__":
    main()
