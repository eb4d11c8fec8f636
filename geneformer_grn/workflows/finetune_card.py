"""The model card of a fine-tuned model: Markdown whose every figure comes from ``results.json``."""

from __future__ import annotations

from typing import Any

from geneformer_grn.workflows.finetune_outputs import terminal_tables
from geneformer_grn.workflows.finetune_scores import FINETUNED

_HEAD = """---
library_name: transformers
tags: [single-cell, geneformer-grn, fine-tuned]
---
"""


def render_finetuned_card(results: dict[str, Any]) -> str:
    """Return the card as Markdown (Hugging Face front matter first).

    Parameters
    ----------
    results
        What `geneformer_grn.workflows.finetune.run_finetuning` writes to ``results.json``, read from there or
        not.
    """
    results = _with_nan(results)
    model, data, config = results["model"], results["data"], results["config"]
    files = ", ".join(f"`{entry['name']}` ({entry['n_cells']:,} cells)" for entry in data["files"])
    what = "unchanged" if model["encoder_before"] == model["encoder_after"] else "changed by the training"
    above = -config["model"].get("encoder_layer", 0)
    left_out = f", without its last {'layer' if above == 1 else f'{above} layers'}," if above else ""
    lines = [
        _HEAD,
        f"# {results['name']}",
        "",
        f"`{model['name']}` ({model['parameters']:,} parameters){left_out} fine-tuned, mode "
        f"`{model['mode']}`, on {files}. The encoder's weights were {what} (sha256 "
        f"{model['encoder_before'][:12]} before, {model['encoder_after'][:12]} after). "
        f"Seed {config['run']['seed']}.",
        "",
        f"Split: {data['split']}. {data['split_why']}".rstrip(),
        "",
        "## What it is worth, beside baselines that learnt from the same units",
        *_tables(results),
        "",
        "Intervals: 95 %, bootstrap; differences are paired. The best baseline is picked after the fact.",
    ]
    for name, task in results["tasks"].items():
        lines += ["", f"## {name}", "", _verdict(task, results["titles"]), *_goals(task)]
        if task["kind"] != "regression":
            lines += ["", "| class | units | precision | recall | F1 |", "|---|---|---|---|---|"]
            lines += [
                f"| {row['class']} | {row['n']:,} | "
                + " | ".join(f"{row[key]:.3f}" for key in ("precision", "recall", "f1"))
                + " |"
                for row in task["methods"][FINETUNED]["per_class"]
            ]
    lines += ["", "Not for decisions about patients: nothing here was validated beyond the table above.", ""]
    return "\n".join(lines)


def render_result_tables(results: dict[str, Any]) -> str:
    """Return the tables of results and what became of their goals as Markdown, for a page.

    Parameters
    ----------
    results
        As for `render_finetuned_card`.
    """
    results = _with_nan(results)
    goals = [line for task in results["tasks"].values() for line in _goals(task)]
    return "\n".join([*_tables(results)[1:], *([""] if goals else []), *goals])


def _tables(results: dict[str, Any]) -> list[str]:
    lines = []
    for title, heads, rows in terminal_tables(results):
        lines += ["", f"**{title}**", "", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
    return lines


def _goals(task: dict[str, Any]) -> list[str]:
    return [f"- Goal {_WORDS[goal['met']]}: {goal['text']}." for goal in task["goals"]]


def _with_nan(results: dict[str, Any]) -> dict[str, Any]:
    figures = ("methods", "against", "few_shot")
    tasks = {
        name: task | {key: _as_computed(task[key]) for key in figures}
        for name, task in results["tasks"].items()
    }
    return results | {"tasks": tasks}


_WORDS = {True: "met", False: "missed", None: "open"}


def _as_computed(figures: Any) -> Any:
    """Return figures with NaN where JSON, which has no such number, holds null."""
    if isinstance(figures, dict):
        return {key: _as_computed(value) for key, value in figures.items()}
    if isinstance(figures, list):
        return [_as_computed(value) for value in figures]
    return float("nan") if figures is None else figures


def _verdict(task: dict[str, Any], titles: dict[str, str]) -> str:
    """Return in words whether the model is ahead of the best baseline, by the interval."""
    best, measure = task["best_baseline"], task["main_measure"]
    if best is None:
        return "No baseline was run; the figures stand alone."
    ends = task["against"][best]["differences"][measure]
    word = "ahead of" if ends["low"] > 0 else "behind" if ends["high"] < 0 else "not distinguishable from"
    return (
        f"In {measure.replace('_', ' ')} the model is {word} the best baseline, {titles[best]}: "
        f"{ends['difference']:+.3f} [{ends['low']:+.3f}, {ends['high']:+.3f}]."
    )
