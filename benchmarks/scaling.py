"""Held-out loss of models of several sizes after several numbers of tokens, within a CPU budget.

One run a size at a constant learning rate; the shorter runs branch off it, so each costs its decline alone
(`geneformer_grn.training.branching`). Every size has the same budgets, each twice the one before. Speeds are
measured first and the longest budget follows from them; a stopped command goes on with --resume.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import device, versions
from scaling_fit import CONFIGS, fit_study, non_embedding
from scaling_page import write_page

from geneformer_grn._runtime import write_json
from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.cells.rank_position import RankPositionBaseline
from geneformer_grn.model.encoder import load_encoder
from geneformer_grn.training.config import PretrainConfig, read_config
from geneformer_grn.training.data import open_data
from geneformer_grn.training.pretrain import plan_run, run_pretraining
from geneformer_grn.training.validation import masked_cells, score_masked_cells

RECIPE = CONFIGS / "scaling.toml"
SIZES = "1x32,2x64,3x96,4x128"  # layers x width
BLOCKS = 20  # of held-out cells, for the bootstrap
UNIT = 5  # the shortest run has a multiple of so many steps, and so a whole number before its decline
MARGIN = 0.8  # share of the CPU hours that are planned: evaluation, starts and kills take their part
NEVER = 10**9
Cells = list[tuple[np.ndarray, np.ndarray]]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Held-out loss against size and tokens, and the fitted law.")
    parser.add_argument("--corpus", type=Path, help="trained on; needed without --quick")
    parser.add_argument("--validation", type=Path, action="append", help="held out; each file is one kind")
    parser.add_argument("--out", type=Path, required=True, metavar="RESULTS.json")
    parser.add_argument("--runs", type=Path, help="folder of the runs (default: beside the results)")
    parser.add_argument("--cpu-hours", type=float, default=4.0)
    parser.add_argument("--sizes", default=SIZES, help=f"layers x width (default: {SIZES})")
    parser.add_argument("--budgets", type=int, default=4, help="lengths a size, each twice the one before")
    parser.add_argument("--repeats", type=int, default=1, help="more seeds of the smallest size")
    parser.add_argument("--validation-cells", type=int, default=100, help="of each kind")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on with the results in --out")
    parser.add_argument("--plan", action="store_true", help="measure speeds, print the plan, and end")
    parser.add_argument("--page", type=Path, metavar="PAGE.md", help="write table and figure into this page")
    parser.add_argument("--quick", action="store_true", help="three tiny sizes, 40 steps at most")
    options = parser.parse_args(arguments)
    if options.out.exists() and not options.resume:
        parser.error(f"{options.out.name} is there; pass --resume to go on with it")
    if options.budgets < 3:
        parser.error("a law in tokens needs 3 budgets at least")
    if not options.quick and not (options.corpus and options.validation):
        parser.error("--corpus and --validation are needed")
    torch.set_num_threads(options.threads)
    options.runs = options.runs or options.out.with_name(options.out.stem + "-runs")
    if options.quick:
        options.sizes, options.budgets, options.validation_cells = "1x16,1x32,2x32", 3, 20
        options.set += ["model.embeddings=random", "data.token_budget=1024", "optim.warmup_steps=5"]
        if not options.corpus:
            options.corpus, options.validation = generated(options.runs / "cells")
    study(options)


def study(options: argparse.Namespace) -> None:
    """Run what is missing, write the results after each run, and fit the law to them."""
    sizes = options.sizes.split(",")
    kinds = held_out_cells(options.validation, options.validation_cells)
    result = begin(options, sizes, kinds)
    steps = result["plan"]["steps"]
    for line in plan_lines(result):
        print(line, flush=True)
    if options.plan:
        return
    trunks = [(size, 0) for size in sizes] + [(sizes[0], seed) for seed in range(1, 1 + options.repeats)]
    for size, seed in trunks:
        done = {row["budget"] for row in result["rows"] if (row["name"], row["seed"]) == (size, seed)}
        folder = options.runs / f"{size}-seed{seed}"
        for budget in [*reversed(range(len(steps)))]:  # the longest is the trunk of the others
            if budget not in done:
                require_time(result, options, size)
                row = train(options, size, seed, budget, steps, folder=folder, kinds=kinds)
                result["rows"].append(row)
                result["cpu_seconds"] = round(result["cpu_seconds"] + row["cpu_seconds"], 1)
                write_json(options.out, result)
                losses = {kind: round(scores["loss"], 4) for kind, scores in row["held_out"].items()}
                print(f"{size} seed {seed}: {row['tokens']:,} tokens, {losses}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
    result["fit"] = fit_study(result, draws=20 if options.quick else 200)
    write_json(options.out, result)
    if options.page:
        write_page(result, options.page)


def begin(options: argparse.Namespace, sizes: list[str], kinds: dict[str, Cells]) -> dict[str, Any]:
    """Return the results so far, or those of a study that is only planned; another study's are refused."""
    config = configure(options, sizes[0], 0, 1)
    for folder in options.validation:  # refused where cells would be trained on and scored
        section = config.data.model_copy(update={"validation": folder})
        data = open_data(config.model_copy(update={"data": section}))
    corpus = data.corpus
    lengths = np.minimum(corpus.lengths, data.vocabulary.max_length)
    conditions = {
        "recipe": RECIPE.name, "changes": [change for change in options.set if "/" not in change],
        "sizes": sizes, "budgets": options.budgets, "repeats": options.repeats, "quick": options.quick,
        "validation_cells": {kind: len(cells) for kind, cells in kinds.items()},
        "corpus_cells": len(corpus), "corpus_tokens": int(lengths.sum()),
        "corpus_files": [entry["name"] for entry in corpus.manifest["files"]],
        "vocabulary": corpus.vocabulary.fingerprint, "threads": options.threads,
        "shape": {"vocabulary": len(data.vocabulary), "positions": data.vocabulary.max_length},
    }  # fmt: skip
    if options.out.exists():
        found: dict[str, Any] = json.loads(options.out.read_text(encoding="utf-8"))
        if found["conditions"] != conditions:
            differ = [key for key in conditions if found["conditions"].get(key) != conditions[key]]
            raise SystemExit(f"{options.out.name} is another study ({', '.join(differ)}); give another --out")
        return found
    started = time.process_time()
    speeds = {size: measure(options, size) for size in sizes}
    baseline = RankPositionBaseline.fit(corpus, data.vocabulary)
    result = {
        "benchmark": "scaling", "device": device(), "versions": versions(), "conditions": conditions,
        "plan": plan(options, speeds),
        "held_out": {
            kind: {
                "cells": len(cells), "rank_position_loss": baseline.score(cells)["loss"],
                "block_masked": in_blocks(np.array([float((labels >= 0).sum()) for _, labels in cells])),
            }
            for kind, cells in kinds.items()
        },
        "rows": [], "cpu_seconds": round(time.process_time() - started, 1),
    }  # fmt: skip
    if not options.plan:
        write_json(options.out, result)
    return result


def plan(options: argparse.Namespace, speeds: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Return the steps of every budget, from the CPU seconds a step and the hours there are."""
    shares = [2.0**-number for number in range(options.budgets)][::-1]
    sizes = list(speeds)
    trunks = sizes + sizes[:1] * options.repeats
    a_step = sum(speeds[size]["cpu_s_per_step"] for size in trunks)
    starts = sum(speeds[size]["start_cpu_s"] for size in trunks)
    optim = configure(options, sizes[0], 0, 1).optim
    decay = optim.decay_share
    in_all = 1.0 + decay * sum(shares[:-1])  # steps that are computed, for each of the longest run
    ends = 4.0 * options.budgets * len(trunks) * options.validation_cells / 100  # seconds of evaluation
    longest = (MARGIN * 3600 * options.cpu_hours - starts - ends) / (a_step * in_all)
    shortest = UNIT * max(1, int(longest * shares[0] / UNIT))
    if options.quick:
        shortest = 2 * UNIT
    if shortest - round(decay * shortest) <= optim.warmup_steps:
        raise SystemExit(
            f"the shortest run would have {shortest} steps, of which {optim.warmup_steps} are warm-up; give "
            "more --cpu-hours, fewer --budgets or smaller --sizes"
        )
    steps = [shortest * 2**number for number in range(options.budgets)]
    seconds = steps[-1] * in_all * a_step + starts + ends
    return {"steps": steps, "speeds": speeds, "cpu_hours": round(seconds / 3600, 3), "decay_share": decay}


def plan_lines(result: dict[str, Any]) -> list[str]:
    """Return the plan in words."""
    steps, speeds = result["plan"]["steps"], result["plan"]["speeds"]
    lines = [f"{'size':>8} {'tokens/CPU s':>13} {'longest run, tokens':>20} {'epochs':>7}"]
    for size, speed in speeds.items():
        tokens = steps[-1] * speed["tokens_per_step"]
        epochs = tokens / result["conditions"]["corpus_tokens"]
        rate = speed["tokens_per_step"] / speed["cpu_s_per_step"]
        lines.append(f"{size:>8} {rate:>13,.0f} {tokens:>20,.0f} {epochs:>7.2f}")
    hours = result["plan"]["cpu_hours"]
    return [*lines, f"runs of {', '.join(map(str, steps))} steps; about {hours:.2f} CPU hours in all"]


def measure(options: argparse.Namespace, size: str, *, n_steps: int = 6) -> dict[str, float]:
    """Return tokens and CPU seconds a step after the first two, and the CPU seconds before the first."""
    config = configure(options, size, 0, n_steps)
    marks = [time.process_time()]
    tokens = plan_run(config, world_size=1)["tokens_per_step"]
    with tempfile.TemporaryDirectory() as folder:
        for length in (2, n_steps):  # the second goes on where the first ended
            shorter = configure(options, size, 0, length)
            run_pretraining(shorter, Path(folder) / "run", resume=True)
            marks.append(time.process_time())
    # What starting again costs is in the second time too; it is small beside the steps and errs upwards.
    a_step = (marks[2] - marks[1]) / (n_steps - 2)
    start = max(0.0, marks[1] - marks[0] - 2 * a_step)
    return {"tokens_per_step": tokens, "cpu_s_per_step": round(a_step, 4), "start_cpu_s": round(start, 2)}


def configure(
    options: argparse.Namespace, size: str, seed: int, steps: int, *, every: int = NEVER
) -> PretrainConfig:
    """Return the recipe for one size and length."""
    layers, width = map(int, size.split("x"))
    return read_config(RECIPE, [
        f"model.n_layers={layers}", f"model.hidden_size={width}", f"model.ffn_size={4 * width}",
        f"model.n_heads={max(1, width // 32)}", f"data.corpus={options.corpus}", "data.validation=none",
        f"run.seed={seed}", f"run.threads={options.threads}", "run.device=cpu",
        f"run.max_steps={steps}", f"run.checkpoint_every={every}", "run.keep_last=1000", *options.set,
    ])  # fmt: skip


def train(
    options: argparse.Namespace, size: str, seed: int, budget: int, steps: list[int], *, folder: Path,
    kinds: dict[str, Cells],
) -> dict[str, Any]:  # fmt: skip
    """Train one run, a branch unless it is the longest, and score it."""
    trunk = folder / "trunk"
    decay = configure(options, size, seed, 1).optim.decay_share
    begins = [count - round(decay * count) for count in steps]  # of the declines; all multiples of the first
    config = configure(options, size, seed, steps[budget], every=begins[0])
    out = trunk if budget == len(steps) - 1 else folder / f"budget{budget}"
    branch = None if out == trunk else (trunk, begins[budget])
    with cpu_seconds_kept(folder / f"{out.name}.cpu") as spent:
        summary = run_pretraining(config, out, resume=True, branch_from=branch)
        if not summary["finished"]:
            raise SystemExit(f"stopped in {size}; --resume goes on")
        scores = score(out / "model", kinds)
    data = {"vocabulary": 0, "positions": 0} | plan_run(config, world_size=1)
    return {
        "name": size, "seed": seed, "budget": budget, "steps": steps[budget], "tokens": summary["tokens"],
        "parameters": data["parameters"], "non_embedding_parameters": non_embedding(config.model, data),
        "training_loss": summary["loss"], "cpu_seconds": round(spent[0], 1), "held_out": scores,
    }  # fmt: skip


@contextlib.contextmanager
def cpu_seconds_kept(path: Path) -> Iterator[list[float]]:
    """Count the CPU seconds of the body on top of those in `path`, which is kept up to date for a kill."""
    before = float(path.read_text()) if path.exists() else 0.0
    path.parent.mkdir(parents=True, exist_ok=True)
    started, ended, spent = time.process_time(), threading.Event(), [before]

    def note() -> None:
        spent[0] = before + time.process_time() - started
        path.write_text(str(spent[0]))

    def keep() -> None:
        while not ended.wait(5.0):
            note()

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield spent
    finally:
        ended.set()
        thread.join()
        note()


def require_time(result: dict[str, Any], options: argparse.Namespace, size: str) -> None:
    """Stop where the CPU hours are used up; the rest can be run with more of them."""
    if result["cpu_seconds"] > 3600 * options.cpu_hours:
        raise SystemExit(
            f"{result['cpu_seconds'] / 3600:.2f} CPU hours are used up before {size}; --resume with more "
            "--cpu-hours"
        )


def held_out_cells(folders: Sequence[Path], n_cells: int) -> dict[str, Cells]:
    """Return cells with hidden genes by the file they come from, the same ones in every study."""
    kinds: dict[str, Cells] = {}
    for folder in folders:
        corpus = Corpus.open(folder)
        end = 0
        for entry in corpus.manifest["files"]:
            begin, end = end, end + entry["n_cells"]
            own = [corpus.cell(cell) for cell in range(begin, end)]
            if own:
                name = entry["name"].split(".")[0]
                kinds[name] = masked_cells(own, corpus.vocabulary, max_cells=n_cells)
        if end != len(corpus):
            raise SystemExit(
                f"{folder.name} does not say which cells are of which file; tokenize its files again"
            )
    return kinds


def score(folder: Path, kinds: dict[str, Cells]) -> dict[str, Any]:
    """Return loss and accuracy of a model on each kind of held-out cells."""
    model = load_encoder(folder, device="cpu").model
    found = {}
    for kind, cells in kinds.items():
        scores = score_masked_cells(model, cells, token_budget=8_192)
        summary = scores.summary()
        found[kind] = {
            "loss": summary["loss"], "accuracy": summary["accuracy"],
            "block_loss": [round(value, 3) for value in in_blocks(scores.loss)],
        }  # fmt: skip
    return found


def in_blocks(values: np.ndarray) -> list[float]:
    """Return sums over `BLOCKS` blocks of cells, every twentieth cell in one."""
    return [float(values[block::BLOCKS].sum()) for block in range(min(BLOCKS, len(values)))]


def generated(folder: Path) -> tuple[Path, list[Path]]:
    """Write corpora of cells drawn from four programmes of genes; the held-out kinds mix them otherwise."""
    import anndata
    import pandas as pd

    from geneformer_grn.cells.corpora.tokenizing import write_corpus
    from geneformer_grn.genes.vocabulary import GeneVocabulary, resolve_vocabulary

    places = folder / "corpus", [folder / "held_out"]
    if (folder / "held_out" / "manifest.json").exists():
        return places
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = GeneVocabulary.load(resolve_vocabulary("human"))
    generator = np.random.default_rng(0)
    genes = vocabulary.ensembl_ids[vocabulary.n_special :][:400]
    programmes = generator.gamma(0.5, 1.0, (4, len(genes)))
    files = []
    for name, n_cells, mixing in (("train", 400, 1.0), ("near", 40, 1.0), ("far", 40, 0.1)):
        use = generator.dirichlet(np.full(4, mixing), n_cells)
        counts = generator.poisson(3 * use @ programmes).astype(np.float32)
        cells = pd.DataFrame(index=[f"{name}{cell}" for cell in range(n_cells)])
        files.append(folder / f"{name}.h5ad")
        anndata.AnnData(counts, obs=cells, var=pd.DataFrame(index=genes)).write_h5ad(files[-1])
    write_corpus(files[:1], folder / "corpus", vocabulary)
    write_corpus(files[1:], folder / "held_out", vocabulary)
    return places


if __name__ == "__main__":
    main()
