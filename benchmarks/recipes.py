"""Which changes to a pretraining recipe lower the held-out loss at equal tokens.

Every variant is one change to a small version of `mini`'s recipe. All are scored on the same hidden genes of
the same held-out cells, 15 % of them whatever the training masked; a variant counts as better or worse only
where it differs from the baseline by more than seeds do. That is a screen of many ideas on few tokens: what a
longer run would do is not measured.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measuring import device, versions

from geneformer_grn._runtime import write_json
from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.cells.epoch_plan import plan_stages
from geneformer_grn.training import initialization
from geneformer_grn.training.config import PretrainConfig, read_config
from geneformer_grn.training.data import open_data
from geneformer_grn.training.pretrain import run_pretraining

RECIPE = Path(__file__).parents[1] / "pretrain" / "configs" / "mini.toml"
NEVER = 10**9
SMALL = (
    "model.n_layers=2",
    "model.hidden_size=96",
    "model.ffn_size=384",
    "model.n_heads=2",
    "data.token_budget=1024",  # as many steps from an eighth of the tokens
    "run.precision=fp32",
    "run.compile=false",
    "run.device=cpu",
    "run.threads=1",
    f"run.validate_every={NEVER}",  # the last step validates anyway
    f"run.checkpoint_every={NEVER}",
)
# Where `mini` has something else already, that is the baseline: 25 % masked, 80/10/10, decay 0.01 on the
# matrices of the layers, cosine, learning rate 2e-3 with betas 0.9 and 0.98, no dropout.
VARIANTS: dict[str, tuple[str, ...]] = {
    "baseline": (),
    "mask_15": ("data.mask_rate=0.15",),
    "mask_30": ("data.mask_rate=0.3",),
    "mask_40": ("data.mask_rate=0.4",),
    "mask_all_hidden": ("data.keep=0.0", "data.random=0.0"),
    "decay_none": ("optim.weight_decay=0.0",),
    "decay_x10": ("optim.weight_decay=0.1",),
    "decay_x10_embeddings": ("optim.weight_decay=0.1", "optim.decay_embeddings=true"),
    "wsd": ("optim.schedule=wsd",),
    "linear": ("optim.schedule=linear",),
    "betas_95": ("optim.betas=[0.9, 0.95]",),
    "lr_x2_betas_95": ("optim.lr=4e-3", "optim.betas=[0.9, 0.95]"),
    "lr_x4_betas_95": ("optim.lr=8e-3", "optim.betas=[0.9, 0.95]"),
    "lr_half": ("optim.lr=1e-3",),
    "muon": ("optim.optimizer=muon",),
    "curriculum": ("data.curriculum=HALF_AT_256",),
    "balanced_tissues": ("data.balance=tissue",),
    "budget_half": ("data.token_budget=512",),
    "budget_double": ("data.token_budget=2048",),
    "dropout_10": ("model.dropout=0.1",),
}
WARMUP_SHARE = 0.055  # of the steps, as in `mini`


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Held-out loss of changes to a recipe, at equal tokens.")
    parser.add_argument("--corpus", type=Path, required=True, help="trained on; with a column tissue")
    parser.add_argument("--validation", type=Path, required=True, help="held out, of other files")
    parser.add_argument("--out", type=Path, required=True, metavar="RESULTS.json")
    parser.add_argument("--variants", help=f"of {','.join(VARIANTS)}, or joined: wsd+muon (default: all)")
    parser.add_argument("--tokens", type=int, default=256_000, help="real tokens of one run")
    parser.add_argument("--seeds", default="0", help="comma-separated, one run each")
    parser.add_argument("--validation-cells", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="50,000 tokens; a baseline and two variants")
    options = parser.parse_args(arguments)
    names = options.variants.split(",") if options.variants else list(VARIANTS)
    if options.quick:
        options.tokens, names = 50_000, ["baseline", "mask_15", "muon"]
    if unknown := [part for name in names for part in name.split("+") if part not in VARIANTS]:
        parser.error(f"no variant {', '.join(unknown)}; there are {', '.join(VARIANTS)}")

    decompose = initialization.gene_components

    @functools.cache
    def once(n_components: int, seed: int) -> np.ndarray:
        return decompose(corpus, n_components=n_components, seed=seed)

    # Where a run starts depends on corpus and seed, not on the variant, and takes ten seconds to compute.
    initialization.gene_components = lambda _corpus, **options: once(**options)
    corpus = Corpus.open(options.corpus)
    conditions = {
        "recipe": RECIPE.name, "small": list(SMALL), "warmup_share": WARMUP_SHARE, "tokens": options.tokens,
        "validation_cells": options.validation_cells, "corpus_cells": len(corpus),
        "corpus_tokens": int(corpus.lengths.sum()), "vocabulary": corpus.vocabulary.fingerprint,
        "scored": "15 % of the genes, all hidden, the same for every run",
    }  # fmt: skip
    for seed in map(int, options.seeds.split(",")):
        for name in names:
            result = read(options.out, conditions)
            if any((row["name"], row["seed"]) == (name, seed) for row in result["rows"]):
                continue
            row = {"name": name, "seed": seed, **train(name, seed, options)}
            print(row, flush=True)
            # Read again: another process may have added variants of its own.
            rows = [*read(options.out, conditions)["rows"], row]
            write_json(options.out, result | {"rows": rows, "summary": summarise(rows)})


def read(path: Path, conditions: dict[str, Any]) -> dict[str, Any]:
    """Return the results so far; those under other conditions would not be comparable and are refused."""
    if not path.is_file():
        machine = {"device": device(), "versions": versions(), "load_average_before": os.getloadavg()[0]}
        return {"benchmark": "recipes", **machine, "conditions": conditions, "rows": []}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if found["conditions"] != conditions:
        raise SystemExit(f"{path.name} holds runs under other conditions; give another --out")
    return found


def train(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run one variant; return what it changed and how it scored."""
    changes = [change for part in name.split("+") for change in VARIANTS[part]]
    config = plan(changes, seed, options)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        summary = run_pretraining(config, Path(folder) / "run")
    if not summary["finished"]:
        raise SystemExit(f"{name} was stopped; the runs before it are in {options.out.name}")
    wanted = ["tokens", "loss", "validation_loss", "validation_accuracy", "validation_masked"]
    wanted += ["baseline_loss", "baseline_accuracy"]
    return {
        "changes": changes, "steps": config.run.max_steps, **{key: summary[key] for key in wanted},
        "seconds": round(time.perf_counter() - started, 1), "load_average": os.getloadavg()[0],
    }  # fmt: skip


def plan(changes: Iterable[str], seed: int, options: argparse.Namespace) -> PretrainConfig:
    """Return the config of a run that sees `options.tokens` real tokens, to half a step."""
    lengths = np.asarray(Corpus.open(options.corpus).lengths)
    half_at_256 = options.tokens / 2 / float(np.minimum(lengths, 256).sum())  # in epochs
    fixed = [
        *SMALL, f"data.corpus={options.corpus}", f"data.validation={options.validation}",
        f"run.validation_cells={options.validation_cells}", f"run.seed={seed}",
        *(change.replace("HALF_AT_256", f"[[{half_at_256}, 256]]") for change in changes),
    ]  # fmt: skip
    data = open_data(read_config(RECIPE, fixed))
    longest = data.vocabulary.max_length
    batches = [
        np.minimum(lengths[cells % len(lengths)], stage or longest).sum()
        for epoch in range(1 + options.tokens // int(np.minimum(lengths, 256).sum()))
        for cells, stage in plan_stages(lengths, data.batches, epoch=epoch, cells=None)
    ]
    steps = 1 + int(np.argmin(np.abs(np.cumsum(batches) - options.tokens)))
    warmup = max(1, round(WARMUP_SHARE * steps))
    return read_config(RECIPE, [*fixed, f"run.max_steps={steps}", f"optim.warmup_steps={warmup}"])


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return for each variant its loss minus the baseline's of the same seeds, and what that is worth.

    The noise of a mean over `k` seeds is two standard errors of a difference, ``2 * sd * sqrt(2 / k)`` with
    the standard deviation over the baseline's seeds. What two runs of one seed share is not taken off.
    """
    losses: dict[str, dict[int, float]] = {}
    for row in rows:
        losses.setdefault(row["name"], {})[row["seed"]] = row["validation_loss"]
    baseline = losses.get("baseline", {})
    spread = float(np.std(list(baseline.values()), ddof=1)) if len(baseline) > 1 else None
    found: dict[str, Any] = {}
    for name, by_seed in losses.items():
        paired = {seed: loss - baseline[seed] for seed, loss in by_seed.items() if seed in baseline}
        if name == "baseline" or not paired:
            continue
        nats = float(np.mean(list(paired.values())))
        noise = None if spread is None else 2 * spread * (2 / len(paired)) ** 0.5
        small = noise is None or abs(nats) <= noise
        verdict = "no difference measured" if small else "better" if nats < 0 else "worse"
        shown = {str(seed): value for seed, value in sorted(paired.items())}
        found[name] = {
            "nats_over_baseline": nats, "by_seed": shown, "noise_nats": noise, "verdict": verdict,
        }  # fmt: skip
    ordered = dict(sorted(found.items(), key=lambda item: item[1]["nats_over_baseline"]))
    return {
        "baseline_nats": float(np.mean(list(baseline.values()))) if baseline else None,
        "baseline_sd_nats": spread, "baseline_seeds": len(baseline), "variants": ordered,
    }  # fmt: skip


if __name__ == "__main__":
    main()
